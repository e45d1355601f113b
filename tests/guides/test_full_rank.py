# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The full-rank guide, against torch's multivariate normal and exact posteriors."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_groupprior import AutoFullRank
from pyro_groupprior.guides.full_rank import FullRankNormal
from tests.svi.runs import PROPOSALS, data, regression, trained


def model(size=6):
    pyro.sample("w", dist.Normal(torch.zeros(size), 1.0).to_event(1))
    pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("plate", 2):
        pyro.sample("inner", dist.Normal(torch.zeros(3), 1.0).to_event(1))


def randomised(guide: AutoFullRank) -> AutoFullRank:
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return guide


@pytest.fixture
def guide():
    guide = AutoFullRank(model)
    guide.setup()
    return randomised(guide)


def covariance(guide) -> torch.Tensor:
    """``L L'`` with ``L`` the unit-diagonal factor times the scales, by its definition."""
    _, scale = guide.loc_scale(guide.site("w"))
    unit = guide.correlations["w"].tril(-1) + torch.eye(len(scale))
    factor = torch.diag(scale) @ unit
    return (factor @ factor.T).detach()


def test_factor_is_the_normal_with_that_covariance(guide):
    factor = guide.factor(guide.site("w"))
    full = MultivariateNormal(guide.locs["w"].detach(), covariance(guide))
    value = torch.randn(5, 6)
    torch.testing.assert_close(factor.covariance_matrix, full.covariance_matrix)
    torch.testing.assert_close(factor.log_prob(value), full.log_prob(value), rtol=1e-3, atol=1e-3)


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


def test_divergence_from_independent_normals(guide):
    q = guide.factor(guide.site("w"))
    p = dist.Normal(torch.randn(6), torch.rand(6) + 0.5).to_event(1)
    found = kl_divergence(q, p)
    full_q = MultivariateNormal(q.mean, covariance(guide))
    full_p = MultivariateNormal(p.mean, torch.diag(p.variance))
    torch.testing.assert_close(found, kl_divergence(full_q, full_p), rtol=1e-4, atol=1e-4)
    draws = q.sample((100_000,))
    terms = (q.log_prob(draws) - p.log_prob(draws)).detach()
    assert abs(terms.mean() - found) < 5 * terms.std() / 100_000**0.5


def test_divergence_from_other_priors_is_left_to_the_draws(guide):
    q = guide.factor(guide.site("w"))
    for p in (
        dist.Laplace(torch.zeros(6), 1.0).to_event(1),
        dist.Normal(torch.zeros(2, 6), 1.0).to_event(2),
    ):
        with pytest.raises(NotImplementedError):
            kl_divergence(q, p)


def test_only_vectors_outside_plates_are_correlated(guide):
    assert list(guide.correlations) == ["w"]
    assert isinstance(guide.factor(guide.site("w"), (7,)), FullRankNormal)
    loc, scale = guide.loc_scale(guide.site("inner"))
    torch.testing.assert_close(guide.moments("inner"), (loc.detach(), scale.detach()))


def ridge(x, y):
    beta = pyro.sample("beta", dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ beta, 0.5), obs=y)


def test_the_best_bound_is_at_the_exact_posterior():
    x = torch.randn(30, 1) + 0.7 * torch.randn(30, 3)
    y = x.sum(1) + 0.5 * torch.randn(30)
    exact = torch.linalg.inv(torch.eye(3) + x.T @ x / 0.25)
    guide = AutoFullRank(ridge)
    guide.setup(x, y)
    prior = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    lbfgs = torch.optim.LBFGS(guide.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        """The negative ELBO; the likelihood's mean over a normal has a closed form."""
        lbfgs.zero_grad()
        q = guide.factor(guide.site("beta"))
        misfit = (y - x @ q.mean).square().sum() + ((x @ q.scale_tril) ** 2).sum()
        value = misfit / (2 * 0.25) + kl_divergence(q, prior)
        value.backward()
        return value

    lbfgs.step(loss)
    factor = guide.factor(guide.site("beta"))
    found = MultivariateNormal(factor.mean.detach(), factor.covariance_matrix.detach())
    truth = MultivariateNormal(exact @ x.T @ y / 0.25, exact)
    assert kl_divergence(found, truth) < 1e-3
    diagonal = MultivariateNormal(truth.mean, torch.diag(1 / torch.linalg.inv(exact).diagonal()))
    assert kl_divergence(diagonal, truth) > 0.1  # what the best independent one would leave


def test_starts_as_mean_field():
    guide = AutoFullRank(regression(), init_scale=0.2)
    guide.setup(*data())
    torch.testing.assert_close(guide.moments("weights")[1], 0.2 * guide.model.base_scale)


@pytest.mark.parametrize("case", ["grown", "shrunk", "relabelled"])
def test_a_regroup_leaves_the_weights_covariance(case):
    proposal = torch.unique(PROPOSALS[case][0], return_inverse=True)[1]
    svi = trained(AutoFullRank, proposal)
    site = svi.guide.site("weights")
    before = svi.guide.factor(site).scale_tril.detach().clone()
    assert before.tril(-1).abs().max() > 0
    source = PROPOSALS[case][1]
    scales = svi.guide.locs["weights_scale"].detach().clone()
    svi.regroup()
    assert torch.equal(svi.guide.factor(site).scale_tril, before)
    for group, old in enumerate(source):
        if old >= 0:
            assert svi.guide.locs["weights_scale"][group] == scales[old]
    assert torch.tensor([svi.step(*data()) for _ in range(5)]).isfinite().all()


def test_state_dict_round_trip():
    one, other = (AutoFullRank(regression()) for _ in range(2))
    for guide in (one, other):
        guide.setup(*data())
    other.load_state_dict(randomised(one).state_dict())
    for found, expected in zip(other.moments("weights"), one.moments("weights")):
        assert torch.equal(found, expected)


def test_too_many_weights_are_refused():
    guide = AutoFullRank(regression(), max_weights=30)
    with pytest.raises(ValueError, match="has 31 weights, whose full covariance has 961 entries"):
        guide.setup(*data())
    assert not guide.is_set_up
