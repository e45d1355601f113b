# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Where chains start."""

import itertools

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior.mcmc.gradient import value_and_gradient
from pyro_groupprior.mcmc.log_density import LogDensity
from pyro_groupprior.mcmc.starts import ascend, chain_starts
from tests.mcmc.known import linear, small_net

X = torch.randn(12, 2)


def density(model):
    return LogDensity(model, (X, X[:, :1]))


def test_from_nets_of_their_own():
    starts = chain_starts(density(small_net()), None, 3)
    assert starts["weights"].shape == (3, 17)
    assert (starts["weights"][0] - starts["weights"][1]).abs().max() > 0.1


class Scaled(nn.Module):
    """A module with a parameter that nothing initialises anew."""

    def __init__(self):
        super().__init__()
        self.scale, self.linear = nn.Parameter(torch.ones(2)), nn.Linear(2, 1)

    def forward(self, x):
        return self.linear(x * self.scale)


def test_chains_start_apart_where_no_module_initialises_its_weights():
    net = pgp.BayesianModule(Scaled(), pgp.likelihoods.Normal(), num_data=12)
    inner = pgp.BayesianModule(nn.Linear(2, 1), pgp.likelihoods.Normal(), num_data=12)
    for model in (net, lambda x, y: inner(x, y)):
        starts = chain_starts(density(model), None, 30)["weights"]
        assert (starts.std(0) > 0.2).all()
    starts = chain_starts(LogDensity(linear, (X, X[:, 0])), None, 40)["beta"]
    assert (starts.std(0) > 0.3).all()


def test_from_draws_of_a_guide():
    model = small_net()
    guide = pgp.AutoMeanField(model, init_scale=1e-6)
    guide.setup(X, X[:, :1])
    found = density(model).unconstrain(chain_starts(density(model), guide, 4))
    assert found.shape == (4, density(model).size)
    starts = chain_starts(density(model), guide, 4)
    mean = model.initial_weights()
    torch.testing.assert_close(starts["weights"], mean.expand(4, -1), atol=1e-4, rtol=0.0)


def test_from_values_there_and_back():
    model = small_net()
    target = density(model)
    values = target.constrain(torch.randn(3, target.size))
    starts = chain_starts(target, values, 3)
    again = target.constrain(target.unconstrain(starts))
    for name, value in values.items():
        torch.testing.assert_close(again[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: {name: value[:2] for name, value in values.items()},
        lambda values: values | {"weights": values["weights"][:, :-1]},
        lambda values: {"weights": values["weights"]},
        lambda values: values | {"bias": values["weights"]},
        lambda values: {},
    ],
    ids=["fewer chains", "fewer weights", "a site missing", "a site too many", "none"],
)
def test_values_that_do_not_fit_are_told(change):
    target = density(small_net())
    values = target.constrain(torch.zeros(3, target.size))
    with pytest.raises(ValueError, match=r"start: expected values of shapes .*\(3, 17\).*, got"):
        chain_starts(target, change(values), 3)


def test_lists_are_refused():
    with pytest.raises(TypeError, match="start: expected tensors by site, got list"):
        chain_starts(density(small_net()), {"weights": [1.0]}, 1)


def test_ascent_ends_at_the_mode():
    normal = dist.Normal(torch.tensor([1.0, -2.0]), 1.0).to_event(1)
    evaluate = value_and_gradient(normal.log_prob)
    found = ascend(evaluate, torch.zeros(3, 2), itertools.repeat((), 1000))
    torch.testing.assert_close(found, torch.tensor([[1.0, -2.0]]).expand(3, 2), rtol=0, atol=1e-2)
