# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Optimizers whose state follows parameters, against the state they would have had anyway."""

from functools import partial

import pyro.optim
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pyro_groupprior.guides import ParameterMove
from pyro_groupprior.svi.optimizer import make_optimizer, move_state

FACTORIES = {
    "adam": partial(torch.optim.Adam, lr=0.1),
    "amsgrad": partial(torch.optim.Adam, lr=0.1, amsgrad=True),
    "adamw": partial(torch.optim.AdamW, lr=0.1),
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.1, momentum=0.5, centered=True),
    "adagrad": partial(torch.optim.Adagrad, lr=0.1),
    "clipped": pyro.optim.ClippedAdam({"lr": 0.1}),
    "pyro": pyro.optim.Adam({"lr": 0.1}),
}


def train(optimizer, parameter, target, steps):
    """Elementwise, so that every row's path is its own."""
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * (parameter - target).square() + parameter.cos()).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("width", [(), (3,)], ids=["vector", "matrix"])
@pytest.mark.parametrize("factory", FACTORIES)
@settings(max_examples=8)
@given(order=st.lists(st.integers(0, 4), min_size=1, max_size=9), same=st.booleans())
def test_rows_go_on_as_if_they_had_always_been_there(factory, width, order, same):
    """Moved between two halves of a training: the same as training rows that never moved."""
    order = list(range(5))[::-1] if same else order
    rows, start = torch.tensor(order), torch.randn(5, *width)
    target = torch.randn(5, *width)
    old, bystander = nn.Parameter(start.clone()), nn.Parameter(torch.zeros(2))
    optimizer = make_optimizer(FACTORIES[factory], [old, bystander])
    train(optimizer, old, target, 3)
    moved = old if same else nn.Parameter(old.detach()[rows].clone())
    if same:
        with torch.no_grad():
            moved.copy_(old.clone()[rows])
    move_state(optimizer, [ParameterMove(old, moved, rows)])
    held = optimizer.param_groups[0]["params"]
    assert len(held) == 2 and held[0] is moved and held[1] is bystander
    train(optimizer, moved, target[rows], 3)

    straight = nn.Parameter(start[rows].clone())
    optimizer = make_optimizer(FACTORIES[factory], [straight])
    train(optimizer, straight, target[rows], 6)
    torch.testing.assert_close(moved, straight, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("factory", ["adam", "momentum", "clipped"])
def test_fresh_rows_start_at_rest(factory):
    old = nn.Parameter(torch.randn(3, 2))
    optimizer = make_optimizer(FACTORIES[factory], [old])
    train(optimizer, old, torch.zeros(3, 2), 2)
    before = dict(optimizer.state[old])
    new = nn.Parameter(torch.zeros(4, 2))
    move_state(optimizer, [ParameterMove(old, new, torch.tensor([2, -1, 0, -1]))])
    assert old not in optimizer.state
    for key, value in optimizer.state[new].items():
        if torch.is_tensor(value) and value.dim():
            assert torch.equal(value[[0, 2]], before[key][[2, 0]]) and not value[[1, 3]].any()
        else:
            assert value == before[key]


def test_parameters_that_change_their_width_start_at_rest():
    old, new = nn.Parameter(torch.randn(3, 3)), nn.Parameter(torch.randn(5, 5))
    optimizer = make_optimizer(FACTORIES["adam"], [old])
    train(optimizer, old, torch.zeros(3, 3), 2)
    move_state(optimizer, [ParameterMove(old, new, torch.full((5,), -1))])
    assert optimizer.state[new]["exp_avg"].shape == (5, 5)
    assert not optimizer.state[new]["exp_avg"].any()
    train(optimizer, new, torch.zeros(5, 5), 1)
    assert new.isfinite().all()


def test_before_the_first_step_there_is_nothing_to_move():
    old, new = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))
    optimizer = make_optimizer(FACTORIES["adam"], [old])
    move_state(optimizer, [ParameterMove(old, new, torch.tensor([0, 1, -1]))])
    assert optimizer.param_groups[0]["params"] == [new] and not optimizer.state


def test_groups_of_options_stay():
    """A factory may give parameters different options; the successor keeps its own."""
    one, two = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))

    def factory(parameters):
        first, second = parameters
        return torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.7}])

    optimizer = make_optimizer(factory, [one, two])
    new = nn.Parameter(torch.zeros(3))
    move_state(optimizer, [ParameterMove(two, new, torch.tensor([0, 1, -1]))])
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.7]
    assert optimizer.param_groups[1]["params"][0] is new


@pytest.mark.parametrize(
    ("optim", "match"),
    [
        (3, "expected a factory"),
        (torch.optim.SGD([torch.zeros(1)], lr=0.1), "expected a factory .* got SGD"),
        (lambda parameters: "no optimizer", "it made str"),
        (pyro.optim.Adam(lambda name: {"lr": 0.1}), "give pyro.optim a dictionary"),
    ],
)
def test_what_is_no_factory(optim, match):
    with pytest.raises(TypeError, match=match):
        make_optimizer(optim, [nn.Parameter(torch.zeros(1))])
