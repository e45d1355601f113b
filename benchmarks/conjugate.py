# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Gibbs sampling of a linear regression with group priors, by hand in numpy.

Every conditional is drawn exactly, so that chains can be long: a check that the chains of Gibbs
within NUTS, which serve any model, have come where they should. The priors are the package's
defaults: locations Normal(0, 1), scales LogNormal(0, 1), proportions Dirichlet(1, ..., 1).
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
GRID = np.linspace(np.log(0.01), np.log(10.0), 400)  # of log scales, drawn from point by point


def sample(
    x: Array, y: Array, noise: float, first: NDArray[np.int64], num_samples: int, seed: int
) -> tuple[Array, NDArray[np.int64]]:
    """Run one chain.

    :param x: Inputs, shape ``[N, W]``.
    :param y: Outputs, shape ``[N]``.
    :param float noise: Standard deviation of the noise.
    :param first: Grouping that it starts from, shape ``[W]``; all groups have members.
    :param int num_samples: Draws; the first fifth is dropped.
    :param int seed: Of the chain.
    :return: Draws of the weights and of their groups, each ``[draws, W]``.
    """
    rng = np.random.default_rng(seed)
    num_weights, index, num_groups = x.shape[1], first, int(first.max()) + 1
    loc, scale = rng.standard_normal(num_groups), np.ones(num_groups)
    precision, pull = x.T @ x / noise**2, x.T @ y / noise**2
    weights, groups = [], []
    for _ in range(num_samples):
        prior = 1 / scale[index] ** 2
        factor = np.linalg.cholesky(precision + np.diag(prior))
        mean = np.linalg.solve(factor, pull + loc[index] * prior)
        beta = np.linalg.solve(factor.T, mean + rng.standard_normal(num_weights))
        for group in range(num_groups):
            members = beta[index == group]
            total = 1 + len(members) / scale[group] ** 2
            middle = members.sum() / scale[group] ** 2 / total
            loc[group] = middle + rng.standard_normal() / np.sqrt(total)
            square = np.square(members - loc[group]).sum()
            log_p = -len(members) * GRID - square * np.exp(-2 * GRID) / 2 - GRID**2 / 2
            scale[group] = np.exp(GRID[_categorical(rng, log_p)])
        sizes = np.bincount(index, minlength=num_groups)
        log_share = np.log(rng.dirichlet(1.0 + sizes) + 1e-300) - np.log(scale)
        log_p = log_share - np.square((beta[:, None] - loc) / scale) / 2
        index = _categorical(rng, log_p)
        weights.append(beta)
        groups.append(index)
    kept = num_samples // 5
    return np.array(weights[kept:]), np.array(groups[kept:])


def _categorical(rng: np.random.Generator, logits: Array) -> NDArray[np.int64]:
    """Draw from the last dimension."""
    return (logits + rng.gumbel(size=logits.shape)).argmax(-1)


def middle_grouping(groups: NDArray[np.int64], thin: int = 5) -> NDArray[np.int64]:
    """Find the drawn grouping whose pairs are nearest to those of all draws (Dahl 2006).

    :param groups: Draws, shape ``[draws, W]``.
    :param int thin: Only every so many draws are looked at.
    """
    pairs = [draw[:, None] == draw for draw in groups[::thin]]
    together = np.mean(pairs, axis=0)
    return groups[::thin][np.argmin([np.square(pair - together).sum() for pair in pairs])]
