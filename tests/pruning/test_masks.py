# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

import pyro_groupprior as pgp
from pyro_groupprior.pruning import keep_mask, prune_draws, prune_net


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1), st.floats(0, 1))
def test_the_highest_of_each_group_stay(pairs: list[tuple[int, int]], share: float) -> None:
    scores = torch.tensor([float(score) for score, _ in pairs])
    groups = torch.tensor([group for _, group in pairs])
    mask = keep_mask(scores, share, pgp.Assignment(groups, 4))
    for group in range(4):
        inside = groups == group
        kept, left = scores[inside & mask], scores[inside & ~mask]
        assert len(kept) == round(share * int(inside.sum()))
        if len(kept) and len(left):
            assert kept.min() >= left.max()
    assert int(keep_mask(scores, share).sum()) == round(share * len(pairs))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="share: expected a number between 0 and 1, got 2"):
        keep_mask(torch.ones(3), 2)
    with pytest.raises(ValueError, match="scores: expected numbers, got 1 NaN"):
        keep_mask(torch.tensor([1.0, torch.nan]), 0.5)


def _model() -> pgp.BayesianModule:
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    return pgp.BayesianModule(net, pgp.likelihoods.Normal())


def test_predictions_of_pruned_draws() -> None:
    model, x = _model(), torch.randn(5, 2)
    mask = torch.arange(13) % 3 > 0
    draws = {"weights": torch.randn(4, 13), "noise": torch.ones(4)}
    pruned = prune_draws(model, draws, mask)
    assert pruned["noise"] is draws["noise"]
    expected = [model.call_net(draw * mask, x) for draw in draws["weights"]]
    torch.testing.assert_close(pgp.predict(model, pruned, x).outputs, torch.stack(expected))


def test_pruned_nets_stay_so_while_they_learn() -> None:
    model, x, y = _model(), torch.randn(20, 2), torch.randn(20, 1)
    mask = torch.arange(13) % 3 > 0
    net = prune_net(model.net, model.layout, mask)
    for parameter in net.parameters():
        parameter.requires_grad_()
    before = net(x).detach()
    torch.testing.assert_close(before, model.call_net(model.initial_weights() * mask, x))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()
    assert not torch.allclose(net(x), before)
    for name in model.layout.names:
        path, _, own = name.rpartition(".")
        prune.remove(net.get_submodule(path), own)
    weights = model.layout.pack(dict(net.named_parameters()))
    assert torch.equal(weights != 0, mask)
