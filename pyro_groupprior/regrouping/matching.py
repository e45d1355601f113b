# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Which old group each new one continues."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..assignment import Assignment
from .agreement import contingency


def match_groups(
    old: Assignment, new: Assignment, counts: Tensor | None = None
) -> tuple[Assignment, Tensor]:
    """
    Relabel ``new`` so that its groups keep the names of those in ``old`` with which they share
    most weights: clusterers number their clusters at will, but a group's hyperparameters should
    follow it. One to one, by linear assignment on the overlaps.

    Example::

        >>> old = Assignment(torch.tensor([0, 0, 1, 1]))
        >>> new, source = match_groups(old, Assignment(torch.tensor([2, 2, 0, 1])))
        >>> new.index.tolist(), source.tolist()
        ([0, 0, 1, 2], [0, 1, -1])

    :param Assignment old: the present grouping, ``G_old`` groups.
    :param Assignment new: the proposed one, ``G_new`` groups.
    :param counts: their :func:`overlaps`, if they are known already.
    :return: the relabelled proposal: groups that continue one come first, in the order of the old
        ones; and the sources, int64, shape ``[G_new]``: the old group, or -1 for a new one.
    :raises ValueError: if the two are for different numbers of weights.
    """
    if old.num_weights != new.num_weights:
        raise ValueError(f"new: expected {old.num_weights} weights, got {new.num_weights}")
    overlap = (overlaps(old, new) if counts is None else counts).numpy()
    rows, columns = linear_sum_assignment(overlap, maximize=True)
    shared = overlap[rows, columns] > 0
    rows, columns = rows[shared], columns[shared]
    order = np.argsort(rows, kind="stable")
    continued = columns[order]
    fresh = np.setdiff1d(np.arange(new.num_groups), continued)
    source = np.concatenate([rows[order], np.full(fresh.size, -1)])
    labels = np.empty(new.num_groups, dtype=np.int64)
    labels[np.concatenate([continued, fresh])] = np.arange(new.num_groups)
    relabelled = new.relabel(torch.as_tensor(labels), new.num_groups)
    return relabelled, torch.as_tensor(source, dtype=torch.int64)


def overlaps(old: Assignment, new: Assignment) -> Tensor:
    """
    How many weights each old group shares with each new one, by their most probable groups: shape
    ``[G_old, G_new]``. Of many million weights an even selection of some two million is counted:
    a group of a few dozen in 25 million may then be taken for a new one.

    Example::

        >>> overlaps(Assignment(torch.tensor([0, 1, 1])), Assignment(torch.tensor([0, 0, 1])))
        tensor([[1, 0],
                [1, 1]])

    :raises ValueError: if the two are for different numbers of weights.
    """
    if old.num_weights != new.num_weights:
        raise ValueError(f"new: expected {old.num_weights} weights, got {new.num_weights}")
    stride = _stride(old.num_weights)
    return contingency(old.thinned(stride), new.thinned(stride))


def churn_after(old: Assignment, matched: Assignment, source: Tensor) -> float:
    """
    The share of the weights that change group at a regroup: :meth:`Assignment.churn` under the
    names of the old groups, which a smaller number of groups has shifted. Of many million weights
    an even selection of some million tells it to three digits.

    Example::

        >>> old = Assignment(torch.tensor([0, 0, 1, 1]))
        >>> churn_after(old, *match_groups(old, Assignment(torch.tensor([2, 2, 0, 1]))))
        0.25

    :param Assignment matched: the new grouping, from :func:`match_groups`,
    :param Tensor source: and where each of its groups came from.
    """
    stride = _stride(old.num_weights)
    fresh = old.num_groups + torch.arange(matched.num_groups)
    names = torch.where(source < 0, fresh, source)
    return old.thinned(stride).churn(matched.thinned(stride).relabel(names))


def flows(old: Assignment, matched: Assignment) -> tuple[tuple[int, int, float], ...]:
    """
    How many weights went from which old group to which new one, by their most probable groups; of
    many million weights by an even selection, scaled up.

    Example::

        >>> flows(Assignment(torch.tensor([0, 0, 1, 1])), Assignment(torch.tensor([0, 0, 0, 1])))
        ((0, 0, 2.0), (1, 0, 1.0), (1, 1, 1.0))

    :return: old group, new group and number of weights, wherever there are any.
    :raises ValueError: if the two are for different numbers of weights.
    """
    counts = overlaps(old, matched)
    factor = old.num_weights / float(counts.sum())
    rows, columns = counts.nonzero(as_tuple=True)
    numbers = factor * counts[rows, columns].double()
    return tuple(zip(rows.tolist(), columns.tolist(), numbers.tolist(), strict=True))


def _stride(num_weights: int) -> int:
    """
    A prime, or one: others would pick the same rows or columns of matrices again and again.
    """
    stride = max(1, num_weights // MANY)
    while any(stride % divisor == 0 for divisor in range(2, stride)):
        stride += 1
    return stride


MANY = 2_000_000
