# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Bad batches are refused with the place of the first bad number; moving keeps their shape."""

from typing import NamedTuple

import pytest
import torch

from pyro_groupprior.batch import check_batch, count_rows, move_batch, take_rows


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


BAD = torch.tensor([[0.0, 1.0], [float("nan"), float("inf")]])
GOOD = torch.zeros(2, 2)


@pytest.mark.parametrize(
    ("batch", "where"),
    [
        (BAD, "batch"),
        ((GOOD, BAD), "batch[1]"),
        ([GOOD, {"a": (GOOD, BAD)}], "batch[1]['a'][1]"),
        ({"x": BAD.double()}, "batch['x']"),
        (Pair(GOOD, BAD.half()), "batch[1]"),
    ],
)
def test_the_place_is_named(batch, where):
    with pytest.raises(ValueError) as caught:
        check_batch(batch)
    assert str(caught.value) == (
        f"{where}: expected finite numbers, got 2 NaN or inf, the first at [1, 0]"
    )


@pytest.mark.parametrize(
    "batch",
    [
        (GOOD, torch.arange(3), torch.tensor([True]), "text", None, 3.0),
        torch.empty(0),
        torch.full((1000,), 3e38),  # finite, though the sum is not
        torch.tensor([60000.0] * 10, dtype=torch.float16),
        torch.tensor(1 + 2j),
    ],
)
def test_finite_batches_pass(batch):
    check_batch(batch)


def test_opposite_infinities_do_not_cancel():
    with pytest.raises(ValueError, match=r"2 NaN or inf, the first at \[0\]"):
        check_batch(torch.tensor([float("inf"), -float("inf"), 1.0]))


def test_moving_keeps_the_shape_of_the_batch():
    batch = {"pair": Pair(GOOD, GOOD), "list": [GOOD, "text"], "tuple": (GOOD, 3)}
    moved = move_batch(batch, torch.device("meta"))
    assert type(moved["pair"]) is Pair and moved["pair"].y.device.type == "meta"
    assert type(moved["list"]) is list and moved["list"][1] == "text"
    assert type(moved["tuple"]) is tuple and moved["tuple"][0].device.type == "meta"


def test_rows_of_nested_tensors():
    x, y = torch.arange(6.0).reshape(3, 2), torch.arange(3)
    rows = torch.tensor([2, 0, 2])
    found = take_rows(({"x": x}, [y], Pair(y, None)), rows)
    assert torch.equal(found[0]["x"], x[rows]) and torch.equal(found[1][0], y[rows])
    assert isinstance(found[2], Pair) and torch.equal(found[2].x, y[rows])
    assert found[2].y is None


def test_rows_are_counted_and_have_to_agree():
    x = torch.zeros(3, 2)
    assert count_rows(({"x": x}, [x[:, 0]], None, torch.tensor(1.0))) == 3
    with pytest.raises(ValueError, match=r"args: expected .* as many rows each, got \[2, 3\] rows"):
        count_rows((x, x[:2]), "args")
    with pytest.raises(ValueError, match=r"got \[\] rows"):
        count_rows((None,))
