# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A run of chains in a folder, written while it is made, so that it can be stopped."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..storage import read_file, write_file

RUN, DRAWS, STATS, STATE = "mcmc_run", "mcmc_draws", "mcmc_stats", "mcmc_state"
_ENDING = ".safetensors"
_CLOSE = 1e-3  # relative and absolute: starts and densities may differ on another machine


class ChainFiles:
    """
    One chain's part of a folder: draws, a file for every so many, what there is to say of the moves
    that led to them, and where the chain stands.

    :param path: the folder.
    :param int chain: the chain's number.
    :param str run: of which run; files of others are refused.
    """

    def __init__(self, path: str | Path, chain: int, run: str) -> None:
        self.path, self.chain, self.run = Path(path), chain, run

    @property
    def state_path(self) -> Path:
        """Where the chain stands."""
        return self.path / f"chain{self.chain}_state{_ENDING}"

    @property
    def num_draws(self) -> int:
        """How many draws there are."""
        return sum(self._counts)

    @property
    def _counts(self) -> list[int]:
        """Of draws, by file."""
        if not self.state_path.exists():
            return []
        counts: list[int] = self.read_state()[1]["counts"]
        return counts

    def draws(self) -> Iterator[dict[str, Tensor]]:
        """
        Draws by site, ``[S, ...]``, of one file after the other.

        :raises FileNotFoundError: if a file is missing.
        :raises ValueError: if a file is damaged, or that of others.
        """
        return self._read("draws", DRAWS)

    def stats(self, name: str) -> Tensor:
        """
        One number for each move, ``[S]``.

        :raises FileNotFoundError: if a file is missing.
        :raises ValueError: if a file is damaged, or that of others.
        """
        parts = [part[name] for part in self._read("stats", STATS)]
        return torch.cat(parts) if parts else torch.zeros(0)

    def write(
        self,
        draws: dict[str, Tensor],
        stats: dict[str, Tensor],
        state: dict[str, Tensor],
        notes: dict[str, Any],
    ) -> None:
        """
        Keep new draws, and then where the chain stands after them.

        :param draws: by site, each ``[S, ...]``; none after the warm-up.
        :param stats: by name, each ``[S]``.
        :param state: tensors to go on from.
        :param notes: the same, for what JSON can hold.
        """
        counts = self._counts
        if draws:
            count = len(next(iter(stats.values())))
            about = self._about(sum(counts), count)
            write_file(self._file("draws", sum(counts)), DRAWS, draws, about)
            write_file(self._file("stats", sum(counts)), STATS, stats, about)
            counts = [*counts, count]
        notes = {**notes, "counts": counts, "chain": self.chain, "run": self.run}
        write_file(self.state_path, STATE, state, notes)

    def read_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """
        :raises ValueError: if the file is damaged, or that of another chain or run.
        """
        state, notes = read_file(self.state_path, STATE)
        self._check(self.state_path, notes, {"chain": self.chain, "run": self.run})
        return state, notes

    def _read(self, name: str, kind: str) -> Iterator[dict[str, Tensor]]:
        first = 0
        for count in self._counts:
            path = self._file(name, first)
            found, about = read_file(path, kind)
            self._check(path, about, self._about(first, count))
            yield found
            first += count

    def _file(self, name: str, first: int) -> Path:
        return self.path / f"chain{self.chain}_{name}{first:08d}{_ENDING}"

    def _about(self, first: int, count: int) -> dict[str, Any]:
        return {"chain": self.chain, "first": first, "count": count, "run": self.run}

    def _check(self, path: Path, notes: dict[str, Any], expected: dict[str, Any]) -> None:
        for name, value in expected.items():
            if notes.get(name) != value:
                got = notes.get(name)
                raise ValueError(
                    f"path: {path} is of another {name}: expected {value!r}, got {got!r}"
                )


def open_run(
    path: Path, settings: dict[str, Any], starts: dict[str, Tensor]
) -> tuple[str, dict[str, Any]]:
    """
    Begin a run in a folder, or go on with one that began in the same way.

    :param path: the folder, made if it is not there.
    :param settings: what the draws depend on besides; ``planned`` is taken from where it began.
    :param starts: tensors that they depend on, such as where chains start: nearly the same.
    :return: the run's name, and its settings.
    :raises NotADirectoryError: if the path is that of a file.
    :raises ValueError: if the folder holds another run, or draws of none.
    """
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"path: expected a folder, {path} is a file")
    path.mkdir(parents=True, exist_ok=True)
    if not (path / f"run{_ENDING}").exists():
        if any(path.glob(f"chain*{_ENDING}")):
            raise ValueError(f"path: {path} holds draws, but nothing that says of which run")
        run = uuid.uuid4().hex
        write_file(path / f"run{_ENDING}", RUN, starts, {**settings, "run": run})
        return run, settings
    there, notes = read_file(path / f"run{_ENDING}", RUN)
    for name, value in settings.items():
        if name != "planned" and notes.get(name) != value:
            raise ValueError(
                f"path: {path} holds draws made with {name}={notes.get(name)!r}, expected {value!r}"
            )
    for name, start in starts.items():
        if not torch.allclose(there[name], start.cpu(), _CLOSE, _CLOSE):
            raise ValueError(
                f"path: {path} holds draws of another model, or from another start: {name} differ"
            )
    return notes["run"], notes


def read_run(path: Path) -> tuple[str, dict[str, Any]]:
    """
    The name and the settings of the run in a folder.

    :raises FileNotFoundError: if there is none.
    :raises ValueError: if the file is damaged.
    """
    file = path / f"run{_ENDING}"
    if not file.exists():
        raise FileNotFoundError(f"path: there are no draws in {path}")
    _, notes = read_file(file, RUN)
    return notes["run"], notes
