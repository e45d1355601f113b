# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from pyro_groupprior.symmetry import (
    Activations,
    Symmetry,
    find_symmetry,
    matching_null,
    num_transpositions,
    random_transpositions,
    transpositions_along,
    transpositions_between,
)

from .nets import NETS


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 2))


def test_noise_aligned_by_hand() -> None:
    """One layer: a linear assignment of rows, by scipy."""
    net = _net()
    template = net.state_dict()
    symmetry = find_symmetry(net, torch.randn(2, 6))
    null = matching_null(template, symmetry, num_samples=200)
    rows = torch.cat([template["0.weight"], template["0.bias"][:, None], template["2.weight"].T], 1)
    parts = ("0.weight", "0.bias", "2.weight")
    means = {name: float(template[name].mean()) for name in parts}
    sds = {name: float(template[name].std(correction=0)) for name in parts}
    widths = {"0.weight": 6, "0.bias": 1, "2.weight": 2}
    mean = torch.cat([torch.full((widths[n],), means[n]) for n in parts])
    sd = torch.cat([torch.full((widths[n],), sds[n]) for n in parts])
    total, counts = torch.zeros_like(rows), []
    for _ in range(200):
        noise = mean + sd * torch.randn(30, 9)
        order = torch.as_tensor(linear_sum_assignment((rows @ noise.T).numpy(), maximize=True)[1])
        total += noise[order] / 200
        counts.append(float(num_transpositions(order)))
    slope = float((total * (rows - mean)).sum() / (rows - mean).square().sum())
    assert null.slope == pytest.approx(slope, abs=0.02)
    assert null.slope > 0.3
    expected, deviation = random_transpositions(30)
    assert null.transpositions["0"] == pytest.approx(expected, abs=0.5)
    assert null.random["0"] == (expected, deviation)
    assert sum(counts) / 200 == pytest.approx(expected, abs=5 * deviation / 200**0.5)


def test_noise_for_norm_layers_and_tied_weights() -> None:
    norm = nn.Sequential(nn.Linear(6, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 2)).eval()
    norm[1].running_var.uniform_(0.5, 2.0)
    x = torch.randn(5, 6)
    by = Activations(norm, x)
    null = matching_null(norm.state_dict(), find_symmetry(norm, x), by=by)
    assert 0 < null.slope < 1
    make, tokens, _, _ = NETS["tied"]
    net = make()
    symmetry = find_symmetry(net, tokens)
    assert len(symmetry.tied) == 1
    template = dict(net.named_parameters(remove_duplicate=False))
    (name, first), *_ = symmetry.tied.items()
    both = matching_null(template, symmetry, num_samples=100)
    # Weights under two names count once: as where the second is not there.
    alone = Symmetry({k: v for k, v in symmetry.tensors.items() if k != name})
    one = matching_null(template, alone, num_samples=100)
    assert both.slope == pytest.approx(one.slope, rel=1e-6)
    assert name != first


def test_nothing_to_align() -> None:
    net = _net()
    symmetry = find_symmetry(net, torch.randn(2, 6))
    with pytest.raises(ValueError, match="symmetry: expected one with an axis"):
        matching_null(net.state_dict(), Symmetry({}))
    constant = {name: torch.zeros_like(value) for name, value in net.state_dict().items()}
    with pytest.raises(ValueError, match="template: expected tensors of which entries differ"):
        matching_null(constant, symmetry)


def test_swaps_along_a_chain() -> None:
    net = _net()
    symmetry = find_symmetry(net, torch.randn(2, 6))
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    chain, planted = [weights], []
    generator = torch.Generator().manual_seed(0)
    for number in range(4):
        permutation = symmetry.random(generator) if number % 2 else symmetry.identity()
        planted.append(int(num_transpositions(permutation.permutations["0"])))
        moved = symmetry.apply(chain[-1], permutation)
        chain.append(
            {name: value + 1e-3 * torch.randn(value.shape) for name, value in moved.items()}
        )
    samples = {name: torch.stack([one[name] for one in chain]) for name in weights}
    assert transpositions_along(samples, symmetry)["0"].tolist() == planted
    shuffled = transpositions_along(samples, symmetry, shuffle=True)["0"].tolist()
    assert shuffled[0] == shuffled[2] == 0  # small changes, in whatever order, swap nothing
    assert min(shuffled[1], shuffled[3]) > 5  # large ones do though nothing was swapped
    with pytest.raises(ValueError, match="lag: expected 1 to 4, got 5"):
        transpositions_along(samples, symmetry, lag=5)


def test_swaps_between_arrangements() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.stack([torch.randperm(9, generator=generator) for _ in range(20)])
    second = torch.stack([torch.randperm(9, generator=generator) for _ in range(20)])
    found = transpositions_between(first, second)
    for one, other, count in zip(first, second, found, strict=True):
        place = {int(unit): i for i, unit in enumerate(one)}
        relative = torch.tensor([place[int(unit)] for unit in other])
        assert int(num_transpositions(relative)) == int(count)
    assert torch.equal(transpositions_between(first, first), torch.zeros(20).long())
    assert torch.equal(transpositions_between(torch.arange(9), second), num_transpositions(second))
