# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Which shared normal is nearest to a weight's own, and where it should stand."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 2**17  # weights at a time: what they need stays in the processor's cache


def divergence(loc: Tensor, scale: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    """
    ``KL(N(loc, scale) || N(mean, sd))`` in nats, elementwise: what a weight loses by numbers that
    are not its own. An error of the mean counts by the weight's precision.

    Example::

        >>> from pyro_groupprior.sharing.nearest import divergence
        >>> one = torch.ones(2)
        >>> divergence(torch.tensor([0.0, 2.0]), one, 0 * one, one)
        tensor([0., 2.])
    """
    ratio = (scale / sd).square()
    return 0.5 * (ratio + ((loc - mean) / sd).square() - 1 - ratio.log())


def nearest(
    loc: Tensor, scale: Tensor, mean: Tensor, sd: Tensor, cost: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """
    The entry of least :func:`divergence` from each weight, without a matrix of all weights by all
    entries.

    Example::

        >>> from pyro_groupprior.sharing.nearest import nearest
        >>> loc, one = torch.tensor([0.0, 2.0]), torch.ones(2)
        >>> index, divergences = nearest(loc, one, torch.tensor([1.9, 0.0]), one)
        >>> index.tolist()
        [1, 0]

    :param Tensor loc: of the entries, ``[K]``.
    :param Tensor scale: likewise, positive.
    :param Tensor mean: of the weights, ``[n]``.
    :param Tensor sd: likewise, positive.
    :param Tensor cost: of each entry, in nats, such as the length of its code; ``[K]``.
    :return: the entries, int32 ``[n]``, and their divergences and costs, ``[n]``.
    """
    found = torch.zeros(len(mean), dtype=torch.int32, device=mean.device)
    least = torch.full_like(mean, torch.inf)
    for block in _blocks(len(mean)):
        for k in range(len(loc)):
            each = divergence(loc[k], scale[k], mean[block], sd[block])
            if cost is not None:
                each += cost[k]
            better = each < least[block]
            found[block].masked_fill_(better, k)
            torch.minimum(least[block], each, out=least[block])
    return found, least


def blended(
    loc: Tensor, scale: Tensor, first: Tensor, mean: Tensor, sd: Tensor, levels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """
    The second entry that together with a first one comes nearest to each weight.

    :param Tensor first: the first entry of each weight, int32, ``[n]``.
    :param int levels: the share of the first is a multiple of ``1 / levels``.
    :return: the second entries, int32; the shares of the first; and the divergences: ``[n]`` each.
    """
    second, share = first.clone(), torch.ones_like(mean)
    one, width = loc[first], scale[first]
    least = divergence(one, width, mean, sd)
    for k in range(len(loc)):
        apart = one - loc[k]
        alpha = ((mean - loc[k]) / torch.where(apart == 0, 1.0, apart)).clamp(0, 1)
        alpha = (alpha * levels).round() / levels
        mixed = loc[k] + alpha * apart, scale[k] + alpha * (width - scale[k])
        each = divergence(*mixed, mean, sd)
        better = (each < least) & (apart != 0)
        second.masked_fill_(better, k)
        share = torch.where(better, alpha, share)
        least = torch.where(better, each, least)
    return second, share, least


def centres(index: Tensor, num_entries: int, mean: Tensor, sd: Tensor) -> tuple[Tensor, Tensor]:
    """
    Where entries have the least :func:`divergence` from their weights together: the mean weighted
    by precision, and the harmonic mean of the variances. NaN for an entry without weights.

    Example::

        >>> from pyro_groupprior.sharing.nearest import centres
        >>> index = torch.zeros(2, dtype=torch.int32)
        >>> centres(index, 1, torch.tensor([0.0, 5.0]), torch.tensor([1.0, 2.0]))
        (tensor([1.]), tensor([1.2649]))

    :param Tensor index: the entry of each weight, int32, ``[n]``.
    """
    precision = sd.double().square().reciprocal()
    total = torch.bincount(index, precision, num_entries)
    loc = torch.bincount(index, precision * mean, num_entries) / total
    number = torch.bincount(index, minlength=num_entries)
    return loc.to(mean), (number / total).sqrt().to(mean)


def moments_of_members(
    index: Tensor, num_entries: int, mean: Tensor, sd: Tensor
) -> tuple[Tensor, Tensor]:
    """
    Mean and standard deviation of a draw of any of an entry's weights: ``m = sum m_i / n`` and
    ``s^2 = sum [s_i^2 + (m_i - m)^2] / n``. NaN for an entry without weights.

    :param Tensor index: the entry of each weight, int32, ``[n]``.
    """
    number = torch.bincount(index, minlength=num_entries)
    loc = torch.bincount(index, mean.double(), num_entries) / number
    spread = sd.double().square() + (mean - loc[index]).square()
    return loc.to(mean), (torch.bincount(index, spread, num_entries) / number).sqrt().to(mean)


def _blocks(number: int) -> Iterator[slice]:
    for start in range(0, number, BLOCK):
        yield slice(start, min(start + BLOCK, number))
