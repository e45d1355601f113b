# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the ELBO against closed forms, Monte Carlo and Pyro's own estimators."""

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch.distributions import kl_divergence

from pyro_groupprior import Assignment, AutoLowRank, AutoMeanField, MeanFieldELBO, group_prior

W, N = 5, 8
GROUPS = Assignment(torch.tensor([0, 1, 1, 0, 2]))
BASE = torch.tensor([0.5, 1.0, 2.0, 0.7, 1.5], dtype=torch.double)
LOC = torch.tensor([0.5, -1.0, 0.0], dtype=torch.double)
SCALE = torch.tensor([0.3, 1.0, 2.0], dtype=torch.double)
X = torch.randn(N, W, generator=torch.manual_seed(0), dtype=torch.double)
Y = torch.randn(N, generator=torch.manual_seed(1), dtype=torch.double)
OURS = [AutoMeanField, partial(AutoLowRank, rank=2)]
KINDS = [{}, {"scale": dist.HalfCauchy(torch.ones_like(SCALE))}, {"family": "laplace"}]


def prior(**kind):
    return group_prior("w", GROUPS, base_scale=BASE, **kind)


def regression(rows=None, **kind):
    weights = prior(**kind)
    # A minibatch, if rows are given, and one row that is not seen.
    with pyro.plate("data", N, subsample=rows) as rows:
        seen = rows != 3
        with poutine.mask(mask=seen):
            mean = (X[rows] * weights).sum(-1)
            pyro.sample("y", dist.Normal(mean, 0.5), obs=Y[rows])


def spread_out(guide, *args):
    """Move the guide's parameters away from their start, where factors are nearly zero."""
    guide.setup(*args)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return guide


def same_draws(function):
    pyro.set_rng_seed(5)
    return function()


@pytest.mark.parametrize("make", OURS)
def test_the_divergence_of_the_weights_is_that_of_two_normals(make):
    model = partial(prior, loc=LOC, scale=SCALE)
    guide = spread_out(make(model, init_scale=0.3))
    fn = guide.factor(guide.site("w"))
    draws = guide.draws(1)  # only to see that the closed form below is of the guide's own factor
    assert draws["w"].shape == (1, W)
    mean = fn.mean.detach().numpy()
    if hasattr(fn, "covariance_matrix"):
        covariance = fn.covariance_matrix.detach().numpy()
        assert np.abs(covariance - np.diag(np.diag(covariance))).max() > 1e-3
    else:
        covariance = np.diag(fn.variance.detach().numpy())
    index = GROUPS.index.long()
    loc, sd = (BASE * LOC[index]).numpy(), (BASE * SCALE[index]).numpy()
    expected = 0.5 * (
        np.sum(np.diag(covariance) / sd**2)
        + np.sum((mean - loc) ** 2 / sd**2)
        - W
        + 2 * np.log(sd).sum()
        - np.linalg.slogdet(covariance)[1]
    )
    # No data, nothing sampled in the prior: the loss is the divergence, whatever is drawn.
    assert MeanFieldELBO().loss(model, guide) == pytest.approx(expected, rel=1e-9)
    assert TraceMeanField_ELBO().loss(model, guide) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("make", OURS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_divergence_agrees_with_monte_carlo(make, kind):
    model = partial(prior, **kind)
    guide = spread_out(make(model, init_scale=0.3))
    with torch.no_grad():
        closed = np.array([MeanFieldELBO().loss(model, guide) for _ in range(100)])
        sampled = np.array([Trace_ELBO().loss(model, guide) for _ in range(200)])
    error = np.hypot(scipy.stats.sem(closed), scipy.stats.sem(sampled))
    assert abs(closed.mean() - sampled.mean()) < 4 * error
    if not kind:
        assert closed.std() < sampled.std()


@pytest.mark.parametrize("make", OURS)
def test_the_divergence_given_the_groups_agrees_with_monte_carlo(make):
    model = partial(prior, loc=LOC, scale=SCALE)
    guide = spread_out(make(model, init_scale=0.3))
    with torch.no_grad():
        q, p = guide.factor(guide.site("w")), poutine.trace(model).get_trace().nodes["w"]["fn"]
        draws = q.sample((20_000,))
        ratio = (q.log_prob(draws) - p.log_prob(draws)).numpy()
        assert abs(ratio.mean() - float(kl_divergence(q, p))) < 4 * scipy.stats.sem(ratio)


@pytest.mark.parametrize("make", OURS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [None, torch.tensor([6, 3, 0])], ids=["all rows", "minibatch"])
def test_loss_and_gradients_equal_those_of_pyros_estimator(make, kind, rows):
    model = partial(regression, **kind)
    guide = spread_out(make(model), rows)
    found = {}
    for elbo in (MeanFieldELBO(num_particles=3), TraceMeanField_ELBO(num_particles=3)):
        guide.zero_grad()
        loss = same_draws(lambda elbo=elbo: elbo.loss_and_grads(model, guide, rows))
        found[elbo] = [torch.tensor(loss).double(), *[p.grad.clone() for p in guide.parameters()]]
        assert loss == pytest.approx(same_draws(lambda elbo=elbo: elbo.loss(model, guide, rows)))
    ours, pyros = found.values()
    torch.testing.assert_close(ours, pyros)
    assert all(bool((gradient != 0).any()) for gradient in ours[1:])


@pytest.mark.parametrize(
    "make",
    [
        AutoNormal,
        AutoDelta,
        AutoDiagonalNormal,
        AutoMultivariateNormal,
        AutoLowRankMultivariateNormal,
    ],
)
@pytest.mark.parametrize("centered", [True, False])
def test_under_pyros_autoguides_it_is_the_sampled_elbo(make, centered):
    # Their latents are Deltas with a Jacobian in the log-density: no divergence in closed form.
    model = partial(regression, centered=centered)
    guide = make(model)
    guide()
    ours, pyros = (
        same_draws(lambda elbo=elbo: elbo.loss(model, guide))
        for elbo in (MeanFieldELBO(), Trace_ELBO())
    )
    assert ours == pytest.approx(pyros, rel=1e-9)


def test_at_the_exact_posterior_it_is_the_log_evidence():
    # y_i ~ N(w_i, 1): the posterior factorises, so a mean-field guide can hold it exactly.
    y = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0], dtype=torch.double)

    def model():
        pyro.sample("y", dist.Normal(prior(loc=LOC, scale=SCALE), 1.0).to_event(1), obs=y)

    index = GROUPS.index.long()
    loc, variance = BASE * LOC[index], (BASE * SCALE[index]).square()
    evidence = scipy.stats.norm(loc, (variance + 1).sqrt()).logpdf(y).sum()
    guide = AutoMeanField(model)
    guide.setup()
    sd = (variance / (variance + 1)).sqrt()
    with torch.no_grad():
        guide.locs["w"].copy_((loc + variance * y) / (variance + 1))
        guide.unconstrained_scales["w"].copy_(sd + torch.log(-torch.expm1(-sd)))
        losses = [MeanFieldELBO().loss(model, guide) for _ in range(500)]
    assert Trace_ELBO().loss(model, guide) == pytest.approx(-evidence, rel=1e-9)
    assert abs(np.mean(losses) + evidence) < 4 * scipy.stats.sem(losses)


def test_particles_are_averaged():
    guide = spread_out(AutoMeanField(regression))
    elbo = MeanFieldELBO()
    singles = same_draws(lambda: [elbo.loss(regression, guide) for _ in range(4)])
    together = same_draws(lambda: MeanFieldELBO(4).loss(regression, guide))
    assert together == pytest.approx(np.mean(singles))


def test_it_serves_pyros_svi():
    guide = AutoMeanField(regression)
    svi = SVI(regression, guide, pyro.optim.Adam({"lr": 0.05}), MeanFieldELBO())
    losses = [svi.step() for _ in range(100)]
    assert np.mean(losses[-20:]) < np.mean(losses[:20])
    assert np.isfinite(svi.evaluate_loss())


def test_a_loss_without_gradients():
    def model():
        pyro.sample("y", dist.Normal(torch.zeros(3), 1.0).to_event(1), obs=torch.ones(3))

    expected = -float(scipy.stats.norm().logpdf(np.ones(3)).sum())
    assert MeanFieldELBO().loss_and_grads(model, lambda: None) == pytest.approx(expected)


def test_refusals():
    for particles in (0, -1):
        with pytest.raises(ValueError, match="num_particles: expected a positive number"):
            MeanFieldELBO(particles)

    def lacking():
        pyro.sample("v", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="guide: the model's latent site 'w_loc' is missing"):
        MeanFieldELBO().loss(prior, lacking)
    guide = AutoMeanField(prior)
    guide.setup()

    def model():
        return prior(loc=0.0)

    with pytest.raises(ValueError, match="guide: its site 'w_loc' is no latent site of the model"):
        MeanFieldELBO().loss(model, guide)
