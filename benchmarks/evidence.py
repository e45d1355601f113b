# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Laplace's estimate of a net's evidence under a given prior of its weights."""

import math

import pyro
import torch
from torch import Tensor
from torch.func import grad, vmap

import pyro_groupprior as pgp

STEPS, LR = 2000, 0.01


def laplace_evidence(
    model: pgp.BayesianModule, samples: dict[str, Tensor], x: Tensor, y: Tensor
) -> float:
    """Estimate the log marginal likelihood at hyperparameters and noise as they are drawn.

    From the last draw the weights climb to a mode. The Hessian is the generalised Gauss-Newton
    matrix, its determinant that of its rows-by-rows form (MacKay 1992, "A Practical Bayesian
    Framework for Backpropagation Networks"; Immer et al. 2021, "Scalable Marginal Likelihood
    Estimation for Model Selection in Deep Learning").

    :param samples: Draws by site; hyperparameters and noise are taken at their medians.
    :param Tensor x: Inputs of a regression, ``N`` rows.
    :param Tensor y: Targets, shape ``[N, 1]``.
    """
    latents = {k: v.median(0).values for k, v in samples.items() if k != model.site}
    with torch.no_grad(), pyro.poutine.condition(data=latents):
        prior = pyro.poutine.trace(model).get_trace(x, y).nodes[model.site]["fn"]
    loc, variance, noise = prior.mean, prior.variance, latents["noise"].reshape(())

    def misfit(weights: Tensor) -> Tensor:
        residuals = (model.call_net(weights, x) - y) / noise
        return 0.5 * (residuals.square().sum() + ((weights - loc).square() / variance).sum())

    weights = samples[model.site][-1].clone().requires_grad_(True)
    optimizer = torch.optim.Adam([weights], lr=LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        misfit(weights).backward()
        optimizer.step()
        schedule.step()
    weights = weights.detach()
    slopes = vmap(grad(lambda w, row: model.call_net(w, row[None])[0, 0]), (None, 0))(weights, x)
    slopes = slopes.double() * variance.double().sqrt() / noise.double()
    volume = torch.logdet(slopes @ slopes.T + torch.eye(len(x), dtype=slopes.dtype))
    normal = len(x) * (0.5 * math.log(2 * math.pi) + noise.log())
    return -float(misfit(weights) + normal + 0.5 * volume)
