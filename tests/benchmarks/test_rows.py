# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A covariance for each unit, against a regression's exact posterior and torch's divergence."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from benchmarks.moments import MODE, SHAPE
from benchmarks.rows import RowNet


def scrambled(*sizes):
    torch.manual_seed(0)
    layers = []
    for first, second in itertools.pairwise(sizes):
        layers += [nn.Linear(first, second), nn.ReLU()]
    net = RowNet(nn.Sequential(*layers[:-1]))
    with torch.no_grad():
        for factor in net.factors:
            factor.add_(0.3 * torch.randn_like(factor))
    return net


@torch.no_grad()
def test_divergence_from_the_best_prior():
    net = scrambled(3, 4, 2)
    expected = 0.0
    for number, (mean, fan_in) in enumerate(zip(net.means, (3, 4), strict=True)):
        q = MultivariateNormal(mean, scale_tril=net.cholesky(number))
        second = float((mean.square() + q.variance).sum())
        count = 2 * (SHAPE + 1)
        prior = (second + count * MODE / fan_in) / (mean.numel() + count)
        p = MultivariateNormal(torch.zeros_like(mean), prior * torch.eye(mean.shape[1]))
        expected += float(kl_divergence(q, p).sum())
    assert float(net.kl()) == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_noise_of_outputs_is_that_of_weights():
    """For each row of data alike, though drawn in another way."""
    net = scrambled(3, 6, 1)
    x = torch.randn(5, 3)
    draws = net.run(x, 20_000)
    local = torch.stack([net(x)[:, 0] for _ in range(20_000)])
    error = draws.std(0) * math.sqrt(2 / 20_000)
    assert ((draws.mean(0) - local.mean(0)).abs() < 4 * error).all()
    torch.testing.assert_close(draws.std(0), local.std(0), rtol=0.05, atol=0.0)


def test_a_linear_regression():
    """One unit without hidden layers: the exact posterior, given the prior's scale."""
    torch.manual_seed(1)
    x = torch.randn(40, 2)
    y = x @ torch.tensor([[1.0], [-0.5]]) + 0.3 + 0.5 * torch.randn(40, 1)
    net = RowNet(nn.Sequential(nn.Linear(2, 1)))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3000)
    for _ in range(3000):
        optimizer.zero_grad()
        (0.5 * ((y - net(x)) / 0.5).square().sum() + net.kl()).backward()
        optimizer.step()
        schedule.step()
    inputs = torch.cat([x, torch.ones(40, 1)], 1)
    with torch.no_grad():
        mean, factor = net.means[0], net.cholesky(0)
        count = 2 * (SHAPE + 1)
        second = mean.square().sum() + factor.square().sum()
        prior = (second + count * MODE / 2) / (3 + count)
        precision = inputs.T @ inputs / 0.25 + torch.eye(3) / prior
        expected = torch.linalg.solve(precision, inputs.T @ y / 0.25)[:, 0]
        covariance = precision.inverse()
        sd = covariance.diagonal().sqrt()
        assert ((mean[0] - expected).abs() < 0.15 * sd).all()
        torch.testing.assert_close(
            (factor @ factor.mT)[0] / sd / sd[:, None],
            covariance / sd / sd[:, None],
            rtol=0.0,
            atol=0.15,
        )
