# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

import itertools

import pytest
import torch
from torch import Tensor, nn

from pyro_groupprior.symmetry import Permutation, find_symmetry
from pyro_groupprior.symmetry.blocks import blocks
from pyro_groupprior.symmetry.matching import Matcher

from .nets import NETS

Tensors = dict[str, Tensor]


def _normal(net: nn.Module, seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    named = net.named_parameters(remove_duplicate=False)
    drawn: dict[int, Tensor] = {}
    return {
        name: drawn.setdefault(id(value), torch.randn(value.shape, generator=generator))
        for name, value in named
    }


def _inner(first: Tensors, second: Tensors) -> float:
    return sum(float((first[name] * second[name]).sum()) for name in first)


@pytest.mark.parametrize("name", NETS)
def test_what_was_rearranged_is_found(name: str) -> None:
    make, x, _, _ = NETS[name]
    net = make()
    symmetry = find_symmetry(net, x)
    reference = _normal(net, 0)
    matcher = Matcher(symmetry, blocks(symmetry, reference))
    for seed in range(3):
        planted = symmetry.random(torch.Generator().manual_seed(seed))
        moved = symmetry.apply(reference, planted)
        found = matcher.match(
            blocks(symmetry, moved), restarts=10, generator=torch.Generator().manual_seed(0)
        )
        back = symmetry.apply(moved, found.permutation)
        assert all(torch.equal(back[key], reference[key]) for key in reference)


@pytest.mark.parametrize("seed", range(5))
def test_as_good_as_the_best_of_all(seed: int) -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    symmetry = find_symmetry(net, torch.randn(1, 2))
    reference, sample = _normal(net, seed), _normal(net, seed + 100)
    found = Matcher(symmetry, blocks(symmetry, reference)).match(
        blocks(symmetry, sample), restarts=30
    )
    best = max(
        _inner(
            reference,
            symmetry.apply(
                sample,
                Permutation(
                    {"0": torch.tensor(first), "2": torch.tensor(second)},
                    {"2": torch.tensor(signs)},
                ),
            ),
        )
        for first in itertools.permutations(range(4))
        for second in itertools.permutations(range(3))
        for signs in itertools.product([1, -1], repeat=3)
    )
    aligned = symmetry.apply(sample, found.permutation)
    assert _inner(reference, aligned) == pytest.approx(best, rel=1e-5)
    fixed = float((reference["4.bias"] * sample["4.bias"]).sum())
    assert found.similarity + fixed == pytest.approx(best, rel=1e-5)


def test_gaussian_likelihood_is_what_is_maximised() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    symmetry = find_symmetry(net, torch.randn(1, 2))
    mean, sample = _normal(net, 0), _normal(net, 1)
    variance = {name: value.square() + 0.1 for name, value in _normal(net, 2).items()}
    linear = {name: mean[name] / variance[name] for name in mean}
    quadratic = {name: -0.5 / variance[name] for name in mean}
    matcher = Matcher(symmetry, blocks(symmetry, linear), blocks(symmetry, quadratic))
    found = symmetry.apply(sample, matcher.match(blocks(symmetry, sample)).permutation)

    def log_density(tensors: Tensors) -> float:
        return sum(
            float(torch.distributions.Normal(mean[n], variance[n].sqrt()).log_prob(v).sum())
            for n, v in tensors.items()
        )

    every = (
        symmetry.apply(sample, Permutation({"0": torch.tensor(order)}, {}))
        for order in itertools.permutations(range(4))
    )
    assert log_density(found) == pytest.approx(max(map(log_density, every)), rel=1e-5)


def test_nothing_to_permute() -> None:
    net = nn.Linear(2, 1)
    symmetry = find_symmetry(net, torch.randn(1, 2))
    assert not symmetry.axes
    assert not symmetry.signs
