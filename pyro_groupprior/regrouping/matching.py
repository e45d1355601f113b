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
    :param counts: their :func:`contingency`, if it is known already.
    :return: the relabelled proposal: groups that continue one come first, in the order of the old
        ones; and the sources, int64, shape ``[G_new]``: the old group, or -1 for a new one.
    :raises ValueError: if the two are for different numbers of weights.
    """
    if old.num_weights != new.num_weights:
        raise ValueError(f"new: expected {old.num_weights} weights, got {new.num_weights}")
    overlap = (contingency(old, new) if counts is None else counts).numpy()
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
