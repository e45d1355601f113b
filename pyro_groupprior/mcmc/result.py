# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Draws of assignments: what they say of the groups, and whether the chains agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import arviz
import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..assignment import Assignment

LOG_JOINT = "log_joint"
_MAX_PAIRS = 5000  # weights of which a matrix of all pairs, 100 MB, is still made
_MAX_CANDIDATES = 400


@dataclass(frozen=True)
class GibbsResult:
    """
    Draws of :func:`run_gibbs`: of all latent sites and of the assignments.

    Example, one chain of two draws in which only the labels differ::

        >>> from pyro_groupprior.mcmc import GibbsResult
        >>> draws = torch.tensor([[[0, 0, 1], [1, 1, 0]]], dtype=torch.int8)
        >>> result = GibbsResult({}, {"w": draws}, {"w": torch.full((1, 2, 2), 0.5)},
        ...     torch.zeros(1, 2), torch.zeros(1))
        >>> result.co_clustering("w")[0].tolist()
        [1.0, 1.0, 0.0]
        >>> result.responsibilities("w").tolist()
        [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]

    :param samples: latent sites by name, each ``[chains, draws, ...]``.
    :param assignments: group indices by group prior, in the smallest fitting integer type,
        ``[chains, draws, W]``.
    :param weights: the groups' proportions by group prior, ``[chains, draws, G]``.
    :param Tensor log_joint: log density of every draw, but for a constant, with respect to the
        unconstrained latents and the assignments, proportions integrated out;
        ``[chains, draws]``.
    :param Tensor divergences: divergent moves of each chain after the warm-up, ``[chains]``.
    """

    samples: dict[str, Tensor]
    assignments: dict[str, Tensor]
    weights: dict[str, Tensor]
    log_joint: Tensor
    divergences: Tensor

    def responsibilities(self, name: str, relabel: bool = True) -> Tensor:
        """
        The share of the draws in which a weight is in a group, ``[W, G]``.

        :param str name: the group prior.
        :param bool relabel: number the groups of every draw like those of
            :meth:`point_assignment` with which they share most weights, as labels may switch
            between draws; False where fixed priors tell the groups apart.
        :raises ValueError: if there is no such group prior.
        """
        draws, num_groups = self._flat(name), self._num_groups(name)
        labels = torch.arange(num_groups).expand(len(draws), num_groups)
        if relabel:
            labels = _match(self.point_assignment(name).index.long(), draws, num_groups)
        counts = torch.zeros(draws.shape[1] * num_groups, dtype=torch.long)
        rows = num_groups * torch.arange(draws.shape[1])
        for part, names in zip(draws.split(1000), labels.split(1000)):
            matched = names.gather(1, part.long())
            counts += torch.bincount((rows + matched).reshape(-1), minlength=len(counts))
        return counts.reshape(-1, num_groups) / len(draws)

    def co_clustering(self, name: str) -> Tensor:
        """
        The share of the draws in which two weights are in the same group, ``[W, W]``; free of
        labels.

        :param str name: the group prior.
        :raises ValueError: if there is no such group prior, or it has more than 5,000 weights.
        """
        draws, num_groups = self._flat(name), self._num_groups(name)
        num_weights = draws.shape[1]
        if num_weights > _MAX_PAIRS:
            raise ValueError(
                f"{name}: expected at most {_MAX_PAIRS} weights for a matrix of all pairs, got "
                f"{num_weights}"
            )
        together = torch.zeros(num_weights, num_weights)
        for part in draws.split(max(1, 10_000_000 // (num_weights * num_groups))):
            members = _one_hot(part, num_groups).permute(1, 0, 2).reshape(num_weights, -1)
            together += members @ members.T
        return together / len(draws)

    def point_assignment(self, name: str) -> Assignment:
        """
        The draw that is most like the others: of up to 400 evenly spaced ones, that with the
        largest mean adjusted Rand index with them (Fritsch and Ickstadt 2009, "Improved criteria
        for clustering based on the posterior similarity matrix", where a draw is compared with the
        matrix of pairs). Groups are numbered as in that draw; some may be empty.

        :param str name: the group prior.
        :raises ValueError: if there is no such group prior.
        """
        draws, num_groups = self._flat(name), self._num_groups(name)
        chosen = np.linspace(0, len(draws) - 1, min(len(draws), _MAX_CANDIDATES)).round()
        draws = draws[torch.as_tensor(chosen, dtype=torch.long)]
        best = int(_mean_rand_index(draws, num_groups).argmax())
        return Assignment(draws[best], num_groups)

    def diagnostics(self) -> pd.DataFrame:
        """
        R-hat and effective sample size by ArviZ (Vehtari et al. 2021, "Rank-normalization,
        folding, and localization: an improved R-hat") of what does not depend on labels: the log
        density; for each group prior the number of groups in use, their sizes in order, and the
        weights; and latent sites other than the groups' parameters. The worst entry of each.

        One chain is judged by its two halves, which tells much less.

        :return: one row a quantity, with columns ``rhat`` and ``ess``.
        :raises ValueError: if there are fewer than 8 draws a chain.
        """
        if self.log_joint.shape[1] < 8:
            raise ValueError(
                f"draws: expected at least 8 a chain for diagnostics, got {self.log_joint.shape[1]}"
            )
        quantities = {LOG_JOINT: self.log_joint}
        for name in self.assignments:
            sizes = self.sizes(name)
            quantities[f"{name}_occupied"] = (sizes > 0).sum(-1)
            quantities[f"{name}_sizes"] = sizes.sort(-1, descending=True).values
        labelled = {f"{name}_{kind}" for name in self.assignments for kind in ("loc", "scale")}
        quantities.update({k: v for k, v in self.samples.items() if k not in labelled})
        rows = {name: _worst(value) for name, value in quantities.items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["rhat", "ess"])

    @property
    def converged(self) -> bool:
        """
        Whether no R-hat in :meth:`diagnostics` is 1.05 or more. For another threshold:
        ``result.diagnostics()["rhat"].max() < 1.01``.
        """
        return bool(self.diagnostics()["rhat"].max() < 1.05)

    def sizes(self, name: str) -> Tensor:
        """
        The number of weights in every group of every draw, ``[chains, draws, G]``.

        :param str name: the group prior.
        :raises ValueError: if there is no such group prior.
        """
        draws, num_groups = self._flat(name), self._num_groups(name)
        sizes = torch.stack([(draws == group).sum(-1) for group in range(num_groups)], -1)
        return sizes.reshape(*self.assignments[name].shape[:2], num_groups)

    def _flat(self, name: str) -> Tensor:
        if name not in self.assignments:
            raise ValueError(f"name: expected one of {sorted(self.assignments)}, got {name!r}")
        return self.assignments[name].flatten(0, 1)

    def _num_groups(self, name: str) -> int:
        return self.weights[name].shape[-1]


def collect_chains(
    chains: Sequence[tuple[dict[str, Tensor], int]], names: Sequence[str]
) -> GibbsResult:
    """
    Gather the draws of :class:`GibbsGroups`.

    :param chains: of each: the draws by name, each ``[1, draws, ...]``, and its divergences.
    :param names: the group priors.
    """
    keys = chains[0][0]  # on the CPU, as all that is counted of them
    samples = {key: torch.cat([draws[key] for draws, _ in chains]).cpu() for key in keys}
    assignments, weights = {}, {}
    for name in names:
        weights[name] = samples.pop(f"{name}_proportions")
        num_groups = weights[name].shape[-1]
        small = torch.int8 if num_groups <= 128 else torch.int16
        dtype = small if num_groups <= 2**15 else torch.int32
        assignments[name] = samples.pop(f"{name}_assignment").to(dtype)
    divergences = torch.tensor([number for _, number in chains])
    return GibbsResult(samples, assignments, weights, samples.pop(LOG_JOINT), divergences)


def _one_hot(draws: Tensor, num_groups: int) -> Tensor:
    return torch.nn.functional.one_hot(draws.long(), num_groups).float()


def _match(reference: Tensor, draws: Tensor, num_groups: int) -> Tensor:
    """The group of the reference that each group of each draw continues, ``[draws, G]``."""
    labels = torch.empty(len(draws), num_groups, dtype=torch.long)
    for number, draw in enumerate(draws.long()):
        pairs = torch.bincount(draw * num_groups + reference, minlength=num_groups**2)
        overlap = pairs.reshape(num_groups, num_groups).numpy()
        labels[number] = torch.as_tensor(linear_sum_assignment(overlap, maximize=True)[1])
    return labels


def _mean_rand_index(draws: Tensor, num_groups: int) -> Tensor:
    """The mean adjusted Rand index of each draw with all draws, ``[draws]``."""
    num_draws, num_weights = draws.shape
    members = _one_hot(draws, num_groups).permute(0, 2, 1).reshape(-1, num_weights)
    sizes = members.sum(1).reshape(num_draws, num_groups).double()
    alone = (sizes * (sizes - 1) / 2).sum(1)
    means = []
    for one, own in zip(members.split(num_groups), alone):
        counts = (one @ members.T).double()
        both = (counts * (counts - 1) / 2).reshape(num_groups, num_draws, -1).sum((0, 2))
        expected = own * alone / max(num_weights * (num_weights - 1) / 2, 1)
        spread = (own + alone) / 2 - expected
        # Where there is but one way to fall into groups of these sizes, they are the same.
        means.append(torch.where(spread > 0, (both - expected) / spread, 1.0).mean())
    return torch.stack(means)


def _worst(value: Tensor) -> tuple[float, float]:
    """The largest R-hat and the smallest effective sample size, of ``[chains, draws, ...]``."""
    draws = value.double().reshape(*value.shape[:2], -1).numpy()
    if len(draws) == 1:  # R-hat compares chains
        half = draws.shape[1] // 2
        draws = np.concatenate([draws[:, :half], draws[:, half : 2 * half]])
    moving = np.ptp(draws, axis=1) > 0
    rhat, ess = [], []
    for entry in range(draws.shape[2]):
        if moving[:, entry].any():
            rhat.append(float(arviz.rhat(draws[..., entry])))
            ess.append(float(arviz.ess(draws[..., entry])))
        else:  # within-chain variance is zero: nothing moves, or the chains are stuck apart
            stuck = np.ptp(draws[..., entry]) > 0
            rhat.append(np.inf if stuck else 1.0)
            ess.append(0.0 if stuck else float(draws[..., entry].size))
    if np.isnan(rhat).any():  # no finite variance: that must not pass for agreement
        return np.inf, 0.0
    return float(np.max(rhat)), float(np.min(ess))
