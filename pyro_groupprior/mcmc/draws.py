# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Draws of several chains."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ChainDraws:
    """
    Draws of chains that ran side by side.

    Example::

        >>> from pyro_groupprior.mcmc.draws import ChainDraws
        >>> ChainDraws({"z": torch.zeros(4, 100, 3)}).get_samples()["z"].shape
        torch.Size([400, 3])

    :param samples: the model's latent sites by name, each ``[chains, draws, ...]``.
    """

    samples: dict[str, Tensor]

    def get_samples(self, group_by_chain: bool = False) -> dict[str, Tensor]:
        """
        The draws, as :meth:`pyro.infer.MCMC.get_samples` gives them: what
        :func:`~pyro_groupprior.predict` and :func:`~pyro_groupprior.save_draws` take.

        :param bool group_by_chain: keep ``[chains, draws, ...]`` apart.
        """
        if group_by_chain:
            return dict(self.samples)
        return {name: value.flatten(0, 1) for name, value in self.samples.items()}
