# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Normal posteriors with the moments of draws."""

from __future__ import annotations

import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor

#: Share of a variance that is a weight's own at least, whatever the directions shared with others.
_LEAST = 1e-3


def mean_and_sd(draws: Tensor) -> tuple[Tensor, Tensor]:
    """
    Of each element; one that never changed gets a tiny standard deviation.

    :param Tensor draws: shape ``[S, ...]``.
    """
    return draws.mean(0), draws.std(0).clamp(min=1e-6)


def standardized_cholesky(draws: Tensor) -> Tensor:
    """
    The Cholesky factor of the correlations of some elements, shrunk towards none as far as the
    number of draws asks for (Ledoit and Wolf 2004, "A well-conditioned estimator for
    large-dimensional covariance matrices").

    :param Tensor draws: shape ``[S, W]``.
    :return: shape ``[W, W]``.
    """
    mean, sd = mean_and_sd(draws.double())
    standard = ((draws - mean) / sd).cpu().numpy()
    found, _ = ledoit_wolf(standard, assume_centered=True)
    return torch.linalg.cholesky(torch.as_tensor(found)).to(draws)


def shared_directions(draws: Tensor, rank: int) -> Tensor:
    """
    The principal directions of standardised elements, in units of what of each remains.

    :param Tensor draws: shape ``[S, W]``.
    :param int rank: how many at most.
    :return: ``F`` of shape ``[W, rank]``, so that ``I + F F'`` is the covariance in units of the
        diagonal that remains.
    """
    mean, sd = mean_and_sd(draws)
    standard = (draws - mean) / sd / (len(draws) - 1) ** 0.5
    _, sizes, directions = torch.linalg.svd(standard, full_matrices=False)
    found = draws.new_zeros(draws.shape[1], rank)
    kept = min(rank, len(sizes))
    found[:, :kept] = (sizes[:kept, None] * directions[:kept]).T
    shared = found.square().sum(1, keepdim=True)
    # What is shared is a share of a variance of 1; a little of each is left for its own.
    found = found * ((1 - _LEAST) / shared.clamp(min=1 - _LEAST)).sqrt()
    return found / (1 - found.square().sum(1, keepdim=True)).sqrt()
