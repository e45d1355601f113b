# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Draws of chains in files, written while they are made, so that a run can be stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ..storage import read_file, write_file
from .diagnostics import diagnose

DRAWS, STATE = "mcmc_draws", "mcmc_state"
LOG_JOINT, ENERGY = "_log_joint", "_energy"


class ChainFiles:
    """
    One chain's part of a folder: draws, a file for every so many, and where the chain stands.

    :param path: the folder.
    :param int chain: the chain's number.
    """

    def __init__(self, path: str | Path, chain: int) -> None:
        self.path, self.chain = Path(path), chain

    @property
    def state_path(self) -> Path:
        """Where the chain stands."""
        return self.path / f"chain{self.chain}_state.safetensors"

    def draws_paths(self) -> list[Path]:
        """The files of draws, in order, up to where the chain stands."""
        if not self.state_path.exists():
            return []
        _, state = self.read_state()
        names = [f"chain{self.chain}_draws{first:08d}.safetensors" for first in state["firsts"]]
        return [self.path / name for name in names]

    def write(self, draws: dict[str, Tensor], state: dict[str, Tensor], notes: Any) -> None:
        """Keep new draws, each ``[S, ...]``, and then where the chain stands after them."""
        first = notes["firsts"][-1]
        write_file(self.path / f"chain{self.chain}_draws{first:08d}.safetensors", DRAWS, draws, {})
        write_file(self.state_path, STATE, state, notes)

    def read_state(self) -> tuple[dict[str, Tensor], Any]:
        """
        :raises ValueError: if the file is damaged.
        """
        return read_file(self.state_path, STATE)


class StoredDraws:
    """
    Draws that :func:`run_mcmc` has written to a folder, read as they are asked for.

    Example::

        >>> import tempfile
        >>> def model(y):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(z, 1.0), obs=y)
        >>> options = {"num_samples": 10, "warmup_steps": 10, "num_chains": 2, "progress": False}
        >>> with tempfile.TemporaryDirectory() as path:
        ...     _ = mcmc.run_mcmc(model, torch.tensor(2.0), path=path, **options)
        ...     mcmc.StoredDraws(path).get_samples()["z"].shape
        torch.Size([20])

    :param path: the folder.
    :raises FileNotFoundError: if there are no chains.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        numbers = sorted(
            int(file.name.removeprefix("chain").partition("_")[0])
            for file in self.path.glob("chain*_state.safetensors")
        )
        if not numbers:
            raise FileNotFoundError(f"path: there are no draws in {self.path}")
        self.chains = [ChainFiles(self.path, number) for number in numbers]

    @property
    def num_draws(self) -> int:
        """Of each chain: as many as all have."""
        return min(chain.read_state()[1]["draws"] for chain in self.chains)

    @property
    def divergences(self) -> Tensor:
        """Divergent moves of each chain, ``[chains]``."""
        return torch.tensor([c.read_state()[1]["divergences"] for c in self.chains])

    @property
    def log_joint(self) -> Tensor:
        """As in :class:`MCMCResult`, ``[chains, draws]``."""
        return self._load([LOG_JOINT])[LOG_JOINT]

    @property
    def energy(self) -> Tensor:
        """As in :class:`MCMCResult`, ``[chains, draws]``."""
        return self._load([ENERGY])[ENERGY]

    @property
    def sites(self) -> list[str]:
        """Names of the latent sites."""
        names = list(read_file(self.chains[0].draws_paths()[0], DRAWS)[0])
        return [name for name in names if not name.startswith("_")]

    def chunks(self) -> Iterator[dict[str, Tensor]]:
        """A part of one chain's draws after the other, by site, ``[S, ...]``."""
        for chain in self.chains:
            for path in chain.draws_paths():
                found, _ = read_file(path, DRAWS)
                yield {name: value for name, value in found.items() if not name.startswith("_")}

    def get_samples(
        self, group_by_chain: bool = False, sites: Sequence[str] | None = None, thin: int = 1
    ) -> dict[str, Tensor]:
        """
        Draws in memory, as :meth:`pyro.infer.MCMC.get_samples` gives them.

        :param bool group_by_chain: keep ``[chains, draws, ...]`` apart.
        :param sites: some sites only.
        :param int thin: every so many draws only.
        :raises KeyError: if there is no such site.
        """
        unknown = [site for site in sites or () if site not in self.sites]
        if unknown:
            raise KeyError(f"sites: expected some of {self.sites}, got {unknown[0]!r}")
        found = self._load(self.sites if sites is None else sites, thin)
        return found if group_by_chain else {k: v.flatten(0, 1) for k, v in found.items()}

    def diagnostics(self) -> pd.DataFrame:
        """As :meth:`MCMCResult.diagnostics`, one site in memory at a time."""
        rows = [diagnose({"log_joint": self.log_joint})]
        rows += [diagnose(self.get_samples(True, [site])) for site in self.sites]
        return pd.concat(rows)

    def _load(self, names: Sequence[str], thin: int = 1) -> dict[str, Tensor]:
        number, chains = self.num_draws, []
        for chain in self.chains:
            parts = [read_file(path, DRAWS)[0] for path in chain.draws_paths()]
            chains.append(
                {name: torch.cat([part[name] for part in parts])[:number:thin] for name in names}
            )
        return {name: torch.stack([chain[name] for chain in chains]) for name in names}


def check_settings(path: Path, settings: dict[str, Any]) -> None:
    """
    Keep what a run depends on, and refuse a folder of another.

    :raises ValueError: if the folder holds draws made with other settings.
    """
    file = path / "settings.json"
    path.mkdir(parents=True, exist_ok=True)
    if file.exists():
        there = json.loads(file.read_text())
        odd = {name: value for name, value in settings.items() if there.get(name) != value}
        if odd:
            name, value = next(iter(odd.items()))
            raise ValueError(
                f"path: {path} holds draws made with {name}={there.get(name)!r}, expected {value!r}"
            )
    else:
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(settings))
        temporary.replace(file)
