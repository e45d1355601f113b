# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""How chains of HMC that run side by side choose one step size and one diagonal mass matrix."""

from __future__ import annotations

import math

import torch
from pyro.ops.dual_averaging import DualAveraging
from torch import Tensor

FIRST_WINDOW = 20  # moves; each window is twice as long as the one before
FIRST_STEP = 1e-3


class Adaptation:
    """
    Step size by dual averaging of the chains' mean probability of acceptance; inverse mass, in
    windows of doubling length, by the variance within chains, averaged over them (Hoffman and
    Gelman 2014, "The No-U-Turn sampler", section 3.2; windows and shrinkage as in Stan).

    Example::

        >>> from pyro_groupprior.mcmc.adaptation import Adaptation
        >>> adaptation = Adaptation(size=3, num_moves=100, target=0.8)
        >>> adaptation.windows
        [20, 60]

    :param int size: length ``D`` of a position.
    :param int num_moves: moves in the warm-up.
    :param float target: probability of acceptance aimed at.
    :param like: a tensor of the dtype and device wanted.
    """

    def __init__(
        self, size: int, num_moves: int, target: float, like: Tensor | None = None
    ) -> None:
        like = torch.zeros(()) if like is None else like
        self.inverse_mass = like.new_ones(size)
        self.target, self.step_size = target, FIRST_STEP
        self.windows, end, length = [], FIRST_WINDOW, FIRST_WINDOW
        # The last part of the warm-up only tunes the step size.
        while end <= 0.75 * num_moves:
            self.windows.append(end)
            length *= 2
            end += length
        self._moves = self._seen = 0
        self._mean: Tensor | None = None
        self._square: Tensor | None = None
        self._restart()

    def update(self, position: Tensor, accept_prob: Tensor) -> None:
        """
        Learn from one move of the warm-up.

        :param Tensor position: after it, shape ``[C, D]``.
        :param Tensor accept_prob: of each chain's proposal, shape ``[C]``.
        """
        self._moves += 1
        self._averaging.step(self.target - float(accept_prob.mean()))
        self.step_size = math.exp(self._averaging.get_state()[0])
        self._accumulate(position)
        if self._moves in self.windows:
            self._set_mass()

    def finish(self) -> None:
        """End the warm-up: the step size becomes the average of the last window's."""
        if self._moves:
            self.step_size = math.exp(self._averaging.get_state()[1])

    def _restart(self) -> None:
        # Its first step is ten times as large: to come down costs a rejection, to grow costs time.
        self._averaging = DualAveraging(prox_center=math.log(10 * self.step_size))

    def _accumulate(self, position: Tensor) -> None:
        """Mean and sum of squares within each chain (Welford)."""
        if self._mean is None or self._square is None:
            self._mean, self._square = torch.zeros_like(position), torch.zeros_like(position)
        self._seen += 1
        difference = position - self._mean
        self._mean += difference / self._seen
        self._square += difference * (position - self._mean)

    def _set_mass(self) -> None:
        assert self._square is not None
        variance = self._square.mean(0) / (self._seen - 1)
        number = self._seen * len(self._square)
        inverse_mass = (number * variance + 5 * 1e-3) / (number + 5)
        # A step is so many standard deviations as before, in the new unit.
        self.step_size *= float((self.inverse_mass.log() - inverse_mass.log()).mean().div(2).exp())
        self.inverse_mass = inverse_mass
        self._mean, self._square, self._seen = None, None, 0
        self._restart()
