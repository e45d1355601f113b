# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Which weights should keep numbers of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from .codebook import Codebook
from .nearest import divergence

SCORES = ("divergence", "mahalanobis")


def outlier_scores(codebook: Codebook, mean: Tensor, sd: Tensor, score: str | Tensor) -> Tensor:
    """
    How badly weights are served by their entries, ``[W]``; of pruned weights it says nothing.

    :param Tensor mean: of each weight, in its tensor's unit, ``[W]``.
    :param Tensor sd: likewise.
    :param score: ``"divergence"`` of the entry from the weight, in nats; ``"mahalanobis"``: the
        distance of the point (mean, log deviation) from those with the same entry; or the scores.
    :raises ValueError: if there is no such score, or scores have another shape.
    """
    if isinstance(score, Tensor):
        if score.shape != mean.shape:
            shape = tuple(score.shape)
            raise ValueError(f"outlier_score: expected shape [{len(mean)}], got {shape}")
        return score.to(mean)
    if score not in SCORES:
        raise ValueError(f"outlier_score: expected one of {SCORES} or scores, got {score!r}")
    if score == "divergence":
        loc, scale = codebook.loc[codebook.index], codebook.scale[codebook.index]
        return divergence(loc, scale, mean, sd)
    return _mahalanobis(codebook, torch.stack([mean, sd.log()], 1).double()).to(mean)


def highest(scores: Tensor, keep: Tensor, share: float) -> Tensor:
    """
    The places of the highest scores, increasing, int64.

    Example::

        >>> from pyro_groupprior.sharing.outliers import highest
        >>> highest(torch.tensor([1.0, 3.0, 9.0, 2.0]), torch.tensor([1, 1, 0, 1]).bool(), 0.7)
        tensor([1, 3])

    :param Tensor keep: which weights count, bool.
    :param float share: of these, rounded.
    """
    number = round(share * int(keep.sum()))
    return scores.masked_fill(~keep, -torch.inf).topk(number).indices.sort().values


def _mahalanobis(codebook: Codebook, points: Tensor) -> Tensor:
    index, number = codebook.index, codebook.num_entries
    live = (codebook.scale > 0)[index]
    points = torch.where(live.unsqueeze(1), points, 0.0)  # pruned ones may have no logarithm
    count = torch.bincount(index, minlength=number)
    centre = torch.stack([torch.bincount(index, column, number) for column in points.T], 1)
    offset = points - (centre / count.unsqueeze(1))[index]
    x, y = offset.T
    a, b, c = (torch.bincount(index, p, number) / count for p in (x * x, x * y, y * y))
    least = 1e-9 * (a + c) + torch.finfo(points.dtype).tiny
    a, c = a + least, c + least
    inverse = torch.stack([c, -b, a], 1) / (a * c - b * b).unsqueeze(1)
    p, q, r = inverse[index].T
    return (p * x * x + 2 * q * x * y + r * y * y).clamp(min=0).sqrt()
