# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The guide with blocks, against torch's multivariate normal with the whole covariance."""

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from pyro_groupprior import (
    Assignment,
    AutoBlockNormal,
    BayesianModule,
    MeanFieldELBO,
    likelihoods,
)
from pyro_groupprior.guides.block import BlockNormal

X, Y = torch.randn(9, 3), torch.randn(9, 1)
BLOCKS = torch.tensor([2, 0, 1, 0, 2, 1, 2, 0, 0, 1, 1, 3, 1, 3, 3, 0])


@pytest.fixture
def guide() -> AutoBlockNormal:
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    guide = AutoBlockNormal(BayesianModule(net, likelihoods.Normal()), blocks=BLOCKS)
    guide.setup(X, Y)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return guide


def covariance(fn: BlockNormal) -> Tensor:
    """By its definition: L L' in each block, nothing elsewhere."""
    whole = torch.zeros(len(fn.loc), len(fn.loc))
    for trils, members in zip(fn.trils, fn.members, strict=True):
        for tril, places in zip(trils, members, strict=True):
            whole[places[:, None], places] = (tril @ tril.T).detach()
    return whole


def test_is_the_normal_with_that_covariance(guide: AutoBlockNormal) -> None:
    fn = guide.factor(guide.site("weights"))
    assert isinstance(fn, BlockNormal)
    found = covariance(fn)
    assert torch.equal(found != 0, BLOCKS[:, None] == BLOCKS)
    full = MultivariateNormal(fn.loc.detach(), found)
    value = torch.randn(5, 16)
    torch.testing.assert_close(fn.log_prob(value), full.log_prob(value), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(fn.entropy(), full.entropy(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fn.mean, full.mean)
    torch.testing.assert_close(fn.variance, full.variance)
    mean, sd = guide.moments("weights")
    torch.testing.assert_close(mean, full.mean)
    torch.testing.assert_close(sd, full.variance.sqrt())
    prior = Independent(Normal(torch.randn(16), torch.rand(16) + 0.5), 1)
    whole = MultivariateNormal(prior.mean, prior.variance.diag())
    torch.testing.assert_close(
        kl_divergence(fn, prior), kl_divergence(full, whole), rtol=1e-4, atol=1e-3
    )


def test_draws_have_its_moments(guide: AutoBlockNormal) -> None:
    fn = guide.factor(guide.site("weights"))
    draws = guide.draws(200_000)["weights"]
    assert fn.expand((4, 2)).rsample((3,)).shape == (3, 4, 2, 16)
    assert fn.expand((4, 2)).log_prob(torch.zeros(4, 2, 16)).shape == (4, 2)
    found, sd = covariance(fn), fn.variance.detach().sqrt()
    torch.testing.assert_close(
        (draws.mean(0) - fn.loc.detach()) / sd, torch.zeros(16), atol=0.02, rtol=0
    )
    torch.testing.assert_close(
        draws.T.cov() / sd / sd[:, None], found / sd / sd[:, None], atol=0.03, rtol=0
    )


def test_sizes(guide: AutoBlockNormal) -> None:
    assert guide.block_sizes == {3: 2, 5: 2}
    others = sum(guide.locs[site.key].numel() for site in guide.sites if site.name != "weights")
    assert guide.num_numbers == 16 + 2 * (3 * 4 // 2) + 2 * (5 * 6 // 2) + 2 * others


def test_it_learns(guide: AutoBlockNormal) -> None:
    elbo = MeanFieldELBO()(guide.model, guide)
    optimizer = torch.optim.Adam(elbo.parameters(), lr=0.05)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = elbo(X, Y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])


def test_bad_input() -> None:
    net = BayesianModule(nn.Linear(3, 1), likelihoods.Normal())
    with pytest.raises(TypeError, match="model: expected a BayesianModule, got function"):
        AutoBlockNormal(lambda: None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="16 entries together; expected at most max_entries=10"):
        AutoBlockNormal(net, max_entries=10)
    decentred = BayesianModule(nn.Linear(3, 1), likelihoods.Normal(), centered=False)
    with pytest.raises(ValueError, match="model: expected centered=True"):
        AutoBlockNormal(decentred)
    soft = Assignment(torch.zeros(4, 2, dtype=torch.long), 1, torch.full((4, 2), 0.5))
    with pytest.raises(ValueError, match="blocks: expected each weight in one block"):
        AutoBlockNormal(net, blocks=soft)
