# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Passes over a loader that a run can leave and resume."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


class ResumableBatches:
    """
    Passes over a loader that can be left and entered again in the middle of an epoch: the random
    state at the epoch's start is kept, so that the same shuffling can be drawn again.

    Exact for loaders that shuffle by torch's default generator or a ``generator`` of their own or
    of their sampler.
    """

    def __init__(self) -> None:
        self.position = 0
        self.epoch_start: Tensor | None = None
        self.loader_start: Tensor | None = None
        self._loader_next: Tensor | None = None
        self._generator: torch.Generator | None = None

    def state(self) -> dict[str, Tensor]:
        """The random states that a resumed run needs."""
        now = None if self._generator is None else self._generator.get_state()
        states = {
            "epoch_start": self.epoch_start,
            "loader_start": self.loader_start,
            "loader_next": self._loader_next if now is None else now,
        }
        return {name: value for name, value in states.items() if value is not None}

    def load_state(self, position: int, state: Mapping[str, Tensor]) -> None:
        """
        Stand where a saved run stood.

        :param int position: batches of the epoch that are done.
        :param state: of :meth:`state`.
        """
        self.position, self._generator = position, None
        self.epoch_start = state.get("epoch_start")
        self.loader_start = state.get("loader_start")
        self._loader_next = state.get("loader_next")

    def epoch(self, loader: Iterable[Any]) -> Iterator[Any]:
        """
        The batches of one epoch, from the present position on.

        :raises ValueError: if the loader gives no batch.
        """
        self._generator = own = _generator(loader)
        skip = self.position
        now = torch.get_rng_state()
        if skip and self.epoch_start is not None:
            torch.set_rng_state(self.epoch_start)
            if own is not None and self.loader_start is not None:
                own.set_state(self.loader_start)
        else:
            if own is not None and self._loader_next is not None:
                own.set_state(self._loader_next)
            self.epoch_start = now
            self.loader_start = None if own is None else own.get_state()
        self._loader_next = None
        batches = iter(loader)
        for number in range(skip):
            if next(batches, None) is None:
                raise ValueError(
                    f"loader: expected more than {number} batches, as the epoch that is resumed "
                    f"stood at batch {skip}; is it the same loader?"
                )
        if skip:
            torch.set_rng_state(now)
        for batch in batches:
            self.position += 1
            yield batch
        if self.position == 0:
            raise ValueError("loader: expected at least one batch, got none")
        self.position = 0


def _generator(loader: Any) -> torch.Generator | None:
    sampler = getattr(loader, "sampler", None)
    inner = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    for holder in (loader, sampler, inner):
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator):
            return generator
    return None
