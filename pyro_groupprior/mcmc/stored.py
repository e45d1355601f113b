# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Draws of chains in files, read as they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from .chain_files import ChainFiles, read_run
from .diagnostics import diagnose, without_labels


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
    :raises FileNotFoundError: if there is no run, or not all of its chains have begun.
    :raises ValueError: if a file is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        run, settings = read_run(self.path)
        self.chains = [ChainFiles(self.path, n, run) for n in range(settings["num_chains"])]
        for chain in self.chains:
            if not chain.state_path.exists():
                raise FileNotFoundError(f"path: chain {chain.chain} has no draws in {self.path}")

    @property
    def sites(self) -> list[str]:
        """Names of the latent sites, and of assignments that were drawn."""
        return list(next(self.chains[0].draws(), {}))

    @property
    def num_draws(self) -> int:
        """Of each chain: as many as all have."""
        return min(chain.num_draws for chain in self.chains)

    @property
    def log_joint(self) -> Tensor:
        """As in :class:`MCMCResult`, ``[chains, draws]``."""
        return self._stat("log_joint")

    @property
    def energy(self) -> Tensor:
        """As in :class:`MCMCResult`, ``[chains, draws]``."""
        return self._stat("energy")

    @property
    def diverging(self) -> Tensor:
        """As in :class:`MCMCResult`, ``[chains, draws]``."""
        return self._stat("diverging")

    @property
    def num_steps(self) -> Tensor:
        """As in :class:`MCMCResult`, ``[chains, draws]``."""
        return self._stat("num_steps")

    @property
    def divergences(self) -> Tensor:
        """Divergent moves of each chain, ``[chains]``."""
        return self.diverging.sum(1)

    @property
    def step_size(self) -> Tensor:
        """Of each chain after the warm-up, ``[chains]``."""
        return torch.tensor([chain.read_state()[1]["step_size"] for chain in self.chains])

    @property
    def accept_prob(self) -> Tensor:
        """Mean probability of acceptance of each chain after the warm-up, ``[chains]``."""
        return torch.tensor([chain.read_state()[1]["accept_prob"] for chain in self.chains])

    def chunks(self) -> Iterator[dict[str, Tensor]]:
        """
        A part of one chain's draws after the other, by site, ``[S, ...]``: of every chain as many
        as all have.

        :raises ValueError: if there are chains without draws yet.
        """
        self._require_draws()
        for chain in self.chains:
            left = self.num_draws
            for part in chain.draws():
                rows = {name: value[:left] for name, value in part.items()}
                left -= (count := len(next(iter(rows.values()))))
                if count:
                    yield rows

    def get_samples(
        self, group_by_chain: bool = False, sites: Sequence[str] | None = None, thin: int = 1
    ) -> dict[str, Tensor]:
        """
        Draws in memory, as :meth:`pyro.infer.MCMC.get_samples` gives them; one file at a time is
        there besides.

        :param bool group_by_chain: keep ``[chains, draws, ...]`` apart.
        :param sites: some sites only.
        :param int thin: every so many draws only.
        :raises KeyError: if there is no such site.
        :raises ValueError: if ``thin`` is not positive, or there are chains without draws yet.
        """
        self._require_draws()
        unknown = [site for site in sites or () if site not in self.sites]
        if unknown:
            raise KeyError(f"sites: expected some of {self.sites}, got {unknown[0]!r}")
        if thin < 1:
            raise ValueError(f"thin: expected at least 1, got {thin}")
        names, number, chains = self.sites if sites is None else sites, self.num_draws, []
        for chain in self.chains:
            parts, start = [], 0
            for part in chain.draws():
                if start >= number:
                    break
                count = len(next(iter(part.values())))
                rows = slice((-start) % thin, max(number - start, 0), thin)
                parts.append({name: part[name][rows].clone() for name in names})
                start += count
            chains.append({name: torch.cat([part[name] for part in parts]) for name in names})
        found = {name: torch.stack([chain[name] for chain in chains]) for name in names}
        return found if group_by_chain else {k: v.flatten(0, 1) for k, v in found.items()}

    def diagnostics(self, sites: Sequence[str] | None = None) -> pd.DataFrame:
        """
        As :meth:`MCMCResult.diagnostics`, one site in memory at a time.

        :param sites: some sites only.
        """
        rows = [diagnose({"log_joint": self.log_joint})]
        names = without_labels(self.sites) if sites is None else sites
        rows += [diagnose(self.get_samples(True, [site])) for site in names]
        return pd.concat(rows)

    def _stat(self, name: str) -> Tensor:
        number = self.num_draws
        if not number:
            return torch.zeros(len(self.chains), 0)
        return torch.stack([chain.stats(name)[:number] for chain in self.chains])

    def _require_draws(self) -> None:
        if not self.num_draws:
            raise ValueError(f"path: not all chains in {self.path} have draws yet")
