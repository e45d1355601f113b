# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""How alike two groupings are, and what it costs to state one."""

from __future__ import annotations

import torch
from torch import Tensor

from ..assignment import Assignment


def contingency(first: Assignment, second: Assignment) -> Tensor:
    """
    How many weights are in each group of ``first`` and each of ``second``, by their most probable
    groups: int64, shape ``[G_first, G_second]``, on the CPU.

    :raises ValueError: if the two are for different numbers of weights.
    """
    if first.num_weights != second.num_weights:
        raise ValueError(f"second: expected {first.num_weights} weights, got {second.num_weights}")
    one, two = first.hard().index, second.hard().index.to(first.device)
    cells = first.num_groups * second.num_groups
    # The matrix has few entries; its index fits the narrow type nearly always.
    pairs = one * second.num_groups + two if cells < 2**31 else one.long() * second.num_groups + two
    counts = torch.bincount(pairs, minlength=cells)
    return counts.reshape(first.num_groups, second.num_groups).cpu()


def adjusted_rand_index(first: Assignment, second: Assignment) -> float:
    """
    The adjusted Rand index of two groupings (Hubert and Arabie 1985): 1 if they agree up to the
    names of the groups, 0 on average if they have nothing to do with each other. As
    :func:`sklearn.metrics.adjusted_rand_score`, without sorting the labels, which takes long for
    millions of weights.

    Example::

        >>> one = Assignment(torch.tensor([0, 0, 1, 1]))
        >>> adjusted_rand_index(one, Assignment(torch.tensor([1, 1, 0, 0])))
        1.0

    :raises ValueError: if the two are for different numbers of weights.
    """
    return rand_index_of(contingency(first, second))


def rand_index_of(counts: Tensor) -> float:
    """
    The adjusted Rand index of two groupings from their :func:`contingency`.

    Example::

        >>> rand_index_of(torch.tensor([[0, 2], [2, 0]]))
        1.0
    """
    counts = counts.double()

    def pairs(sizes: Tensor) -> float:
        return float((sizes * (sizes - 1)).sum()) / 2

    together, total = pairs(counts), pairs(counts.sum().reshape(1))
    rows, columns = pairs(counts.sum(1)), pairs(counts.sum(0))
    if rows == columns == together:
        return 1.0  # also where all are single, or all are one
    expected = rows * columns / total
    return (together - expected) / ((rows + columns) / 2 - expected)


def assignment_cost(assignment: Assignment) -> float:
    r"""
    What it costs to say which group each weight is in, in nats: :math:`\sum_i KL(r_i \| \pi)` with
    :math:`\pi` the groups' shares of all weights; for a hard grouping :math:`-\sum_i \log
    \pi_{z_i}`. An ELBO under groups that were read off the data has to be lowered by it to be
    comparable with one under groups that were not.

    Example::

        >>> round(assignment_cost(Assignment(torch.tensor([0, 0, 1, 1]))), 3)  # 4 log 2
        2.773
    """
    shares = assignment.sizes() / assignment.num_weights
    entropy = -float(torch.special.xlogy(shares, shares).sum()) * assignment.num_weights
    if assignment.responsibilities is None:
        return entropy
    # A group that stands in two slots of a weight counts as two: they are merged rarely.
    return entropy + _sum_xlogx(assignment.responsibilities)


def _sum_xlogx(values: Tensor, chunk: int = 2**15) -> float:
    flat, total = values.reshape(-1), 0.0
    for start in range(0, len(flat), chunk):
        part = flat[start : start + chunk]
        total += float(part.clamp(min=1e-30).log_().mul_(part).sum())  # faster than xlogy
    return total
