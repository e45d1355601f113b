# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A regression whose posterior is known, and a net to run short chains of."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_groupprior as pgp

LOC, SCALE, NOISE = 0.5, 2.0, 0.7
SHORT = {"num_samples": 4, "num_chains": 3, "ascent_steps": 5, "progress": False}


def linear(x, y, num_data=None):
    """A regression with a known prior and known noise; a batch stands for ``num_data`` rows."""
    groups = pgp.Assignment(torch.zeros(x.shape[1], dtype=torch.long))
    beta = pgp.group_prior("beta", groups, loc=LOC, scale=SCALE)
    factor = 1.0 if num_data is None else num_data / len(x)
    with pyro.poutine.scale(scale=factor), pyro.plate("data", len(x)):
        # Outer plates put dimensions in front, which a matrix product would not see.
        pyro.sample("y", dist.Normal((x * beta).sum(-1), NOISE), obs=y)


def exact(x, y):
    """Mean and covariance of its posterior."""
    precision = x.T @ x / NOISE**2 + torch.eye(x.shape[1]) / SCALE**2
    covariance = precision.inverse()
    return covariance @ (x.T @ y / NOISE**2 + LOC / SCALE**2), covariance


def small_net(num_data=12):
    """17 weights."""
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    return pgp.BayesianModule(net, pgp.likelihoods.Normal(), num_data=num_data)
