# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Draws of several chains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: ArviZ's names of what may be known of the moves that led to draws.
STATS = {
    "log_joint": "lp",
    "energy": "energy",
    "diverging": "diverging",
    "num_steps": "n_steps",
    "step_size": "step_size",
    "accept_prob": "acceptance_rate",
}


@dataclass(frozen=True, eq=False)
class ChainDraws(Mapping[str, Tensor]):
    """
    Draws of chains that ran side by side. As a mapping it holds them by site, one chain after the
    other, ``[chains * draws, ...]``: what :func:`~pyro_groupprior.predict` and
    :func:`~pyro_groupprior.save_draws` take.

    Example::

        >>> from pyro_groupprior.mcmc.draws import ChainDraws
        >>> draws = ChainDraws({"z": torch.zeros(4, 100, 3)})
        >>> list(draws), draws["z"].shape, draws.samples["z"].shape
        (['z'], torch.Size([400, 3]), torch.Size([4, 100, 3]))

    :param samples: the model's latent sites by name, each ``[chains, draws, ...]``.
    """

    samples: dict[str, Tensor]

    def __getitem__(self, site: str) -> Tensor:
        return self.samples[site].flatten(0, 1)

    def __iter__(self) -> Iterator[str]:
        return iter(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def get_samples(self, group_by_chain: bool = False) -> dict[str, Tensor]:
        """
        The draws, as :meth:`pyro.infer.MCMC.get_samples` gives them.

        :param bool group_by_chain: keep ``[chains, draws, ...]`` apart.
        """
        return dict(self.samples) if group_by_chain else dict(self)


def sample_stats(result: Any) -> dict[str, Tensor]:
    """
    What is known of the moves that led to draws, by ArviZ's names, each ``[chains, draws]``; one
    number a chain stands beside each of its draws.

    Example::

        >>> from pyro_groupprior.mcmc.draws import sample_stats
        >>> def model(y):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(z, 1.0), obs=y)
        >>> options = {"num_samples": 10, "warmup_steps": 10, "num_chains": 2, "progress": False}
        >>> result = mcmc.run_mcmc(model, torch.tensor(2.0), **options)
        >>> list(sample_stats(result))
        ['lp', 'energy', 'diverging', 'n_steps', 'step_size', 'acceptance_rate']

    :param result: of one of the functions that run chains, or
        :class:`~pyro_groupprior.mcmc.StoredDraws`.
    """
    if not hasattr(result, "log_joint"):
        return {}
    size = result.log_joint.shape
    found = {}
    for name, label in STATS.items():
        if hasattr(result, name):
            value = torch.as_tensor(getattr(result, name))
            found[label] = (value[:, None] if value.dim() == 1 else value).expand(size)
    return found
