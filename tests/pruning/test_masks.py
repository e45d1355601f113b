# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

import copy

import pyro
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior.nn import evaluation_mode
from pyro_groupprior.pruning import (
    keep_mask,
    prune_draws,
    prune_model,
    prune_net,
    shrink,
)
from pyro_groupprior.symmetry import find_symmetry
from tests.symmetry.nets import NETS


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
    with pytest.raises(ValueError, match=r"scores: expected shape \[W\], got \(3, 1\)"):
        keep_mask(torch.ones(3, 1), 0.5)
    with pytest.raises(ValueError, match="within: expected a hard assignment of 3 weights"):
        keep_mask(torch.ones(3), 0.5, pgp.Assignment(torch.zeros(2).long()))
    model = _model()
    with pytest.raises(TypeError, match=r"mask: expected booleans, got torch.float32"):
        prune_draws(model, {"weights": torch.ones(2, 13)}, torch.ones(13))
    with pytest.raises(ValueError, match=r"mask: expected shape \[13\], got \[3\]"):
        prune_net(model.net, model.layout, torch.ones(3).bool())
    with pytest.raises(TypeError, match="draws: expected tensors by site, got AutoMeanField"):
        prune_draws(model, pgp.AutoMeanField(model), torch.ones(13).bool())


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


def test_draws_of_several_chains_and_of_models_that_are_not_centered() -> None:
    model, x = _model(), torch.randn(5, 2)
    mask = torch.arange(13) % 3 > 0
    draws = {"weights": torch.randn(2, 4, 13), "noise": torch.ones(2, 4)}
    assert torch.equal(prune_draws(model, draws, mask)["weights"], draws["weights"] * mask)
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    model = pgp.BayesianModule(net, pgp.likelihoods.Normal(), loc=0.0, scale=2.0, centered=False)
    draws = {"weights_decentered": torch.randn(4, 13), "noise": torch.ones(4)}
    pruned = prune_draws(model, draws, mask)
    weights = 2 * model.base_scale * draws["weights_decentered"] * mask
    torch.testing.assert_close(pruned["weights"], weights)
    expected = torch.stack([model.call_net(draw, x) for draw in weights])
    torch.testing.assert_close(pgp.predict(model, pruned, x).outputs, expected)


@pytest.mark.parametrize("name", ["mlp", "tied", "transformer", "gru", "grouped"])
def test_pruned_nets_stay_so_while_they_learn(name: str) -> None:
    make, x, _, _ = NETS[name]
    model = pgp.BayesianModule(make())
    size = model.layout.num_weights
    mask = torch.rand(size, generator=torch.Generator().manual_seed(0)) < 0.6
    plain = make()
    net = prune_net(plain, model.layout, mask)
    weights = model.layout.pack(dict(plain.named_parameters()))
    before = net.eval()(x).detach()
    with evaluation_mode(model):
        torch.testing.assert_close(before, model.call_net(weights * mask, x))
    net = copy.deepcopy(net).train()
    _train(net, x)
    assert not torch.allclose(net.eval()(x), before)
    assert torch.equal(model.layout.pack(dict(net.named_parameters())) != 0, mask)
    again = torch.arange(size) % 7 > 0
    net = prune_net(net, model.layout, again).train()
    _train(net, x)
    assert torch.equal(model.layout.pack(dict(net.named_parameters())) != 0, mask & again)
    assert list(net.state_dict()) == list(plain.state_dict())


def _train(net: nn.Module, x: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


def test_pruned_models_read_no_more_than_they_should() -> None:
    model, x = _model(), torch.randn(50, 2)
    y = torch.randn(50, 1)
    mask = torch.arange(13) % 3 > 0
    pruned = prune_model(model, mask)
    assert model.mask is None
    weights = torch.randn(13)
    torch.testing.assert_close(pruned.call_net(weights, x), model.call_net(weights * mask, x))
    values = {"weights": weights, "noise": torch.tensor(0.5)}
    masked = {**values, "weights": weights * mask}
    of_rows = []
    for net, latents in ((pruned, values), (model, masked)):
        conditioned = pyro.poutine.condition(net, latents)
        trace = pyro.poutine.trace(conditioned).get_trace(x, y)
        trace.compute_log_prob()
        of_rows.append(trace.nodes["obs"]["log_prob"])
    torch.testing.assert_close(*of_rows)
    guide = pgp.AutoMeanField(pruned, local_reparam=True)
    guide.setup(x, y)
    pgp.MeanFieldELBO().differentiable_loss(pruned, guide, x, y).backward()
    assert all(bool(p.grad.isfinite().all()) for p in guide.parameters())
    state = pruned.state_dict()
    assert torch.equal(state["mask"], mask)


def _halves() -> tuple[nn.Module, pgp.Layout, torch.Tensor]:
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    layout = pgp.BayesianModule(net, pgp.likelihoods.Normal()).layout
    return net, layout, torch.arange(layout.num_weights) % 2 > 0


def _zeros(net: nn.Module, layout: pgp.Layout, mask: torch.Tensor) -> bool:
    weights = layout.pack(dict(net.named_parameters()))
    return not bool(weights[~mask].any())


def test_pruned_nets_can_be_shrunk() -> None:
    net, layout, mask = _halves()
    x = torch.randn(5, 2)
    pruned = prune_net(net, layout, mask)
    kept = {"0": torch.tensor([0, 3])}
    small = shrink(pruned, find_symmetry(pruned, x), kept, x)
    numbers = layout.unpack(mask)
    for _ in range(3):
        _train(small, x)
    assert torch.equal(small[0].weight != 0, numbers["0.weight"][kept["0"]])
    assert torch.equal(small[2].weight != 0, numbers["2.weight"][:, kept["0"]])


def test_pruned_weights_do_not_come_back() -> None:
    net, layout, mask = _halves()
    x = torch.randn(5, 2)
    net.requires_grad_(False)
    pruned = prune_net(net, layout, mask).requires_grad_(True)
    for _ in range(3):
        _train(pruned, x)
    assert _zeros(pruned, layout, mask)
    pruned.load_state_dict(net.state_dict())
    pruned(x)
    assert _zeros(pruned, layout, mask)
    again = copy.deepcopy(pruned)
    again.load_state_dict(net.state_dict())
    again(x)
    assert _zeros(again, layout, mask)


def test_weights_of_others_are_left_alone() -> None:
    net, layout, mask = _halves()
    pruned = prune_net(net, layout, mask)
    weights = {name: value.clone() for name, value in net.named_parameters()}
    torch.func.functional_call(pruned, dict(net.named_parameters()), torch.randn(5, 2))
    for name, value in net.named_parameters():
        assert torch.equal(value, weights[name])
