# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Draws of any posterior, some of every chain's at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ..guides import posterior_draws
from ..mcmc.draws import sample_stats
from ..predictive import COPIES


class Draws:
    """
    Draws of a guide, made as they are asked for, or given ones.

    :param posterior: a guide, draws by site, or what has run chains.
    :param int num_draws: how many from a guide.
    :param int num_chains: how many chains there are; what has run chains knows it.
    :param args: the model's, for a guide.
    :param int num_numbers: of one draw.
    :raises ValueError: if the draws do not make chains of equal length.
    """

    def __init__(
        self,
        posterior: Any,
        num_draws: int,
        num_chains: int,
        args: tuple[Any, ...],
        num_numbers: int,
    ) -> None:
        self.stats: dict[str, Tensor] = {}
        self.guide: Any = None
        self.given: dict[str, Tensor] = {}
        self._args = args
        if hasattr(posterior, "get_samples"):  # of chains, in memory or in files
            self.stats = sample_stats(posterior)
            by_chain = posterior.get_samples(group_by_chain=True)
            num_chains = len(next(iter(by_chain.values())))
            posterior = {name: value.flatten(0, 1) for name, value in by_chain.items()}
        if isinstance(posterior, Mapping):
            self.given = {name: value.detach() for name, value in posterior.items()}
            num_draws = len(next(iter(self.given.values()), ()))
        else:
            self.guide = posterior
        if num_chains < 1 or num_draws % num_chains or not num_draws:
            raise ValueError(f"num_chains: {num_draws} draws do not make {num_chains} equal chains")
        self.num_chains, self.length = num_chains, num_draws // num_chains
        held = COPIES * 4 * num_numbers * num_chains
        self.at_once = max(1, min(self.length, int(2**30 / max(held, 1))))

    def blocks(self, at_once: int | None = None) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """
        The number of the first draw of a block, and the block, by site ``[S, ...]``: of one chain
        after the other.

        :param int at_once: of each chain; default: as many as fit into a gibibyte.
        """
        size = min(at_once or self.at_once, self.length)
        for first in range(0, self.length, size):
            count = min(size, self.length - first)
            yield first, self._block(first, count)

    def _block(self, first: int, count: int) -> dict[str, Tensor]:
        if self.guide is not None:
            return posterior_draws(self.guide, count * self.num_chains, *self._args)
        if count == self.length:
            return self.given
        return {
            name: value.unflatten(0, (self.num_chains, self.length))[
                :, first : first + count
            ].flatten(0, 1)
            for name, value in self.given.items()
        }
