# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Group priors in models of every kind: functions, nets, nets within models."""

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro.nn import PyroModule
from sklearn.cluster import KMeans
from torch import nn

from pyro_groupprior import (
    Assignment,
    AssignmentBuffer,
    AutoMeanField,
    BayesianModule,
    PhasedSVI,
    Regroup,
    assign,
    group_prior,
)
from tests.svi.runs import GUIDES, THREE, Adam, Planned, data, function_model, regression


@pytest.mark.parametrize("kind", ["mean_field", "normal", "delta", "multivariate"])
def test_plain_function_with_any_guide_finds_planted_groups(kind):
    """A regression whose coefficients are 0, 2 or -3, found by clustering on the way."""
    truth = torch.tensor([0.0, 2.0, -3.0])[torch.arange(9) % 3]
    x = torch.randn(200, 9)
    y = x @ truth + 0.1 * torch.randn(200)
    buffer = AssignmentBuffer(Assignment(torch.zeros(9, dtype=torch.long)))
    model = function_model(buffer)
    schedule = Regroup(KMeans(3, n_init=3, random_state=0), steps=120)
    optim = pyro.optim.Adam({"lr": 0.05})
    svi = PhasedSVI(model, GUIDES[kind], optim, clip_norm=1e4, regroup=schedule)
    losses = [svi.step(x, y) for _ in range(160)]
    assert losses[-1] < losses[0]
    found = buffer.assignment
    assert found.num_groups == 3
    assert all(len({int(i) for i in found.index[g::3]}) == 1 for g in range(3))


def test_model_of_ones_own_around_a_net():
    class Own(PyroModule):
        def __init__(self):
            super().__init__()
            net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))
            self.inner = BayesianModule(net, grouping=THREE, name="w")

        def forward(self, x, y):
            output = self.inner(x)
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Laplace(output, 0.3).to_event(1), obs=y)

    model = Own()
    planned = Planned(torch.arange(31) % 5)
    svi = PhasedSVI(model, AutoMeanField, Adam, regroup=Regroup(planned, steps=10, stop=10))
    losses = [svi.step(*data()) for _ in range(60)]
    assert losses[-1] < losses[0] and model.inner.assignment.num_groups == 5


def constant(x, y):
    group_prior("beta", Assignment(torch.zeros(3, dtype=torch.long)))


NEVER = Regroup(Planned(), epochs=1)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (lambda: constant, "as a constant"),
        (lambda: regression(centered=False), "not centred"),
        (lambda: lambda x, y: pyro.sample("z", dist.Normal(0.0, 1.0)), "states no group_prior"),
    ],
)
def test_models_that_cannot_be_regrouped_are_refused_at_once(model, match):
    svi = PhasedSVI(model(), AutoMeanField, Adam, regroup=NEVER)
    with pytest.raises(ValueError, match=match):
        svi.step(*data())
    assert svi.optimizer is None and not svi.guide.is_set_up


def test_an_assignment_that_no_group_prior_reads_is_left_alone():
    """A model may read a grouping for purposes of its own, here to tie coefficients."""
    ties = AssignmentBuffer(Assignment(torch.tensor([0, 1, 1])))
    buffer = AssignmentBuffer(Assignment(torch.zeros(2, dtype=torch.long)))

    def model(x, y):
        beta = group_prior("beta", buffer)
        gamma = beta[assign("ties", ties).index]
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ gamma, 1.0), obs=y)

    schedule = Regroup(Planned(torch.tensor([0, 1])), steps=2, stop=2)
    svi = PhasedSVI(model, AutoMeanField, Adam, regroup=schedule)
    for _ in range(4):
        svi.step(torch.randn(8, 3), torch.randn(8))
    assert buffer.assignment.index.tolist() == [0, 1]
    assert ties.assignment.index.tolist() == [0, 1, 1]


def test_a_model_that_only_assigns_states_no_group_prior():
    def model(x, y):
        assign("ties", AssignmentBuffer(Assignment(torch.tensor([0, 1]))))
        pyro.sample("z", dist.Normal(0.0, 1.0))

    svi = PhasedSVI(model, AutoMeanField, Adam, regroup=NEVER)
    with pytest.raises(ValueError, match="states no group_prior"):
        svi.step(*data())
