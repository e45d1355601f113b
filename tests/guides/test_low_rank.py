# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The low-rank guide, against torch's multivariate normal with the full covariance."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_groupprior import AutoLowRank, MeanFieldELBO
from pyro_groupprior.guides.low_rank import LowRankNormal
from tests.svi.runs import data, regression


def model(size=6):
    pyro.sample("w", dist.Normal(torch.zeros(size), 1.0).to_event(1))
    pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("plate", 2):
        pyro.sample("inner", dist.Normal(torch.zeros(3), 1.0).to_event(1))


@pytest.fixture
def guide():
    guide = AutoLowRank(model, rank=2)
    guide.setup()
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return guide


def covariance(guide) -> torch.Tensor:
    """S (I + F F') S, by its definition."""
    _, scale = guide.loc_scale(guide.site("w"))
    factor = guide.factors["w"]
    inner = torch.eye(len(scale)) + factor @ factor.T
    return (torch.diag(scale) @ inner @ torch.diag(scale)).detach()


def test_factor_is_the_normal_with_that_covariance(guide):
    factor = guide.factor(guide.site("w"))
    full = MultivariateNormal(guide.locs["w"].detach(), covariance(guide))
    value = torch.randn(5, 6)
    torch.testing.assert_close(factor.covariance_matrix, full.covariance_matrix)
    torch.testing.assert_close(factor.log_prob(value), full.log_prob(value), rtol=1e-4, atol=1e-4)


def test_moments_quantiles_and_draws(guide):
    mean, sd = guide.moments("w")
    torch.testing.assert_close(mean, guide.locs["w"].detach())
    torch.testing.assert_close(sd, covariance(guide).diagonal().sqrt())
    levels = [0.05, 0.5, 0.9]
    exact = stats.norm(mean.numpy(), sd.numpy())
    for level, found in zip(levels, guide.quantiles(levels)["w"], strict=True):
        torch.testing.assert_close(found, torch.tensor(exact.ppf(level)).float())
    draws = guide.draws(40_000)["w"]
    assert draws.shape == (40_000, 6)
    scale = sd.unsqueeze(0) * sd.unsqueeze(1)
    torch.testing.assert_close(draws.T.cov() / scale, covariance(guide) / scale, atol=0.03, rtol=0)
    torch.testing.assert_close(draws.mean(0) / sd, mean / sd, atol=0.03, rtol=0)


def test_divergence_from_independent_normals_is_exact(guide):
    q = guide.factor(guide.site("w"))
    p = dist.Normal(torch.randn(6), torch.rand(6) + 0.2).to_event(1)
    full_q = MultivariateNormal(q.mean, covariance(guide))
    full_p = MultivariateNormal(p.mean, torch.diag(p.variance))
    torch.testing.assert_close(kl_divergence(q, p), kl_divergence(full_q, full_p))


def test_divergence_from_other_priors_is_left_to_the_draws(guide):
    q = guide.factor(guide.site("w"))
    for p in (
        dist.Laplace(torch.zeros(6), 1.0).to_event(1),
        dist.Normal(torch.zeros(2, 6), 1.0).to_event(2),
    ):
        with pytest.raises(NotImplementedError):
            kl_divergence(q, p)


def test_only_vectors_outside_plates_are_correlated(guide):
    assert list(guide.factors) == ["w"]
    assert isinstance(guide.factor(guide.site("w")), LowRankNormal)
    assert isinstance(guide.factor(guide.site("w"), (7,)), LowRankNormal)
    for name in ("scale", "inner"):
        loc, scale = guide.loc_scale(guide.site(name))
        if name == "inner":
            torch.testing.assert_close(guide.moments(name), (loc.detach(), scale.detach()))


def ridge(x, y):
    beta = pyro.sample("beta", dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ beta, 0.5), obs=y)


def test_bound_is_the_evidence_at_the_exact_posterior():
    """With as many directions as weights the family holds the posterior of a regression."""
    common = torch.randn(30, 1)
    x = common + 0.5 * torch.randn(30, 3)
    y = x.sum(1) + 0.5 * torch.randn(30)
    evidence = MultivariateNormal(torch.zeros(30), x @ x.T + 0.25 * torch.eye(30)).log_prob(y)
    exact = torch.linalg.inv(torch.eye(3) + x.T @ x / 0.25)
    guide = AutoLowRank(ridge, rank=3)
    guide.setup(x, y)
    with torch.no_grad():
        scale = (0.5 * torch.linalg.eigvalsh(exact)[0]).sqrt()
        guide.locs["beta"].copy_(exact @ x.T @ y / 0.25)
        guide.unconstrained_scales["beta"].copy_(scale.expm1().log().expand(3))
        guide.factors["beta"].copy_(torch.linalg.cholesky(exact / scale**2 - torch.eye(3)))
    # What is left to chance is the likelihood, whose mean over the posterior is known.
    bound = -MeanFieldELBO(num_particles=1000).loss(ridge, guide, x, y)
    residual = y - x @ guide.locs["beta"].detach()
    spread = (2 * (x @ exact @ x.T).square().sum() + 4 * residual @ x @ exact @ x.T @ residual) / 4
    assert abs(bound - evidence.item()) < 5 * (spread / 0.25**2 / 1000).sqrt().item()


def test_start_is_nearly_mean_field():
    guide = AutoLowRank(regression(), rank=8, init_scale=0.2)
    guide.setup(*data())
    _, sd = guide.moments("weights")
    ratio = sd / (0.2 * guide.model.base_scale)
    assert ratio.min() >= 1 and ratio.max() < 1.05
    assert math.isclose(guide.factors["weights"].std().item(), 0.1 * 8**-0.5, rel_tol=0.2)


def test_rank_has_to_be_positive():
    with pytest.raises(ValueError, match="rank"):
        AutoLowRank(model, rank=0)
