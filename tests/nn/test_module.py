# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A net as a Pyro model: its density, tied weights, batch statistics, draws side by side."""

import copy
import functools
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor, nn

from pyro_groupprior import (
    AutoMeanField,
    BayesianModule,
    PhasedSVI,
    init_to_weights,
    likelihoods,
    predict,
)

from .nets import Shared, Tied, TwoInputs


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def batch_norm_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def test_joint_density_is_that_of_the_model_written_by_hand() -> None:
    net, x, y = mlp(), torch.randn(6, 3), torch.randn(6, 2)
    model = BayesianModule(net, likelihoods.Normal(), num_data=18, grouping="column")
    group = model.assignment.index.long()

    def by_hand(x: Tensor, y: Tensor) -> None:
        with pyro.plate("weights_groups", 9):
            loc = pyro.sample("weights_loc", dist.Normal(0.0, 1.0))
            scale = pyro.sample("weights_scale", dist.LogNormal(0.0, 1.0))
        base = torch.cat([torch.full((16,), 3**-0.5), torch.full((10,), 4**-0.5)])
        w = pyro.sample("weights", dist.Normal(base * loc[group], base * scale[group]).to_event(1))
        hidden = torch.tanh(x @ w[:12].reshape(4, 3).T + w[12:16])
        mean = hidden @ w[16:24].reshape(2, 4).T + w[24:]
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 1.0))
        with pyro.plate("data", 6), poutine.scale(scale=3.0):
            pyro.sample("obs", dist.Normal(mean, noise).to_event(1), obs=y)

    for _ in range(5):
        trace = poutine.trace(by_hand).get_trace(x, y)
        replayed = poutine.trace(poutine.replay(model, trace=trace)).get_trace(x, y)
        theirs, ours = trace.log_prob_sum(), replayed.log_prob_sum()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-3)


def test_tied_weights_are_one_weight_with_two_uses() -> None:
    model = BayesianModule(Tied())
    assert [(e.name, e.aliases) for e in model.layout if e.aliases] == [
        ("embed.weight", ("out.weight",))
    ]
    assert model.layout.num_weights == 6 * 4 + 4 * 4 + 4
    tokens = torch.tensor([[1, 2], [5, 0]])
    weights = model.layout.pack(
        {"embed.weight": torch.randn(6, 4), "mix.weight": torch.eye(4), "mix.bias": torch.zeros(4)}
    )
    table = weights[:24].reshape(6, 4)
    expected = torch.tanh(table[tokens]) @ table.T
    torch.testing.assert_close(model.call_net(weights, tokens), expected)


def test_a_shared_module_is_one_set_of_weights() -> None:
    model = BayesianModule(Shared())
    assert model.layout.num_weights == 2 * (3 * 3 + 3)
    own = model.net.first.weight
    model.call_net(model.initial_weights() + 1.0, torch.randn(2, 3))
    assert model.net.first.weight is own and isinstance(own, nn.Parameter)
    assert model.net.blocks[0].weight is own


@pytest.mark.parametrize("as_dict", [False, True])
def test_several_inputs(as_dict: bool) -> None:
    class Sum(TwoInputs):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(a, b)["sum"]

    a, b, y = torch.randn(5, 2), torch.randn(5, 4), torch.randn(5, 3)
    inputs: Any = {"b": b, "a": a} if as_dict else (a, b)
    model = BayesianModule(Sum(), likelihoods.Normal())
    trace = poutine.trace(model).get_trace(inputs, y)
    named = model.layout.unpack(trace.nodes["weights"]["value"])
    expected = a @ named["left.weight"].T + named["left.bias"]
    expected = expected + b @ named["right.weight"].T + named["right.bias"]
    torch.testing.assert_close(trace.nodes["obs"]["fn"].base_dist.mean, expected)
    svi = PhasedSVI(model, AutoMeanField(model), functools.partial(torch.optim.Adam, lr=0.01))
    svi.step(inputs, y)
    assert predict(model, svi.guide, inputs, num_draws=3).mean.shape == (5, 3)


def test_batch_statistics_move_in_training_steps_only() -> None:
    net, x, y = batch_norm_net(), torch.randn(16, 3), torch.randn(16, 1)
    model = BayesianModule(net, likelihoods.Normal())
    norm = model.net[1]
    guide = AutoMeanField(model, init_scale=1e-7)
    guide.setup(x, y)
    svi = PhasedSVI(model, guide, functools.partial(torch.optim.SGD, lr=1e-9))
    svi.setup(x, y)
    predict(model, guide, x, num_draws=5)
    assert int(norm.num_batches_tracked) == 0 and not norm.running_mean.any()
    svi.step(x, y)
    assert int(norm.num_batches_tracked) == 1
    hidden = net[0](x).detach()
    torch.testing.assert_close(norm.running_mean, 0.1 * hidden.mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * hidden.var(0))
    # Evaluation goes by them.
    weights = model.initial_weights()
    output = predict(model, {"weights": weights[None], "noise": torch.ones(1)}, x).mean
    z = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(output, net[2](z).detach(), rtol=1e-4, atol=1e-5)
    assert int(net[1].num_batches_tracked) == 0


@pytest.mark.parametrize("guide", ["mean_field", "auto_normal"])
def test_setup_leaves_batch_statistics_alone(guide: str) -> None:
    x, y = torch.randn(16, 3), torch.randn(16, 1)
    model = BayesianModule(batch_norm_net(), likelihoods.Normal())
    auto = functools.partial(pyro.infer.autoguide.AutoNormal, init_loc_fn=init_to_weights)
    make = AutoMeanField if guide == "mean_field" else auto
    svi = PhasedSVI(model, make(model), functools.partial(torch.optim.Adam, lr=0.01))
    svi.setup(x, y)
    assert int(model.net[1].num_batches_tracked) == 0
    svi.step(x, y)
    assert int(model.net[1].num_batches_tracked) == 1


@pytest.mark.parametrize("make", [mlp, batch_norm_net])
def test_draws_side_by_side_have_the_density_of_each(make: Any) -> None:
    """Outer plates, as under vectorised particles."""
    net = make()
    x = torch.randn(6, 3)
    y = torch.randn(6, net[-1].out_features)
    model = BayesianModule(net, likelihoods.Normal(), grouping="row")
    with pyro.plate("particles", 4, dim=-2), poutine.trace() as together:
        model(x, y)
    nodes = together.trace.nodes
    together.trace.compute_log_prob()
    assert nodes["weights"]["value"].shape == (4, 1, model.layout.num_weights)
    for draw in range(4):
        data = {
            name: nodes[name]["value"][draw].squeeze(0)
            for name in ("weights", "weights_loc", "weights_scale", "noise")
        }
        alone = poutine.trace(poutine.condition(model, data=data)).get_trace(x, y)
        alone.compute_log_prob()
        for site in ("weights", "obs"):
            torch.testing.assert_close(
                nodes[site]["log_prob"][draw].sum(),
                alone.nodes[site]["log_prob"].sum(),
                rtol=1e-4,
                atol=1e-4,
            )


def test_without_a_likelihood_it_serves_a_model_of_ones_own() -> None:
    net = BayesianModule(nn.Linear(2, 1), name="w")

    def model(x: Tensor, y: Tensor) -> None:
        rate = nn.functional.softplus(net(x)).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Exponential(rate), obs=y)

    x, y = torch.randn(5, 2), torch.rand(5)
    trace = poutine.trace(model).get_trace(x, y)
    assert {"w_loc", "w_scale", "w", "y"} <= set(trace.nodes)
    w = trace.nodes["w"]["value"]
    rate = nn.functional.softplus(x @ w[:2] + w[2])
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["y"]["log_prob"], rate.log() - rate * y)


def test_a_copy_and_a_loaded_state_are_independent() -> None:
    model, x = BayesianModule(mlp(), grouping="row"), torch.randn(5, 3)
    twin = copy.deepcopy(model)
    other = BayesianModule(mlp(), grouping="column")
    other.load_state_dict(model.state_dict())
    assert other.assignment == model.assignment == twin.assignment
    weights = model.initial_weights()
    assert other.initial_weights().equal(weights) and twin.initial_weights().equal(weights)
    with torch.no_grad():
        twin.net[0].weight.zero_()
    assert twin.initial_weights()[:12].eq(0).all() and model.initial_weights().equal(weights)
    assert model.to(torch.float64).call_net(weights.double(), x.double()).dtype == torch.float64


class Listing(nn.Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(x), x


class Total(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sum()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: BayesianModule(torch.tanh), TypeError, "torch.nn.Module"),
        (lambda: BayesianModule(mlp(), "normal"), TypeError, "a Likelihood .*got str"),
        (lambda: BayesianModule(mlp(), likelihoods.Normal), TypeError, "got type"),
        (lambda: BayesianModule(mlp(), num_data=0), ValueError, "num_data: .*got 0"),
        (lambda: BayesianModule(mlp(), family="gamma"), ValueError, "gamma"),
        (lambda: BayesianModule(mlp(), scale=-1.0), ValueError, "scale: expected values that"),
        (
            lambda: BayesianModule(Listing(3, 1), likelihoods.Normal())(torch.randn(2, 3)),
            TypeError,
            "needs a tensor as output, got tuple",
        ),
        (
            lambda: BayesianModule(Total(3, 1), likelihoods.Normal())(torch.randn(2, 3)),
            ValueError,
            "one row for each observation",
        ),
        (
            lambda: BayesianModule(mlp()).call_net(torch.zeros(7), torch.randn(2, 3)),
            ValueError,
            "expected last dimension 26, got 7",
        ),
    ],
)
def test_refusals(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
