# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A regression whose posterior is known."""

import pyro
import pyro.distributions as dist
import torch

import pyro_groupprior as pgp

LOC, SCALE, NOISE = 0.5, 2.0, 0.7


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
