# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Statistics of batch norm under a posterior."""

import copy

import pyro
import pytest
import torch
from torch import nn
from torch.optim import swa_utils

from pyro_groupprior import AutoMeanField, BayesianModule, likelihoods, update_bn


def problem():
    pyro.set_rng_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5),
        nn.Linear(64, 3),
    )  # fmt: skip
    model = BayesianModule(net, likelihoods.Categorical(), num_data=60)
    loader = [(torch.randn(20, 1, 6, 6) + shift, torch.randint(3, (20,))) for shift in range(3)]
    return model, loader


def statistics(net):
    return {n: v.clone() for n, v in net.state_dict().items() if "running" in n or "num_b" in n}


@pytest.mark.parametrize("kind", ["guide", "draws"])
def test_a_point_posterior_has_the_statistics_of_its_net(kind):
    model, loader = problem()
    guide = AutoMeanField(model, init_scale=1e-7)
    guide.setup(*loader[0])
    weights = torch.randn(model.layout.num_weights)
    with torch.no_grad():
        guide.locs["weights"].copy_(weights)
    expected = copy.deepcopy(model.net)
    with torch.no_grad():
        for name, value in model.layout.unpack(weights).items():
            expected.get_parameter(name).copy_(value)
    swa_utils.update_bn(loader, expected)
    posterior = guide if kind == "guide" else {"weights": weights.repeat(4, 1)}
    for _ in range(2):  # anew each time
        update_bn(model, posterior, loader)
        found = statistics(model.net)
        assert found.keys() == statistics(expected).keys()
        for name, value in statistics(expected).items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_every_batch_has_a_draw_of_its_own():
    model, loader = problem()
    draws = {"weights": torch.randn(2, model.layout.num_weights)}
    seen = {tuple(update_bn_mean(model, draws, loader[:1])) for _ in range(20)}
    assert len(seen) == 2
    update_bn(model, draws, loader[:1] * 400)
    middle = torch.stack([torch.tensor(values) for values in seen]).mean(0)
    found = model.net[1].running_mean
    assert bool(((found - middle).abs() < 0.2 * middle.abs() + 0.1).all())


def update_bn_mean(model, draws, loader):
    update_bn(model, draws, loader)
    return model.net[1].running_mean.tolist()


def test_modes_weights_and_momenta_stay():
    model, loader = problem()
    guide = AutoMeanField(model)
    guide.setup(*loader[0])
    model.train()
    model.net[4].eval()
    before = {n: v.clone() for n, v in guide.state_dict().items()}
    net = {n: v.clone() for n, v in model.net.named_parameters()}
    update_bn(model, guide, loader)
    assert [module.training for module in model.net] == [True, True, True, True, False, True]
    assert model.net[1].momentum == 0.1
    assert all(torch.equal(guide.state_dict()[n], value) for n, value in before.items())
    assert all(torch.equal(model.net.get_parameter(n), value) for n, value in net.items())


def test_a_net_without_batch_norm_is_left_alone_and_others_are_refused():
    plain = BayesianModule(nn.Linear(2, 1), likelihoods.Normal())
    guide = AutoMeanField(plain)
    guide.setup(torch.zeros(3, 2), torch.zeros(3, 1))
    update_bn(plain, guide, [torch.zeros(3, 2)])
    with pytest.raises(TypeError, match="model: expected a BayesianModule, got Linear"):
        update_bn(nn.Linear(2, 1), guide, [])
    model, loader = problem()
    with pytest.raises(ValueError, match="posterior: expected draws of 'weights'"):
        update_bn(model, {"other": torch.zeros(2, 3)}, loader)


def test_after_an_error_all_is_as_it_was():
    model, loader = problem()
    guide = AutoMeanField(model)
    guide.setup(*loader[0])
    before = statistics(model.net)
    with pytest.raises(RuntimeError):
        update_bn(model, guide, [*loader, torch.zeros(2, 3, 6, 6)])
    assert model.net[1].momentum == 0.1
    for name, value in statistics(model.net).items():
        assert torch.equal(value, before[name])
