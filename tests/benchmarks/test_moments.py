# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Moments propagated in closed form, against draws and quadrature."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch import nn
from torch.func import functional_call

from benchmarks.moments import MODE, SHAPE, MomentNet, relu_moments


@pytest.mark.parametrize(
    ("mean", "variance"), [(0.0, 1.0), (1.0, 0.25), (-0.3, 4.0), (-3.0, 1.0), (8.0, 0.5)]
)
def test_rectified_normals(mean, variance):
    sd = math.sqrt(variance)
    first, second = (
        quad(lambda z, k=k: z**k * norm.pdf(z, mean, sd), 0, mean + 12 * sd)[0] for k in (1, 2)
    )
    found = relu_moments(*(torch.tensor(v, dtype=torch.float64) for v in (mean, variance)))
    np.testing.assert_allclose([float(v) for v in found], [first, second - first**2], rtol=1e-6)


def test_a_net_with_one_hidden_layer():
    """There the output's variance needs no covariance between units: they do not share weights."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 20), nn.ReLU(), nn.Linear(20, 1))
    moments = MomentNet(net)
    with torch.no_grad():
        for log_scale in moments.log_scales:
            log_scale.add_(torch.rand_like(log_scale))
        x = torch.randn(4, 3)
        mean, variance = moments(x)
        outputs = torch.stack(
            [
                functional_call(net, dict(zip(moments.names, weights, strict=True)), (x,))
                for weights in zip(*moments.draws(20_000).values(), strict=True)
            ]
        )
    error = outputs.std(0) / math.sqrt(len(outputs))
    assert ((outputs.mean(0) - mean).abs() < 4 * error).all()
    torch.testing.assert_close(outputs.var(0), variance, rtol=0.06, atol=0.0)


def test_divergence_from_the_best_prior():
    torch.manual_seed(1)
    moments = MomentNet(nn.Sequential(nn.Linear(3, 4)))
    expected = 0.0
    pairs = zip(moments.means, moments.log_scales, strict=True)
    for mean, log_scale in ((m.detach(), s.detach()) for m, s in pairs):
        count = 2 * (SHAPE + 1)
        squares = float((mean.square() + (2 * log_scale).exp()).sum())
        prior = (squares + count * MODE / 3) / (mean.numel() + count)
        q = torch.distributions.Normal(mean, log_scale.exp())
        p = torch.distributions.Normal(torch.zeros_like(mean), math.sqrt(prior))
        expected += float(torch.distributions.kl_divergence(q, p).sum())
    assert float(moments.kl().detach()) == pytest.approx(expected, rel=1e-5)
