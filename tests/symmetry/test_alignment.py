# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pyro_groupprior.symmetry import (
    Activations,
    Matcher,
    Permutation,
    Symmetry,
    Whole,
    align,
    blocks,
    find_symmetry,
)

X = 2 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0))


def _net(act: Callable[[], nn.Module] = nn.Tanh) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 12), act(), nn.Linear(12, 9), act(), nn.Linear(9, 1))


def _samples(net: nn.Module, symmetry: Symmetry, noise: float) -> tuple[dict[str, Tensor], list]:
    """Noisy copies of a net's weights, each rearranged at random."""
    draw = torch.Generator().manual_seed(0)
    weights = {name: value.detach() for name, value in net.named_parameters()}
    planted = [symmetry.random(draw) for _ in range(8)]
    each = []
    for permutation in planted:
        noisy = {
            name: value + noise * value.std(correction=0) * torch.randn(value.shape, generator=draw)
            for name, value in weights.items()
        }
        each.append(symmetry.apply(noisy, permutation))
    return {name: torch.stack([one[name] for one in each]) for name in weights}, planted


def _spread(samples: dict[str, Tensor]) -> float:
    return sum(float(value.var(0).sum()) for value in samples.values())


@pytest.mark.parametrize("template", ["first", "medoid", "mean"])
@pytest.mark.parametrize("by", ["weights", "likelihood", "activations", "correlation"])
def test_planted_rearrangements_are_undone(template: str, by: str) -> None:
    net = _net()
    symmetry = find_symmetry(net, X)
    samples, planted = _samples(net, symmetry, 0.05)
    how = {
        "activations": Activations(net, X),
        "correlation": Activations(net, X, standardize=True),
    }.get(by, by)
    found = align(samples, symmetry, template=template, by=how, restarts=2)
    # Up to one rearrangement of all: the template has one of its own.
    orders, signs = found.permutation.permutations, found.permutation.signs
    for axis in symmetry.axes:
        undone = torch.stack([p.permutations[axis][o] for p, o in zip(planted, orders[axis])])
        assert torch.equal(undone, undone[:1].expand_as(undone))
    for name, axis in symmetry.signs.items():
        flips = torch.stack(
            [p.signs[name][o] * s for p, o, s in zip(planted, orders[axis], signs[name])]
        )
        assert torch.equal(flips, flips[:1].expand_as(flips))
    aligned = found.apply(symmetry, samples)
    assert _spread(aligned) < 0.05 * _spread(samples)


def test_samples_alike_are_so_to_the_template_given() -> None:
    net = _net(nn.ReLU)
    symmetry = find_symmetry(net, X)
    samples, planted = _samples(net, symmetry, 0.0)
    found = align(samples, symmetry, template=dict(net.named_parameters()))
    for number, permutation in enumerate(planted):
        for axis, size in symmetry.axes.items():
            order = permutation.permutations[axis][found.permutation.permutations[axis][number]]
            assert torch.equal(order, torch.arange(size))
    squares = {name: float(value.square().sum()) for name, value in net.state_dict().items()}
    weights = sum(squares.values())
    bias = squares["4.bias"]
    torch.testing.assert_close(found.similarity, torch.full((8,), weights - bias).double())


@pytest.mark.parametrize("by", ["weights", "activations"])
def test_threads_change_nothing(by: str) -> None:
    net = _net()
    symmetry = find_symmetry(net, X)
    samples, _ = _samples(net, symmetry, 1.0)
    chosen = "weights" if by == "weights" else Activations(net, X)
    one, two = (align(samples, symmetry, by=chosen, restarts=3, n_jobs=n) for n in (1, 2))
    for axis in symmetry.axes:
        assert torch.equal(one.permutation.permutations[axis], two.permutation.permutations[axis])
    assert torch.equal(one.similarity, two.similarity)


@pytest.mark.parametrize("by", ["weights", "likelihood"])
def test_what_is_the_same_in_all_samples_is_no_hindrance(by: str) -> None:
    """Such as the scales of norm layers that have not been trained, or one large constant."""
    net = _net()
    symmetry = find_symmetry(net, X)
    samples, _ = _samples(net, symmetry, 0.3)
    more = {"scale": (Whole(12, "0"),), "large": (Whole(50),)}
    wider = Symmetry({**symmetry.tensors, **more})
    constant = {"scale": torch.ones(8, 12), "large": torch.full((8, 50), 1e4)}
    one = align(samples, symmetry, by=by)
    two = align({**samples, **constant}, wider, by=by)
    for axis in symmetry.axes:
        assert torch.equal(one.permutation.permutations[axis], two.permutation.permutations[axis])


def test_a_match_is_no_worse_than_where_it_starts() -> None:
    net = _net()
    symmetry = find_symmetry(net, X)
    samples, planted = _samples(net, symmetry, 0.5)
    reference = blocks(symmetry, dict(net.named_parameters()))
    matcher = Matcher(symmetry, reference)
    for number in range(8):
        one = {name: value[number] for name, value in samples.items()}
        back = Permutation(
            {a: order.argsort() for a, order in planted[number].permutations.items()},
            {n: sign[planted[number].permutations[symmetry.signs[n]].argsort()]
             for n, sign in planted[number].signs.items()},
        )  # fmt: skip
        moved = blocks(symmetry, symmetry.apply(one, back))
        start = sum(float((a.value * b.value).sum()) for a, b in zip(moved, reference, strict=True))
        found = matcher.match(blocks(symmetry, one), anchor=False, starts=[back])
        assert found.similarity >= start * (1 - 1e-6)


def test_the_mean_is_nearer_to_all_than_the_first() -> None:
    net = _net()
    symmetry = find_symmetry(net, X)
    samples, _ = _samples(net, symmetry, 0.7)
    spread = {
        template: _spread(align(samples, symmetry, template=template).apply(symmetry, samples))
        for template in ("first", "mean")
    }
    assert spread["mean"] < spread["first"] < _spread(samples)


def test_only_units_of_a_kind_change_places() -> None:
    net = _net(nn.ReLU)
    whole = find_symmetry(net, X)
    kinds = {"0": torch.arange(12) % 3}
    symmetry = Symmetry(whole.tensors, kinds)
    samples, _ = _samples(net, whole, 0.0)
    found = align(samples, symmetry, restarts=1)
    for order in (*found.permutation.permutations["0"], symmetry.random().permutations["0"]):
        assert torch.equal(kinds["0"][order], kinds["0"])
        assert sorted(order.tolist()) == list(range(12))


def test_bad_input() -> None:
    net = _net()
    symmetry = find_symmetry(net, X)
    samples, _ = _samples(net, symmetry, 0.0)
    with pytest.raises(ValueError, match="template: expected 'first', 'medoid', 'mean' or tensors"):
        align(samples, symmetry, template="last")
    with pytest.raises(ValueError, match="by: expected 'weights', 'likelihood' or Activations"):
        align(samples, symmetry, by="size")
    with pytest.raises(ValueError, match=r"samples\['0.bias'\]: expected finite numbers"):
        align({**samples, "0.bias": samples["0.bias"] / 0}, symmetry)
    with pytest.raises(ValueError, match=r"samples\['0.bias'\]: expected shape \(8, 12\), got"):
        align({**samples, "0.bias": samples["0.bias"][:, :4]}, symmetry)
    with pytest.raises(ValueError, match=r"expected as many of each tensor, got \[3, 8\]"):
        align({**samples, "0.bias": samples["0.bias"][:3]}, symmetry)
    with pytest.raises(ValueError, match=r"\['4.bias'\] missing"):
        align({name: value for name, value in samples.items() if name != "4.bias"}, symmetry)
    with pytest.raises(ValueError, match="restarts: expected none or more, got -1"):
        align(samples, symmetry, restarts=-1)
    with pytest.raises(ValueError, match="template: expected a name"):
        align(samples, symmetry, template=dict(net.named_parameters()), by="likelihood")
    template = {n: v[0] for n, v in samples.items()}
    with pytest.raises(ValueError, match=r"template\['0.bias'\]: expected shape \(12,\), got none"):
        align(samples, symmetry, template={n: v for n, v in template.items() if n != "0.bias"})
    other = Activations(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1)), torch.randn(2, 4))
    with pytest.raises(ValueError, match="by: expected activations of a net with the axes"):
        align(samples, symmetry, by=other)
    with pytest.raises(ValueError, match="kinds: expected a number for each position"):
        Symmetry(symmetry.tensors, {"0": torch.arange(3)})
    assert isinstance(symmetry.identity(), Permutation)
