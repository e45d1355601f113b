# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Where guides and samplers start."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import autoguide
from torch import nn

from pyro_groupprior import (
    Assignment,
    AutoLowRank,
    AutoMeanField,
    BayesianModule,
    group_prior,
    init_to_weights,
    likelihoods,
)

START = torch.tensor([0.5, -2.0, 3.0])


def model_from(init, **options):
    def model():
        group_prior("w", Assignment(torch.tensor([0, 0, 1])), init=init, **options)
        pyro.sample("rate", dist.Exponential(2.0))

    return model


@pytest.mark.parametrize("init", [START, lambda: START], ids=["tensor", "callable"])
@pytest.mark.parametrize(
    "kind",
    [
        AutoMeanField,
        AutoLowRank,
        autoguide.AutoNormal,
        autoguide.AutoDelta,
        autoguide.AutoDiagonalNormal,
        autoguide.AutoMultivariateNormal,
        autoguide.AutoLowRankMultivariateNormal,
    ],
)
def test_weights_start_at_their_own_all_else_at_the_median(kind, init):
    pyro.set_rng_seed(1)
    guide = kind(model_from(init), init_loc_fn=init_to_weights)
    guide()
    found = guide.median()
    torch.testing.assert_close(found["w"], START)
    # Pyro takes medians by 15 draws; those of an exponential at rate 2 lie around 0.35.
    assert 0.1 < found["rate"] < 1.0 and found["w_loc"].abs().max() < 1.2


def test_without_a_start_weights_take_the_median_too():
    guide = AutoMeanField(model_from(None))
    guide.setup()
    assert guide.median()["w"].abs().max() < 3 and not torch.equal(guide.median()["w"], START)


def test_decentred_weights_start_where_the_centred_would():
    base = torch.tensor([0.5, 2.0, 1.0])
    guide = AutoMeanField(model_from(START, centered=False, base_scale=base))
    guide.setup()
    torch.testing.assert_close(guide.median()["w_decentered"], START / base)


def test_a_net_starts_at_its_own_weights_of_now():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model = BayesianModule(net, likelihoods.Categorical())
    guide = AutoMeanField(model)
    guide.setup(torch.zeros(5, 3), torch.zeros(5, dtype=torch.long))
    flat = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
    assert torch.equal(guide.median()["weights"], flat)


def test_outer_plates_are_put_in_front():
    def model():
        with pyro.plate("outer", 2, dim=-2):
            group_prior("w", Assignment(torch.tensor([0, 0, 1])), init=START)

    guide = AutoMeanField(model)
    guide.setup()
    assert torch.equal(guide.median()["w"], START.expand(2, 1, 3))
    with torch.no_grad():
        guide.locs["w"][0] = 7.0  # memory of its own for every row
    assert torch.equal(guide.median()["w"][1, 0], START)


def test_the_start_is_a_copy():
    start = START.clone()
    guide = AutoMeanField(model_from(start))
    guide.setup()
    with torch.no_grad():
        guide.locs["w"].zero_()
    assert torch.equal(start, START)


def test_as_a_strategy():
    assert init_to_weights() is init_to_weights
    site = {"infer": {"init": START}, "fn": dist.Normal(torch.zeros(2, 3), 1.0).to_event(1)}
    assert torch.equal(init_to_weights(site), START.expand(2, 3))
