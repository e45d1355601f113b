# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A mean-field net whose output's mean and variance are propagated in closed form.

Wu, Nowozin, Meeds, Turner, Hernández-Lobato, Gaunt (2019), "Deterministic Variational Inference
for Robust Bayesian Neural Networks", with covariances between units left out (their dDVI). The
constants of the prior are those of the authors' code.
"""

import math

import torch
from torch import Tensor, nn

FIRST_SCALE = 0.1  # of the posterior, times 1 / sqrt(fan-in)
SHAPE, MODE = 4.4798, 5.0  # of the inverse gamma prior; the mode times 1 / fan-in


class MomentNet(nn.Module):
    """Independent normal posteriors for the weights of linear layers with ReLU between them.

    :param torch.nn.Sequential net: Its weights are the posterior's first means.
    """

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.names = [name for name, _ in net.named_parameters()]
        self.fan_ins = [m.in_features for m in net if isinstance(m, nn.Linear) for _ in range(2)]
        self.means = nn.ParameterList(p.detach().clone() for p in net.parameters())
        self.log_scales = nn.ParameterList(
            torch.full_like(mean, math.log(FIRST_SCALE / math.sqrt(fan_in)))
            for mean, fan_in in zip(self.means, self.fan_ins)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Find mean and variance of the outputs for inputs of shape ``[B, D]``."""
        mean, variance = x, torch.zeros_like(x)
        for first in range(0, len(self.means), 2):
            if first:
                mean, variance = relu_moments(mean, variance)
            weight, bias = self.means[first : first + 2]
            spread, bias_spread = (p.mul(2).exp() for p in self.log_scales[first : first + 2])
            variance = (
                variance @ (weight.square() + spread).T + mean.square() @ spread.T + bias_spread
            )
            mean = mean @ weight.T + bias
        return mean, variance

    def kl(self) -> Tensor:
        """Find the divergence from the prior N(0, s), with the best s for each tensor.

        It is the mode given the posterior and an inverse gamma prior (their section 4).
        """
        total = torch.zeros(())
        for mean, log_scale, fan_in in zip(self.means, self.log_scales, self.fan_ins):
            squares, number = (mean.square() + (2 * log_scale).exp()).sum(), mean.numel()
            worth = 2 * (SHAPE + 1)  # of the hyperprior, in weights
            prior = (squares + worth * MODE / fan_in) / (number + worth)
            total = total + 0.5 * (number * (prior.log() - 1) + squares / prior) - log_scale.sum()
        return total

    def draws(self, num_draws: int) -> dict[str, Tensor]:
        """Draw weights, by their names in the net."""
        return {
            name: mean + log_scale.exp() * torch.randn(num_draws, *mean.shape)
            for name, mean, log_scale in zip(self.names, self.means, self.log_scales)
        }


def relu_moments(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Find mean and variance of ``max(z, 0)`` for normal ``z``."""
    scale = variance.sqrt()
    ratio = mean / scale
    below, above = torch.special.ndtr(-ratio), torch.special.ndtr(ratio)
    pdf = torch.exp(-0.5 * ratio.square()) / math.sqrt(2 * math.pi)
    soft = pdf + ratio * above
    # Of several forms, the one that does not cancel where z is far above zero.
    share = above + soft * (ratio * below - pdf)
    return scale * soft, variance * share.clamp(min=0.0)
