# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""How far a permutation is from none, in swaps of two units."""

from __future__ import annotations

import torch
from torch import Tensor


def num_transpositions(permutation: Tensor) -> Tensor:
    """
    The least number of swaps of two entries that make a permutation: its size less the number of
    its cycles.

    Example::

        >>> from pyro_groupprior.symmetry import num_transpositions
        >>> num_transpositions(torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2], [1, 2, 3, 0]])).tolist()
        [0, 2, 3]

    :param Tensor permutation: integers, shape ``[..., n]``.
    :return: shape ``[...]``.
    :raises ValueError: if it is no permutation.
    """
    size = permutation.shape[-1]
    numbers = torch.arange(size, device=permutation.device).expand(permutation.shape)
    if not torch.equal(permutation.sort(-1).values, numbers):
        raise ValueError(
            f"permutation: expected each of 0 to {size - 1} once, got {permutation.tolist()}"
        )
    # The least entry of each entry's cycle: after k rounds, of the next 2 ** k of it.
    least, ahead = numbers, permutation.long()
    for _ in range(max(size - 1, 1).bit_length()):
        least = torch.minimum(least, least.gather(-1, ahead))
        ahead = ahead.gather(-1, ahead)
    return size - (least == numbers).sum(-1)


def random_transpositions(size: int) -> tuple[float, float]:
    """
    Mean and standard deviation of :func:`num_transpositions` over all permutations of ``size``
    entries: ``n - H_n`` and the root of ``H_n - H_n^(2)``, as the number of cycles is a sum of
    independent indicators with means 1, 1/2, ..., 1/n.

    Example::

        >>> from pyro_groupprior.symmetry import random_transpositions
        >>> mean, sd = random_transpositions(512)
        >>> round(mean, 1), round(sd, 1)
        (505.2, 2.3)

    :raises ValueError: if ``size`` is not positive.
    """
    if size < 1:
        raise ValueError(f"size: expected a positive number, got {size}")
    means = 1.0 / torch.arange(1, size + 1, dtype=torch.double)
    return size - float(means.sum()), float((means - means.square()).sum().sqrt())


def transpositions_between(first: Tensor, second: Tensor) -> Tensor:
    """
    The least number of swaps that lead from one arrangement of units to another.

    Example::

        >>> from pyro_groupprior.symmetry import transpositions_between
        >>> int(transpositions_between(torch.tensor([2, 0, 1]), torch.tensor([2, 1, 0])))
        1

    :param Tensor first: permutations of the same units, shape ``[..., n]``, such as
        ``alignment.permutation.permutations["0"]`` has them.
    :param Tensor second: likewise.
    :return: shape ``[...]``.
    :raises ValueError: if one is no permutation.
    """
    first, second = torch.broadcast_tensors(first.long(), second.long())
    num_transpositions(first)  # checked
    return num_transpositions(first.argsort(-1).gather(-1, second))
