# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Packing: round trips over any shapes, the order of torch's own, and refusals."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parameters_to_vector

from pyro_groupprior import Layout

SHAPES = st.lists(
    st.lists(st.integers(1, 4), max_size=4).map(tuple).map(torch.Size), min_size=1, max_size=6
)


@given(shapes=SHAPES, batch=st.lists(st.integers(1, 3), max_size=2))
def test_round_trip(shapes: list[torch.Size], batch: list[int]) -> None:
    layout = Layout([(f"t{i}", shape) for i, shape in enumerate(shapes)])
    assert layout.num_weights == sum(shape.numel() for shape in shapes)
    flat = torch.randn(*batch, layout.num_weights)
    named = layout.unpack(flat)
    assert [tuple(t.shape) for t in named.values()] == [(*batch, *shape) for shape in shapes]
    for at in itertools.product(*(range(size) for size in batch)):
        assert layout.pack({name: t[at] for name, t in named.items()}).equal(flat[at])


@given(shapes=SHAPES)
def test_entries_tile_the_vector(shapes: list[torch.Size]) -> None:
    layout = Layout([(f"t{i}", shape) for i, shape in enumerate(shapes)])
    places = torch.arange(layout.num_weights)
    assert torch.cat([places[entry.slice] for entry in layout]).equal(places)
    assert len(layout) == len(shapes) and layout.names == [entry.name for entry in layout]
    for number, entry in enumerate(layout):
        assert layout[number] is layout[entry.name] is entry
        assert entry.size == entry.stop - entry.start == shapes[number].numel()
    assert layout[-1].stop == layout.num_weights


def test_order_is_that_of_torchs_parameter_vector() -> None:
    net = nn.Sequential(nn.Conv1d(2, 3, 2), nn.LSTM(3, 2))
    layout = Layout([(name, p.shape) for name, p in net.named_parameters()])
    packed = layout.pack(dict(net.named_parameters()))
    assert packed.equal(parameters_to_vector(net.parameters()))


def test_gradients_pass_both_ways() -> None:
    layout = Layout([("a", torch.Size([2, 3])), ("b", torch.Size([]))])
    flat = torch.randn(7, requires_grad=True)
    named = layout.unpack(flat)
    (named["a"].square().sum() + 3 * named["b"]).backward()
    expected = torch.cat([2 * flat.detach()[:6], torch.tensor([3.0])])
    torch.testing.assert_close(flat.grad, expected)
    assert torch.autograd.gradcheck(
        lambda a, b: layout.pack({"a": a, "b": b}).sin(),
        (torch.randn(2, 3).double().requires_grad_(), torch.randn(()).double().requires_grad_()),
    )


def test_aliases_share_the_tensor() -> None:
    layout = Layout([("a", torch.Size([2])), ("b", torch.Size([1]))], {"a": ["x.a", "y.a"]})
    assert layout.num_weights == 3 and layout.names == ["a", "b"]
    named = layout.unpack(torch.randn(3), aliases=True)
    assert set(named) == {"a", "b", "x.a", "y.a"}
    assert named["x.a"] is named["a"] is named["y.a"]
    assert set(layout.unpack(torch.randn(3))) == {"a", "b"}


def test_refusals() -> None:
    layout = Layout([("a", torch.Size([2])), ("b", torch.Size([1]))])
    with pytest.raises(KeyError, match="'b' is missing"):
        layout.pack({"a": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"tensors\['a'\]: expected shape \(2,\), got \(2, 1\)"):
        layout.pack({"a": torch.zeros(2, 1), "b": torch.zeros(1)})
    with pytest.raises(ValueError, match="expected last dimension 3, got 4"):
        layout.unpack(torch.zeros(4))
    with pytest.raises(KeyError, match="no packed tensor named 'c'"):
        layout["c"]
