# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Tests of group_prior under Pyro's own inference: autoguides, particles, prediction, plates."""

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)

from pyro_groupprior import (
    Assignment,
    AutoMeanField,
    Learned,
    MeanFieldELBO,
    group_prior,
    init_to_weights,
)

W, G, N = 6, 3, 5
HARD = Assignment(torch.tensor([0, 2, 1, 1, 0, 2]))
BASE = torch.tensor([0.1, 0.5, 1.0, 2.0, 3.0, 0.7], dtype=torch.double)
X = torch.randn(N, W, generator=torch.manual_seed(0), dtype=torch.double)
Y = torch.randn(N, generator=torch.manual_seed(1), dtype=torch.double)


def regression(y=Y, *, sd=0.5, **prior):
    weights = group_prior("w", HARD, base_scale=BASE, **prior)
    with pyro.plate("data", N):
        return pyro.sample("y", dist.Normal((X * weights).sum(-1), sd), obs=y)


KINDS = [{}, {"centered": False}, {"loc": 0.0}, {"loc": 0.0, "scale": BASE[:G]}]


@pytest.mark.parametrize("make", [AutoNormal, AutoMeanField])
@pytest.mark.parametrize("kind", KINDS)
def test_vectorised_particles_equal_one_run_for_each(make, kind):
    model, particles = partial(regression, **kind), 4096
    guide = make(model, init_loc_fn=init_to_weights, init_scale=0.3)
    guide()
    elbo = Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=1)
    (traces,) = elbo._get_traces(model, guide, (), {})
    model_trace, guide_trace = traces
    assert model_trace.nodes["w"]["value"].shape == (8, 1, W)
    assert model_trace.nodes["y"]["fn"].batch_shape == (8, N)
    model_trace.compute_log_prob()
    together = sum(
        site["log_prob"].reshape(8, -1).sum(1)
        for name, site in model_trace.nodes.items()
        if site["type"] == "sample" and site["log_prob"].dim()
    )
    latents = [name for name in guide_trace.stochastic_nodes if name in model_trace.nodes]
    for particle in range(8):
        values = {
            name: guide_trace.nodes[name]["value"][particle].reshape(-1)
            for name in latents
            if not name.endswith("_unconstrained") and "particles" not in name
        }
        alone = poutine.trace(poutine.condition(model, values)).get_trace().log_prob_sum()
        torch.testing.assert_close(together[particle], alone)

    # In distribution: the two estimates of the same ELBO agree within their standard error.
    with torch.no_grad():
        one = Trace_ELBO()
        singles = np.array([one.loss(model, guide) for _ in range(100)])
        many = Trace_ELBO(particles, vectorize_particles=True, max_plate_nesting=1)
        error = singles.std() * (1 / 100 + 1 / particles) ** 0.5
        assert abs(many.loss(model, guide) - singles.mean()) < 4 * error


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        AutoNormal,
        AutoDelta,
        AutoDiagonalNormal,
        AutoLowRankMultivariateNormal,
        AutoMultivariateNormal,
        AutoLaplaceApproximation,
    ],
)
def test_pyros_autoguides_learn_under_pyros_svi(make, centered):
    model = partial(regression, centered=centered)
    guide = make(model, init_loc_fn=init_to_weights)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    losses = [svi.step() for _ in range(60)]
    assert np.mean(losses[-15:]) < np.mean(losses[:15])
    if make is AutoLaplaceApproximation:
        guide = guide.laplace_approximation()
        assert isinstance(guide, AutoMultivariateNormal)
    draws = Predictive(model, guide=guide, num_samples=7)(None)
    assert draws["w"].reshape(7, -1).shape == (7, W)
    assert draws["w_scale"].shape == (7, G) and bool((draws["w_scale"] > 0).all())
    assert draws["y"].shape == (7, N)


def mcmc_like_draws(num_draws, kind):
    """Draws in the shape that MCMC hands out, ``[S, *site]``, and the weights they stand for."""
    draws = {"w_loc": torch.randn(num_draws, G), "w_scale": torch.rand(num_draws, G) + 0.5}
    noise = torch.randn(num_draws, W)
    draws = {name: value.double() for name, value in draws.items() if name[2:] not in kind}
    if kind.get("centered", True):
        return {**draws, "w": noise.double()}, noise.double()
    index = HARD.index.long()
    weights = draws["w_loc"][:, index] + draws["w_scale"][:, index] * noise
    return {**draws, "w_decentered": noise.double()}, BASE * weights


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("leading", [True, False], ids=["guide's shape", "MCMC's shape"])
@pytest.mark.parametrize("num_draws", [N, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_predictive_takes_draws_of_either_shape(parallel, leading, num_draws, kind):
    draws, weights = mcmc_like_draws(num_draws, kind)
    if leading:
        draws = {
            name: value.unsqueeze(1) if name in ("w", "w_decentered") else value
            for name, value in draws.items()
        }
    # So little noise that a prediction is the regression line of its own draw.
    model = partial(regression, None, sd=1e-9, **kind)
    predictions = Predictive(model, posterior_samples=draws, parallel=parallel)()["y"]
    torch.testing.assert_close(predictions, weights @ X.T, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("centered", [True, False])
def test_a_model_that_multiplies_by_a_matrix_predicts_from_a_guide(centered):
    def model():
        weights = group_prior("w", HARD, base_scale=BASE, centered=centered, shape=(2, 3))
        assert weights.shape == (2, 3)
        pyro.deterministic("z", weights @ torch.ones(3).double())

    guide = AutoDelta(model)
    draws = Predictive(model, guide=guide, num_samples=4)()
    assert draws["z"].numel() == 8
    torch.testing.assert_close(draws["z"].reshape(4, 2), draws["w"].reshape(4, 2, 3).sum(-1))


def test_a_learned_scale_finds_the_maximum_of_the_marginal_likelihood():
    # w_i ~ N(0, s_g^2), y_i ~ N(w_i, 1): the best s_g^2 is the mean of y_i^2 in g, less 1; and
    # given it the posterior factorises, so that the bound of a mean-field guide is tight.
    y = torch.tensor([3.0, -2.0, 1.0, 4.0, 6.0, -5.0])

    def model():
        weights = group_prior("w", HARD, loc=0.0, scale=Learned(1.0))
        pyro.sample("y", dist.Normal(weights, 1.0).to_event(1), obs=y)

    guide = AutoMeanField(model)
    schedule = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.992}
    scheduler = pyro.optim.ExponentialLR(schedule)
    svi = SVI(model, guide, scheduler, MeanFieldELBO())
    for _ in range(600):
        svi.step()
        scheduler.step()
    index = HARD.index.long()
    best = torch.stack([y[index == g].square().mean() - 1 for g in range(G)])
    torch.testing.assert_close(pyro.param("w_scale").square(), best, rtol=0.05, atol=0.0)
    shrink = (best / (best + 1))[index]
    mean, sd = guide.moments("w")
    torch.testing.assert_close(mean, shrink * y, rtol=0.05, atol=0.05)
    torch.testing.assert_close(sd, shrink.sqrt(), rtol=0.1, atol=0.0)


def test_an_outer_plate_needs_a_place_left_of_the_groups():
    with pyro.plate("outer", 2, dim=-2):
        assert group_prior("w", HARD).shape == (2, 1, W)
        assert group_prior("v", HARD, shape=(2, 3)).shape == (2, 1, 2, 3)
    with pyro.plate("outer", 2), pytest.raises(ValueError, match="collide at dim=-1"):
        group_prior("w", HARD)
