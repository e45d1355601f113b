# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pyro_groupprior.symmetry import Activations, Symmetry, align, find_symmetry
from pyro_groupprior.symmetry.spec import Permutation

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


def test_processes_change_nothing() -> None:
    net = _net()
    symmetry = find_symmetry(net, X)
    samples, _ = _samples(net, symmetry, 1.0)
    one, two = (align(samples, symmetry, restarts=3, n_jobs=n) for n in (1, 2))
    for axis in symmetry.axes:
        assert torch.equal(one.permutation.permutations[axis], two.permutation.permutations[axis])
    assert torch.equal(one.similarity, two.similarity)


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
    with pytest.raises(ValueError, match="kinds: expected a number for each position"):
        Symmetry(symmetry.tensors, {"0": torch.arange(3)})
    assert isinstance(symmetry.identity(), Permutation)
