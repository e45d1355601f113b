# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the KL warm-up's handler against closed forms."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta
from torch.distributions import kl_divergence

from pyro_groupprior import (
    Assignment,
    AutoMeanField,
    KLWeightMessenger,
    MeanFieldELBO,
    group_prior,
)

GROUPS = Assignment(torch.tensor([0, 1, 1, 0]))
Y = torch.tensor([0.5, -1.0, 2.0, 0.1])


def model(centered=True):
    weights = group_prior("w", GROUPS, centered=centered)
    pyro.sample("y", dist.Normal(weights, 0.5).to_event(1), obs=Y)


@torch.no_grad()
def parts(guide):
    """Log-likelihood and divergence of the next draw, from torch's own formulas."""
    draw = poutine.trace(guide).get_trace()
    trace = poutine.trace(poutine.replay(model, trace=draw)).get_trace()
    likelihood = dist.Normal(trace.nodes["w"]["value"], 0.5).log_prob(Y).sum()
    divergence = sum(
        kl_divergence(draw.nodes[name]["fn"], trace.nodes[name]["fn"]).sum()
        for name in ("w_loc", "w_scale", "w")
    )
    return float(likelihood), float(divergence)


@pytest.fixture
def guide():
    guide = AutoMeanField(model, init_scale=0.4)
    guide.setup()
    return guide


@pytest.mark.parametrize("elbo", [MeanFieldELBO(), TraceMeanField_ELBO()])
@pytest.mark.parametrize("factor", [1e-3, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_the_factor_multiplies_the_divergence_alone(guide, elbo, factor, scale):
    pyro.set_rng_seed(1)
    likelihood, divergence = parts(guide)
    pyro.set_rng_seed(1)
    with KLWeightMessenger(factor), poutine.scale(scale=scale):
        loss = elbo.loss(model, guide)
    assert loss == pytest.approx(scale * (factor * divergence - likelihood), rel=1e-5)


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("make", [AutoMeanField, AutoDelta])
def test_with_pyros_sampled_elbo(make, centered):
    guide = make(model)
    guide(centered)
    losses = []
    for factor in (1.0, 2.0, 4.0):
        pyro.set_rng_seed(1)
        with KLWeightMessenger(factor):
            losses.append(Trace_ELBO().loss(model, guide, centered))
    # The loss is linear in the factor, and what is left at zero is the likelihood's part.
    pyro.set_rng_seed(1)
    draw = poutine.trace(guide).get_trace(centered)
    trace = poutine.trace(poutine.replay(model, trace=draw)).get_trace(centered)
    weights = trace.nodes["w"]["value"].detach()
    likelihood = float(dist.Normal(weights, 0.5).log_prob(Y).sum())
    assert 2 * losses[0] - losses[1] == pytest.approx(-likelihood, rel=1e-4)
    assert losses[2] - losses[1] == pytest.approx(2 * (losses[1] - losses[0]), rel=1e-4)


def test_handlers_multiply_and_leave_when_done(guide):
    with KLWeightMessenger(0.5), KLWeightMessenger(0.25):
        trace = poutine.trace(model).get_trace()
    assert trace.nodes["w"]["scale"] == trace.nodes["w_scale"]["scale"] == 0.125
    assert trace.nodes["y"]["scale"] == 1.0
    assert poutine.trace(model).get_trace().nodes["w"]["scale"] == 1.0


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan")])
def test_a_factor_must_be_positive(factor):
    with pytest.raises(ValueError, match="factor: expected a positive number"):
        KLWeightMessenger(factor)
