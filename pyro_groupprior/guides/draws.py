# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Normal posteriors with the moments of draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor
from torch.distributions import biject_to

from .latent import LatentSite

#: Share of a variance that is a weight's own at least, whatever the directions shared with others.
_LEAST = 1e-3


def unconstrained_draws(
    locs: Mapping[LatentSite, Tensor], draws: Mapping[str, Tensor]
) -> dict[LatentSite, Tensor]:
    """
    Draws of all latent sites in the unconstrained space, each ``[S, *loc]``.

    :param locs: what the draws of each site are to be like.
    :param draws: by name, each ``[S, ...]``; may lack or have dimensions of size 1, which Pyro adds
        for plates.
    :raises ValueError: if draws are missing, fewer than two, do not fit, or are not finite.
    """
    free: dict[LatentSite, Tensor] = {}
    for site, loc in locs.items():
        if site.name not in draws:
            raise ValueError(f"draws: {site.name!r} is missing, there are {sorted(draws)}")
        value = biject_to(site.support).inv(draws[site.name].to(loc))
        number = len(next(iter(free.values()))) if free else max(*value.shape[:1], 2, 2)
        if value.shape[:1] != (number,) or _wide(value.shape[1:]) != _wide(loc.shape):
            raise ValueError(
                f"draws[{site.name!r}]: expected {number} of shape {tuple(loc.shape)}, got "
                f"{tuple(draws[site.name].shape)}"
            )
        if not bool(value.isfinite().all()):
            raise ValueError(f"draws[{site.name!r}]: expected finite numbers within the support")
        free[site] = value.reshape(-1, *loc.shape)
    return free


def _wide(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]


def mean_and_sd(draws: Tensor) -> tuple[Tensor, Tensor]:
    """
    Of each element; one that never changed gets a tiny standard deviation.

    :param Tensor draws: shape ``[S, ...]``.
    """
    return draws.mean(0), draws.std(0).clamp(min=1e-6)


def standardized_cholesky(draws: Tensor) -> tuple[Tensor, Tensor]:
    """
    The Cholesky factor of the correlations of some elements, ``diag(own) (I + below)``, shrunk
    towards none as far as the number of draws asks for (Ledoit and Wolf 2004, "A well-conditioned
    estimator for large-dimensional covariance matrices"). One that never changed is correlated with
    none.

    :param Tensor draws: shape ``[S, W]``.
    :return: ``below``, strictly lower triangular, ``[W, W]``, and ``own``, ``[W]``.
    """
    standard, moves = _standardized(draws.double())
    covariance, _ = ledoit_wolf(standard.cpu().numpy(), assume_centered=True)
    found = torch.as_tensor(covariance).to(draws.device)
    sd = torch.where(moves, found.diagonal().sqrt(), 1.0)
    # A little of each is left for its own: of two draws all would be shared.
    found = (1 - _LEAST) * found / sd / sd[:, None] * (moves & moves[:, None])
    found.fill_diagonal_(1.0)
    tril = torch.linalg.cholesky(found).to(draws)
    own = tril.diagonal()
    return (tril / own.unsqueeze(-1)).tril(-1), own


def shared_directions(draws: Tensor, rank: int) -> Tensor:
    """
    The principal directions of standardised elements, in units of what of each remains; shrunk as
    in :func:`standardized_cholesky`.

    :param Tensor draws: shape ``[S, W]``.
    :param int rank: how many at most.
    :return: ``F`` of shape ``[W, rank]``, so that ``I + F F'`` is the covariance in units of the
        diagonal that remains.
    """
    standard, _ = _standardized(draws)
    root = (len(draws) - 1) ** 0.5
    _, sizes, directions = torch.linalg.svd(standard / root, full_matrices=False)
    found = draws.new_zeros(draws.shape[1], rank)
    kept = min(rank, len(sizes))
    found[:, :kept] = (sizes[:kept, None] * directions[:kept]).T
    found = found * (1 - shrinkage(standard)) ** 0.5
    shared = found.square().sum(1, keepdim=True)
    # What is shared is a share of a variance of 1; a little of each is left for its own.
    found = found * ((1 - _LEAST) / shared.clamp(min=1 - _LEAST)).sqrt()
    return found / (1 - found.square().sum(1, keepdim=True)).sqrt()


def shrinkage(standard: Tensor) -> float:
    """
    How far the covariance of elements of mean 0 is to be shrunk, between 0 and 1 (Ledoit and Wolf
    2004), by the inner products of draws: the elements may be many more.

    :param Tensor standard: shape ``[S, W]``.
    """
    number, size = standard.shape
    products = (standard @ standard.T).double()
    trace = float(products.trace()) / number
    squares = float(products.square().sum()) / number**2  # of the sample covariance's entries
    distance = squares - trace**2 / size
    noise = float(products.diagonal().square().sum()) / number**2 - squares / number
    return min(max(noise / distance, 0.0), 1.0) if distance > 0 else 0.0


def _standardized(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Mean 0 and standard deviation 1; and which elements have changed at all."""
    mean, sd = draws.mean(0), draws.std(0)
    moves = sd > 1e-7 * mean.abs()
    return torch.where(moves, (draws - mean) / torch.where(moves, sd, 1.0), 0.0), moves
