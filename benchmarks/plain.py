# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The judge's model as most users of Pyro would write it."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
from torch import Tensor, nn


def linear_layers(net: nn.Sequential) -> list[nn.Linear]:
    """List a ReLU net's linear layers."""
    return [layer for layer in net if isinstance(layer, nn.Linear)]


def plain_model(net: nn.Sequential) -> Callable[..., Tensor]:
    """Write a hierarchical ReLU net with a site per tensor; it returns the function."""
    layers = linear_layers(net)

    def model(x: Tensor, y: Tensor | None = None) -> Tensor:
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 1.0))
        for number, layer in enumerate(layers):
            loc = pyro.sample(f"loc{number}", dist.Normal(0.0, 1.0))
            scale = pyro.sample(f"scale{number}", dist.LogNormal(0.0, 1.0))
            base = layer.in_features**-0.5
            prior = dist.Normal(base * loc, base * scale)
            weight = pyro.sample(f"w{number}", prior.expand(layer.weight.shape).to_event(2))
            bias = pyro.sample(f"b{number}", prior.expand(layer.bias.shape).to_event(1))
            x = x @ weight.T + bias
            x = x.relu() if number + 1 < len(layers) else x
        with pyro.plate("rows", len(x)):
            pyro.sample("obs", dist.Normal(x[:, 0], noise), obs=None if y is None else y[:, 0])
        return x[:, 0]

    return model
