# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What is trained: parameters of guide, model and ParamStore, found without a trace."""

import copy

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyro_groupprior import (
    Assignment,
    AssignmentBuffer,
    AutoLowRank,
    AutoMeanField,
    BayesianModule,
    Learned,
    PhasedSVI,
    Regroup,
    likelihoods,
)
from tests.svi.runs import (
    GUIDES,
    Adam,
    Planned,
    data,
    function_model,
    regression,
)


def test_own_guide_with_pyro_params():
    buffer = AssignmentBuffer(Assignment(torch.arange(4) % 2))
    model = function_model(buffer, loc=Learned(0.0), scale=Learned(1.0))

    def guide(x, y=None):
        loc = pyro.param("loc", torch.zeros(4))
        pyro.sample("beta", dist.Normal(loc, 0.1).to_event(1))
        pyro.sample("noise", dist.LogNormal(pyro.param("noise_loc", torch.tensor(0.0)), 0.1))

    x = torch.randn(50, 4)
    y = x @ torch.tensor([1.0, -1.0, 1.0, -1.0])
    svi = PhasedSVI(model, guide, Adam)
    for _ in range(300):
        svi.step(x, y)
    assert list(svi.parameters) == [
        "store.loc",
        "store.noise_loc",
        "store.beta_loc",
        "store.beta_scale",
    ]
    torch.testing.assert_close(
        pyro.param("loc").detach(), torch.tensor([1.0, -1.0, 1.0, -1.0]), atol=0.1, rtol=0
    )
    assert pyro.param("beta_loc")[0] > 0.5 and pyro.param("beta_loc")[1] < -0.5


def test_setup_moves_neither_random_state_nor_batch_statistics():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    for guide in (AutoMeanField, AutoLowRank, GUIDES["normal"], GUIDES["low_rank_normal"]):
        pyro.clear_param_store()
        model = BayesianModule(net, likelihoods.Normal())
        svi = PhasedSVI(
            model, guide, Adam, regroup=Regroup(Planned(torch.zeros(21).long()), steps=5)
        )
        state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        svi.setup(*data())
        assert svi.optimizer is not None and model.training
        assert torch.equal(torch.get_rng_state(), random)
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name]), name
        svi.step(*data())
        assert not torch.equal(model.net[1].running_mean, state["net.1.running_mean"])
        moved, random = model.net[1].running_mean.clone(), torch.get_rng_state()
        svi.regroup()
        assert torch.equal(model.net[1].running_mean, moved)
        assert torch.equal(torch.get_rng_state(), random)


def test_point_parameters_of_the_net_learn_along():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    model = BayesianModule(net, likelihoods.Normal())
    svi = PhasedSVI(model, AutoMeanField, Adam)
    svi.setup(*data())
    names = [name for name in svi.parameters if name.startswith("model.")]
    assert names == ["model.net.1.weight", "model.net.1.bias"]
    svi.step(*data())
    assert not torch.equal(model.net[1].weight, torch.ones(4))


def test_stale_values_in_the_param_store_are_announced():
    model = regression()
    PhasedSVI(model, AutoNormal, Adam).step(*data())
    with pytest.warns(UserWarning, match="clear_param_store"):
        PhasedSVI(model, AutoNormal, Adam).setup(*data())
    pyro.clear_param_store()
    PhasedSVI(model, AutoNormal, Adam).setup(*data())


def test_guide_of_another_grouping():
    model = regression()
    guide = AutoMeanField(model)
    guide.setup(*data())
    model.groups.assignment = Assignment(torch.arange(31) % 5)
    with pytest.raises(ValueError, match="made for another grouping"):
        PhasedSVI(model, guide, Adam).step(*data())


def test_nothing_to_optimise():
    def model(x):
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="expected trainable parameters, found none"):
        PhasedSVI(model, lambda x: pyro.sample("z", dist.Normal(0.0, 1.0)), Adam).step(data()[0])
