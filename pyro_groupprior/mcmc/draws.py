# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Draws of several chains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor


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
