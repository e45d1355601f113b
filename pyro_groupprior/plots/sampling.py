# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A sample of the weights, where there are too many to draw."""

from __future__ import annotations

import numpy as np


def even_sample(index: np.ndarray, most: int, seed: int) -> np.ndarray:
    """
    Places of at most so many weights, as many of each group where it has as many; all, if there are
    no more than that.

    Example::

        >>> from pyro_groupprior.plots.sampling import even_sample
        >>> chosen = even_sample(np.array([0, 0, 0, 0, 0, 1, -1]), 4, seed=0)
        >>> np.array([0, 0, 0, 0, 0, 1, -1])[chosen].tolist()
        [0, 0, 0, 1]

    :param index: the group of each weight, or -1 where it is not wanted.
    :param int most: how many are chosen, and one of each group at least.
    :param int seed: of the sample.
    :return: in their order.
    """
    wanted = np.random.default_rng(seed).permutation(np.flatnonzero(index >= 0))
    if len(wanted) <= most:
        return np.sort(wanted)
    wanted = wanted[np.argsort(index[wanted], kind="stable")]
    sizes = np.bincount(index[wanted])
    share, left = np.zeros_like(sizes), most
    # The smallest first: what they cannot use goes to the others.
    order = np.argsort(sizes, kind="stable")
    order = order[sizes[order] > 0]
    for number, group in enumerate(order):
        share[group] = min(sizes[group], max(1, left // (len(order) - number)))
        left -= share[group]
    starts = sizes.cumsum() - sizes
    return np.sort(np.concatenate([wanted[s : s + n] for s, n in zip(starts, share, strict=True)]))
