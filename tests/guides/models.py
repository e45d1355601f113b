# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A model with sites of every kind, and guides for it."""

import pyro
import pyro.distributions as dist
import torch

from pyro_groupprior import AutoBlockNormal, AutoFullRank, AutoLowRank, AutoMeanField

#: This package's guides, with options for a net of 16 weights, and three inputs for it.
GUIDES = [
    (AutoMeanField, {}),
    (AutoLowRank, {"rank": 3}),
    (AutoBlockNormal, {}),
    (AutoFullRank, {}),
]
X, Y = torch.randn(9, 3), torch.randn(9, 1)
SHAPES = {
    "real": (), "positive": (), "unit": (), "interval": (), "vector": (5,), "simplex": (3, 1, 4),
    "inner_real": (3, 2), "inner_positive": (3, 2), "inner_simplex": (3, 2, 3),
    "inner_vector": (3, 2, 5), "inner.dotted": (3, 2),
}  # fmt: skip


def everything():
    """Supports of every kind, outside plates and inside plates two deep."""
    pyro.sample("real", dist.Normal(0.0, 1.0))
    pyro.sample("positive", dist.LogNormal(0.0, 1.0))
    pyro.sample("unit", dist.Beta(2.0, 2.0))
    pyro.sample("interval", dist.Uniform(-1.0, 3.0))
    pyro.sample("vector", dist.Normal(torch.zeros(5), 1.0).to_event(1))
    with pyro.plate("rows", 3, dim=-2):
        pyro.sample("simplex", dist.Dirichlet(torch.ones(4)))
        with pyro.plate("columns", 2, dim=-1):
            pyro.sample("inner_real", dist.StudentT(3.0, 0.0, 1.0))
            pyro.sample("inner_positive", dist.Gamma(2.0, 1.0))
            pyro.sample("inner_simplex", dist.Dirichlet(torch.ones(3)))
            pyro.sample("inner_vector", dist.Normal(torch.zeros(5), 1.0).to_event(1))
            pyro.sample("inner.dotted", dist.Normal(0.0, 1.0))


def randomised(model, *args, seed=0, kind=AutoMeanField):
    guide = kind(model)
    guide.setup(*args)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return guide
