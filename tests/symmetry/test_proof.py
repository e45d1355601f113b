# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Proofs that have to fail, and nets of which they are hard to make."""

import pytest
import torch
from torch import Tensor, nn

from pyro_groupprior.symmetry import Symmetry, Whole, find_symmetry, prove

X = torch.randn(3, 4)


def _net(units: int, act: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, units), act or nn.ReLU(), nn.Linear(units, 1))


def _symmetry(units: int, sign: str | None = None, last: bool = True) -> Symmetry:
    hidden = Whole(units, "hidden", sign)
    rows = {"0.weight": (hidden, Whole(4)), "0.bias": (hidden,)}
    return Symmetry({**rows, "2.weight": (Whole(1), hidden)} if last else rows)


@pytest.mark.parametrize("units", [2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_few_units_are_no_way_out(units: int, seed: int) -> None:
    prove(_net(units), _symmetry(units), X, seed=seed)
    with pytest.raises(ValueError, match="something else after permuting 'hidden'"):
        prove(_net(units), _symmetry(units, last=False), X, seed=seed)
    prove(_net(units, nn.Tanh()), _symmetry(units, "hidden"), X, seed=seed)
    with pytest.raises(ValueError, match="something else after flipping 'hidden'"):
        prove(_net(units), _symmetry(units, "hidden"), X, seed=seed)


def test_axes_that_belong_together_are_told_from_two() -> None:
    net = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 1))
    one, two = Whole(2, "one"), Whole(2, "two")
    wrong = {"0.weight": (one, Whole(4)), "0.bias": (one,), "2.weight": (Whole(1), two)}
    with pytest.raises(ValueError, match="something else after permuting 'one'"):
        prove(net, Symmetry(wrong), X)


def test_inputs_and_outputs_of_zero_hide_nothing() -> None:
    net = _net(5)
    with pytest.raises(ValueError, match="something else"):
        prove(net, Symmetry({"0.weight": (Whole(5, "a"), Whole(4))}), torch.zeros(3, 4))
    nn.init.zeros_(net[2].bias)
    one, two = Whole(5, "one"), Whole(5, "two")
    wrong = {"0.weight": (one, Whole(4)), "0.bias": (one,), "2.weight": (Whole(1), two)}
    for factor in (1e-10, 0.0):
        nn.init.constant_(net[2].weight, factor)
        with pytest.raises(ValueError, match="something else"):
            prove(net, Symmetry(wrong), X)


def test_a_large_constant_hides_nothing() -> None:
    net = _net(5)
    nn.init.constant_(net[2].bias, 1e7)
    with pytest.raises(ValueError, match="something else"):
        prove(net, _symmetry(5, last=False), X)


def test_tensors_have_to_be_the_nets() -> None:
    with pytest.raises(ValueError, match=r"expected tensors of the net, .*, got \['0.weigth'\]"):
        prove(_net(5), Symmetry({"0.weigth": (Whole(5, "a"), Whole(4))}), X)


class _Made(nn.Module):
    """A net that makes a tensor of its own, or wants single precision."""

    def __init__(self, single: bool) -> None:
        super().__init__()
        self.cell, self.last, self.single = nn.GRUCell(4, 6), nn.Linear(6, 1), single

    def forward(self, x: Tensor) -> Tensor:
        x = x.float() if self.single else x
        return self.last(self.cell(x, torch.zeros(len(x), 6)))


@pytest.mark.parametrize("single", [False, True])
def test_nets_that_make_tensors(single: bool) -> None:
    net = _Made(single)
    # The units, and the columns of the weights that read the first state, which is zero.
    assert sorted(find_symmetry(net, X).axes.values()) == [6, 6]
    with pytest.raises(ValueError, match="something else"):
        prove(net, Symmetry({"last.weight": (Whole(1), Whole(6, "a"))}), X)
    assert torch.get_default_dtype() == torch.float32


def test_outputs_that_are_no_numbers() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1))
    nn.init.constant_(net[0].bias, torch.nan)
    with pytest.raises(ValueError, match="net: its output is NaN or infinite"):
        prove(net, _symmetry(5), X)


def test_nets_that_cannot_be_copied() -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        first = torch.nn.utils.weight_norm(nn.Linear(4, 5))
    net = nn.Sequential(first, nn.ReLU(), nn.Linear(5, 1))
    net(X)
    with pytest.raises(ValueError, match=r"net: Sequential cannot be copied.*parametrizations"):
        prove(net, Symmetry({}), X)
