# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What the tests of predictions share."""

from typing import Any

import pyro.poutine as poutine
import torch
from torch import Tensor, nn

from pyro_groupprior import (
    BayesianModule,
    likelihoods,
)

DRAWS = 40


def mlp(width_out: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, width_out))


def made(
    likelihood: likelihoods.Likelihood, net: nn.Module | None = None, **options: Any
) -> tuple[BayesianModule, dict[str, Tensor], Tensor]:
    """A model, draws for it, and inputs."""
    model = BayesianModule(mlp() if net is None else net, likelihood, **options)
    draws = {
        "weights": torch.randn(DRAWS, model.layout.num_weights),
        "noise": torch.rand(DRAWS) + 0.1,
    }
    return model, draws, torch.randn(7, 3)


def one_by_one(model: BayesianModule, weights: Tensor, x: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        outputs = [
            poutine.condition(model, data={"weights": draw})(x)
            for draw in weights.reshape(-1, weights.shape[-1])
        ]
    return torch.stack(outputs)
