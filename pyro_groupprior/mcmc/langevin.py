# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Langevin dynamics on minibatches: its steps, and the heat that minibatches bring in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .gradient import ValueAndGradient

Batch = tuple[Any, ...]

STABLE = 0.25  # of a step that is stable below 2: sites move together, and curvature changes
MOST_HEAT = 0.5  # of a latent's momenta, the share that may come from minibatches
FIRST_SHARE, GROWTH = 0.1, 1.1  # of the step: where chains start, the curvature is not yet known
FORGET_CURVATURE, FORGET_NOISE = 0.2, 0.02  # of what is known of them, at each look
FLAT = 1e-4  # curvature that counts as none
APART = 0.01  # distance of the two positions whose gradients tell the curvature


class LangevinAdaptation:
    r"""
    Step sizes of underdamped Langevin dynamics, for each latent of each chain, and the temperature
    of the noise to be injected.

    A step is bounded by the site's curvature, found by a power iteration on differences of
    gradients that goes on while the chains move: hyperparameters that thousands of weights hang on
    allow a hundredth of the steps of the weights. It is also bounded by the noise that minibatches
    bring to the latent. With a gradient's variance :math:`V` and momenta that keep a share
    :math:`a` at each step :math:`h`, they come to a variance of
    :math:`T + a^2 h^2 V / (1 - a^2)`, where :math:`T` is the temperature of what is injected; so
    :math:`T` is chosen for each latent to make it 1 (Chen et al. 2014, "Stochastic gradient
    Hamiltonian Monte Carlo", equation 13; here with a variance for each latent of each chain, and
    none for pairs of latents).

    Example::

        >>> from pyro_groupprior.mcmc.gradient import value_and_gradient
        >>> from pyro_groupprior.mcmc.langevin import LangevinAdaptation
        >>> evaluate = value_and_gradient(lambda z: -50 * z.square().sum(1))  # curvature 100
        >>> adaptation = LangevinAdaptation([slice(0, 2)], torch.ones(1, 2), memory=10)
        >>> for _ in range(30):
        ...     adaptation.look(evaluate, torch.ones(1, 2), ())
        ...     adaptation.grow(torch.ones(1, 2))
        >>> adaptation.step
        tensor([[0.0250, 0.0250]])

    :param places: where in a position each site is.
    :param Tensor position: of the chains, shape ``[C, D]``.
    :param float memory: steps after which a momentum has lost all but a share 1/e.
    """

    def __init__(self, places: Sequence[slice], position: Tensor, memory: float) -> None:
        self.places, self.keep = list(places), math.exp(-1 / memory)
        self.share = position.new_full((len(position), 1), FIRST_SHARE)
        self.step, self.temperature = torch.zeros_like(position), torch.ones_like(position)
        self._directions = [torch.randn_like(position[:, place]) for place in self.places]
        self._curvature = position.new_zeros(len(position), len(self.places))
        self._variance = torch.zeros_like(position)
        self._looks = self._differences = 0

    def look(self, evaluate: ValueAndGradient, position: Tensor, batch: Batch) -> None:
        """
        One iteration for every site's curvature.

        :param callable evaluate: log-density and gradient at positions ``[C, D]``, given a batch.
        :param batch: data, new ones each time.
        :raises FloatingPointError: if a gradient has NaN or inf.
        """
        _, gradient = evaluate(position, *batch)
        self._looks += 1
        forget = max(FORGET_CURVATURE, 1 / self._looks)
        for number, place in enumerate(self.places):
            direction = self._directions[number]
            moved = position.clone()
            moved[:, place] += APART * direction / direction.norm(dim=1, keepdim=True)
            _, ahead = evaluate(moved, *batch)
            image = (gradient - ahead)[:, place] / APART
            size = image.norm(dim=1, keepdim=True).clamp(min=FLAT)
            self._directions[number] = torch.where(size > FLAT, image / size, direction)
            self._curvature[:, number].lerp_(size[:, 0], forget)
        if not bool(self._curvature.isfinite().all()):
            raise FloatingPointError(
                "model: the gradient of its log-density has NaN or inf where chains have moved"
            )

    def see_noise(self, gradient: Tensor, again: Tensor) -> None:
        """
        One more difference between two batches.

        :param Tensor gradient: of one, shape ``[C, D]``.
        :param Tensor again: of another at the same position.
        """
        self._differences += 1
        forget = max(FORGET_NOISE, 1 / self._differences)
        self._variance.lerp_((gradient - again).square() / 2, forget)
        self._set_temperature()

    def grow(self, momentum: Tensor) -> None:
        """
        Set the steps: a little longer than before, or half as long where a chain has run hot.

        :param Tensor momentum: of the chains, shape ``[C, D]``.
        """
        hot = 1 + 10 * math.sqrt(2 / momentum.shape[1])  # ten standard errors
        is_hot = momentum.square().mean(1, keepdim=True) > hot
        self.share = torch.where(is_hot, self.share / 2, (self.share * GROWTH).clamp(max=1.0))
        for number, place in enumerate(self.places):
            steps = STABLE * self._curvature[:, number : number + 1].rsqrt()
            heat = steps.square() * self._heating * self._variance[:, place]
            steps = steps * (MOST_HEAT / heat.clamp(min=MOST_HEAT)).sqrt()
            self.step[:, place] = self.share * steps
        self._set_temperature()

    def move(self, position: Tensor, momentum: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """
        One step by BAOA, which needs one gradient (Leimkuhler and Matthews 2015, "Molecular
        Dynamics", page 271).

        :return: position and momentum after it.
        """
        momentum = momentum + self.step * gradient
        position = position + 0.5 * self.step * momentum
        injected = ((1 - self.keep**2) * self.temperature).sqrt()
        momentum = self.keep * momentum + injected * torch.randn_like(momentum)
        return position + 0.5 * self.step * momentum, momentum

    @property
    def _heating(self) -> float:
        return self.keep**2 / (1 - self.keep**2)

    def _set_temperature(self) -> None:
        heat = self.step.square() * self._heating * self._variance
        self.temperature = (1 - heat).clamp(min=0)
