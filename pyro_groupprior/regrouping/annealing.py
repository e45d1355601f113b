# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Strategies around strategies: softened, or drawn at random."""

from __future__ import annotations

import torch

from ..assignment import Assignment
from .posterior import WeightPosterior
from .strategy import Strategy


class Annealed:
    """
    Flatten a soft strategy's responsibilities in early phases, ``r^(1 / T)`` renormalised, with a
    temperature ``T`` that falls geometrically to one (deterministic annealing, Ueda and Nakano
    1998): early groups, found from a posterior that has learned little, then bind less.

    Example::

        >>> from sklearn.mixture import GaussianMixture
        >>> annealed = Annealed(Cluster(GaussianMixture(2), soft=2), temperature=4.0, phases=3)
        >>> [annealed.temperature_at(phase) for phase in range(4)]
        [4.0, 2.0, 1.0, 1.0]

    :param Strategy strategy: one that gives soft assignments.
    :param float temperature: of the first regroup, at least one.
    :param int phases: at which regroup it has reached one.
    :raises ValueError: if a number is out of range.
    """

    def __init__(self, strategy: Strategy, temperature: float = 4.0, phases: int = 5) -> None:
        if not temperature >= 1:
            raise ValueError(f"temperature: expected a number of at least 1, got {temperature}")
        if phases < 2:
            raise ValueError(f"phases: expected at least 2, got {phases}")
        self.strategy, self.temperature, self.phases = strategy, temperature, phases

    def temperature_at(self, phase: int) -> float:
        """The temperature after so many regroups."""
        left = max(1 - phase / (self.phases - 1), 0.0)
        return float(self.temperature**left)

    def propose(self, posterior: WeightPosterior) -> Assignment:
        """
        :raises ValueError: if the strategy gives a hard assignment.
        """
        found = self.strategy.propose(posterior)
        if found.responsibilities is None:
            raise ValueError("strategy: expected soft assignments to anneal, got hard ones")
        temperature = self.temperature_at(posterior.phase)
        if temperature == 1.0:
            return found
        shares = found.responsibilities.pow(1 / temperature)
        return Assignment.trusted(
            found.index, found.num_groups, shares / shares.sum(1, keepdim=True)
        )


class Sampled:
    """
    Draw each weight's one group from a soft strategy's responsibilities: a stochastic EM (Celeux
    and Diebolt 1985), which leaves poor local optima by chance.

    Example::

        >>> from sklearn.mixture import GaussianMixture
        >>> sampled = Sampled(Cluster(GaussianMixture(2), soft=2))

    :param Strategy strategy: one that gives soft assignments.
    :param int seed: the draws depend on it and on the number of regroups only.
    """

    def __init__(self, strategy: Strategy, seed: int = 0) -> None:
        self.strategy, self.seed = strategy, seed

    def propose(self, posterior: WeightPosterior) -> Assignment:
        """
        :raises ValueError: if the strategy gives a hard assignment.
        """
        found = self.strategy.propose(posterior)
        if found.responsibilities is None:
            raise ValueError("strategy: expected soft assignments to draw from, got hard ones")
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * posterior.phase)
        level = torch.rand(found.num_weights, 1, generator=generator).to(found.device)
        slot = (found.responsibilities.cumsum(1) < level).sum(1, keepdim=True)
        slot = slot.clamp(max=found.index.shape[1] - 1)
        return Assignment.trusted(found.index.gather(1, slot).squeeze(1), found.num_groups, None)
