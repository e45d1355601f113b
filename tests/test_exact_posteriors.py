# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Posteriors and evidences of a linear regression, where theory has them in closed form."""

import functools
import math

import pyro
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer.autoguide import AutoLaplaceApproximation
from scipy.stats import multivariate_normal
from torch import nn

from pyro_groupprior import (
    AutoFullRank,
    AutoMeanField,
    BayesianModule,
    MeanFieldELBO,
    PhasedSVI,
    init_to_weights,
    likelihoods,
)

ROWS, SIZE, NOISE = 25, 3, 0.7


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(ROWS, SIZE, generator=generator)
    x[:, 1] += 0.8 * x[:, 0]  # so that the posterior is correlated
    return x, x.sum(1, keepdim=True) + NOISE * torch.randn(ROWS, 1, generator=generator)


def linear():
    torch.manual_seed(0)
    net = nn.Linear(SIZE, 1, bias=False)
    return BayesianModule(net, likelihoods.Normal(noise=NOISE), num_data=ROWS, loc=0.0, scale=1.0)


def exact(x, y):
    """Mean and precision of the posterior, and the log marginal likelihood."""
    precision = x.T @ x / NOISE**2 + torch.eye(SIZE) * SIZE
    mean = torch.linalg.solve(precision, x.T @ y / NOISE**2)[:, 0]
    covariance = (x @ x.T / SIZE + NOISE**2 * torch.eye(ROWS)).double()
    return mean, precision, multivariate_normal(cov=covariance.numpy()).logpdf(y[:, 0].numpy())


def bound(model, guide, data, draws=4000):
    """The ELBO by many draws."""
    elbo = MeanFieldELBO(draws)
    with torch.no_grad():
        return -elbo.loss(model, guide, *data)


def set_to(guide, mean, sd, model, data):
    guide.setup(*data)
    site = guide.site(model.site)
    with torch.no_grad():
        guide.locs[site.key].copy_(mean)
        guide.unconstrained_scales[site.key].copy_(sd.expm1().log())


def test_mean_fields_best_bound(data):
    """
    Of all independent normals the best has the exact means and the precision's diagonal; it falls
    short of the evidence by half the log-ratio of the determinants (Bishop 2006, section 10.1.2).
    """
    mean, precision, evidence = exact(*data)
    model = linear()
    guide = AutoMeanField(model, local_reparam=True)
    set_to(guide, mean, precision.diagonal().rsqrt(), model, data)
    short = 0.5 * float(precision.diagonal().log().sum() - torch.logdet(precision))
    best = bound(model, guide, data)
    assert short > 0.1
    assert best == pytest.approx(evidence - short, abs=0.1)
    # No neighbour is better: the same noise would be needed to see less than this.
    set_to(
        worse := AutoMeanField(model, local_reparam=True),
        mean,
        1.5 * precision.diagonal().rsqrt(),
        model,
        data,
    )
    assert bound(model, worse, data) < best - 0.2


def test_a_full_covariance_reaches_the_evidence(data):
    _, _, evidence = exact(*data)
    model = linear()
    svi = PhasedSVI(
        model, AutoFullRank(model), functools.partial(torch.optim.Adam, lr=0.02), warmup=0
    )
    svi.run([data], progress=False)
    assert bound(model, svi.guide, data, 2000) == pytest.approx(evidence, abs=0.15)


def test_laplace_is_exact(data):
    """Posterior and evidence: the log-joint at the mode plus the normal's volume."""
    mean, precision, evidence = exact(*data)
    model = linear()
    guide = AutoLaplaceApproximation(model, init_loc_fn=init_to_weights)
    svi = PhasedSVI(model, guide, functools.partial(torch.optim.Adam, lr=0.05), warmup=0)
    svi.run([data], 2000, progress=False)
    normal = guide.laplace_approximation(*data).get_posterior()
    torch.testing.assert_close(normal.mean, mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(normal.covariance_matrix, precision.inverse(), rtol=1e-3, atol=1e-5)
    at_mode = poutine.condition(model, {model.site: normal.mean.detach()})
    joint = float(poutine.trace(at_mode).get_trace(*data).log_prob_sum())
    volume = 0.5 * SIZE * math.log(2 * math.pi) + 0.5 * float(
        torch.logdet(normal.covariance_matrix)
    )
    assert joint + volume == pytest.approx(evidence, abs=1e-3)
    pyro.clear_param_store()
