# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Rules that propose a grouping from posterior statistics."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from sklearn.base import clone
from sklearn.cluster import KMeans

from ..assignment import Assignment
from .features import FEATURES, points_of
from .posterior import WeightPosterior

SOFT = 4  # groups that a weight is shared between, at most
CHUNK = 2**18  # points at a time, where a clusterer gives a matrix of points by clusters


class Strategy(Protocol):
    """Anything that proposes a grouping from posterior statistics."""

    def propose(self, posterior: WeightPosterior) -> Assignment:
        """The proposed grouping of the same weights; group labels are free."""


class Cluster:
    """
    Cluster the weights with a clusterer in scikit-learn's interface.

    Example::

        >>> from sklearn.cluster import KMeans
        >>> mean = torch.tensor([0.0, 0.1, 5.0, 5.1])
        >>> one = torch.ones(4)
        >>> one_group = Assignment(torch.zeros(4, dtype=torch.long))
        >>> posterior = WeightPosterior(mean, one, one, one_group)
        >>> Cluster(KMeans(2, random_state=0)).propose(posterior).sizes().tolist()
        [2.0, 2.0]

    :param clusterer: an estimator with ``fit_predict``, or ``fit`` and ``predict``; it is cloned
        for every use, so that its settings but not its state are kept.
    :param features: what to cluster; default: what the clusterer says it wants (its attribute
        ``features``), else ``"mean"``. One of

        - ``"mean"``: the posterior mean in units of the base scale, standardised;
        - ``"moments"``: that and the logarithm of the posterior's standard deviation;
        - ``"estimate"``: the evidence's estimate (see :meth:`WeightPosterior.evidence`),
          standardised;
        - ``"evidence"``: estimate and noise of the evidence, as they are, for
          :class:`~pyro_groupprior.clustering.DeconvolvedMixture`;
        - ``"trajectory"``: the standardised trajectory of the posterior mean over training, for
          which a :class:`~pyro_groupprior.Monitor` must be among the callbacks: distances are those
          of correlation;
        - ``"draws"``: the same of 64 posterior draws.
    :param soft: keep this many responsibilities for each weight (needs ``predict_proba``); None:
        hard; ``"auto"``: 4 where the features are the evidence, since hard groups oscillate
        when the noise is large; else hard.
    :param within: a partition of a net's weights, such as ``"tensor"`` or ``"layer"``: each part
        is clustered by itself. Default: across the whole net.
    :param unit: whole units to assign as one, such as ``"row"``, ``"column"`` or ``"channel"``.
        Their points are means over the unit's weights, followed by the logarithm of the
        root mean square of the first column;
        :class:`~pyro_groupprior.clustering.DeconvolvedMixture` multiplies the likelihoods of the
        unit's weights instead.
    :param int max_points: fit on at most this many points, drawn at random; the others go to the
        group that ``predict`` says, or whose centroid is nearest where a clusterer has no
        ``predict``. Agglomerative clustering needs memory quadratic in it. Clusterers made for
        any number of points (those of :mod:`pyro_groupprior.clustering` that have
        ``fit_top_responsibilities``) always take all.
    :param int seed: seed of that draw.
    :raises TypeError: if the clusterer lacks the methods.
    :raises ValueError: if an option is out of range.
    """

    def __init__(
        self,
        clusterer: Any,
        features: str | None = None,
        soft: int | str | None = "auto",
        *,
        within: str | None = None,
        unit: str | None = None,
        max_points: int = 20_000,
        seed: int = 0,
    ) -> None:
        if not hasattr(clusterer, "get_params") or not any(
            hasattr(clusterer, method) for method in ("fit_predict", "predict")
        ):
            raise TypeError(
                f"clusterer: expected a scikit-learn clusterer, got {type(clusterer).__name__}"
            )
        features = getattr(clusterer, "features", "mean") if features is None else features
        if features not in FEATURES:
            raise ValueError(f"features: expected one of {FEATURES}, got {features!r}")
        if isinstance(soft, str):
            if soft != "auto":
                raise ValueError(f"soft: expected a number, None or 'auto', got {soft!r}")
            soft = SOFT if features == "evidence" and hasattr(clusterer, "predict_proba") else None
        if soft is not None and not hasattr(clusterer, "predict_proba"):
            raise TypeError(f"soft: {type(clusterer).__name__} has no predict_proba; use a mixture")
        if soft is not None and soft < 1:
            raise ValueError(f"soft: expected a positive number, got {soft}")
        if max_points < 2:
            raise ValueError(f"max_points: expected at least 2, got {max_points}")
        self.clusterer, self.features, self.soft = clusterer, features, soft
        self.within, self.unit = within, unit
        self.max_points, self.seed = max_points, seed

    def propose(self, posterior: WeightPosterior) -> Assignment:
        """
        :raises FloatingPointError: if the moments are not finite.
        :raises ValueError: if the posterior lacks what the features or partitions need.
        """
        points = points_of(posterior, self.features, self.seed)
        units = None if self.unit is None else _partition(posterior, self.unit, "unit")
        if self.within is None:
            return self._cluster(points, units).to(posterior.mean.device)
        whole = _partition(posterior, self.within, "within")
        parts = [np.flatnonzero(whole == label) for label in range(whole.max() + 1)]
        found = [
            self._cluster(points[rows], None if units is None else _renumbered(units[rows]))
            for rows in parts
            if len(rows)
        ]
        return _joined([rows for rows in parts if len(rows)], found).to(posterior.mean.device)

    def _cluster(self, points: np.ndarray, units: np.ndarray | None) -> Assignment:
        """The grouping of some weights by themselves, on the CPU."""
        clusterer = clone(self.clusterer)
        if units is None:
            return self._assign(clusterer, points)
        if hasattr(clusterer, "predict_units"):
            shares = torch.from_numpy(
                clusterer.fit(points, units=units).predict_units(points, units)
            )
            top_k = shares.shape[1] if self.soft is None else min(self.soft, shares.shape[1])
            found = Assignment.from_dense((shares / shares.sum(1, keepdim=True)).float(), top_k)
            found = found.hard() if self.soft is None else found
        else:
            found = self._assign(clusterer, _unit_points(points, units))
        return _of_members(found, torch.from_numpy(units))

    def _assign(self, clusterer: Any, points: np.ndarray) -> Assignment:
        if hasattr(clusterer, "fit_top_responsibilities"):
            index, shares = clusterer.fit_top_responsibilities(points, self.soft or 1)
            total = len(clusterer.weights_)
            if self.soft is None:
                return Assignment.trusted(torch.from_numpy(index[:, 0].copy()), total, None)
            return Assignment.trusted(torch.from_numpy(index), total, torch.from_numpy(shares))
        chosen = points
        if len(points) > self.max_points:
            rng = np.random.default_rng(self.seed)
            chosen = points[rng.choice(len(points), self.max_points, replace=False)]
        if self.soft is not None:
            clusterer.fit(chosen)
            return _soft(clusterer, points, self.soft)
        if hasattr(clusterer, "predict"):
            clusterer.fit(chosen)
            labels = np.concatenate([clusterer.predict(part) for part in _chunks(points)])
        else:
            labels = clusterer.fit_predict(chosen)
            if len(chosen) < len(points):
                labels = _nearest_centroid(points, chosen, labels)
        # Numbered without gaps: a cluster may be empty, and DBSCAN calls its noise -1.
        return Assignment(torch.as_tensor(_renumbered(labels)))


class Naive(Cluster):
    """
    The scheme that suggests itself first, by k-means on the posterior means, each weight in one
    group. It is here to be compared with: groups found from the posterior were put there by the
    prior, so that they stop changing after the first regroup or two (lock-in).

    Example::

        >>> Naive(4).clusterer
        KMeans(n_clusters=4, random_state=0)

    :param int num_groups: the number of groups.
    :param int seed: of k-means.
    """

    def __init__(self, num_groups: int, *, seed: int = 0) -> None:
        super().__init__(KMeans(num_groups, random_state=seed), "mean", None, seed=seed)


def _partition(posterior: WeightPosterior, name: str, argument: str) -> np.ndarray:
    if posterior.partition is None:
        raise ValueError(f"{argument}: {name!r} needs the weights of a BayesianModule")
    return posterior.partition(name).hard().index.cpu().numpy()


def _renumbered(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels, return_inverse=True)[1]


def _unit_points(points: np.ndarray, units: np.ndarray) -> np.ndarray:
    size = np.bincount(units)
    columns = [np.bincount(units, column) / size for column in points.T]
    squares = np.bincount(units, np.square(points[:, 0], dtype=np.float64)) / size
    columns.append(0.5 * np.log(squares + 1e-12))
    stacked = np.stack(columns, 1)
    spread = stacked.std(0)
    return (stacked - stacked.mean(0)) / np.where(spread > 0, spread, 1.0)


def _of_members(units: Assignment, members: torch.Tensor) -> Assignment:
    """The grouping of weights, from that of their units."""
    shares = units.responsibilities
    return Assignment.trusted(
        units.index[members], units.num_groups, None if shares is None else shares[members]
    )


def _joined(parts: list[np.ndarray], found: list[Assignment]) -> Assignment:
    """One grouping from those of parts, whose groups all stay apart."""
    total = sum(len(rows) for rows in parts)
    if not found[0].is_soft:
        index = torch.empty(total, dtype=torch.int32)
        shares = None
    else:
        slots = max(part.index.shape[1] for part in found)
        index = torch.zeros(total, slots, dtype=torch.int32)
        shares = torch.zeros(total, slots, dtype=torch.float32)
    offset = 0
    for rows, part in zip(parts, found):
        where = torch.from_numpy(rows)
        if shares is None or part.responsibilities is None:
            index[where] = part.index + offset
        else:
            width = part.index.shape[1]
            index[where[:, None], torch.arange(width)] = part.index + offset
            index[where[:, None], torch.arange(width, slots)] = offset
            shares[where[:, None], torch.arange(width)] = part.responsibilities
        offset += part.num_groups
    return Assignment.trusted(index, offset, shares)


def _soft(clusterer: Any, points: np.ndarray, top_k: int) -> Assignment:
    index, shares = [], []
    for part in _chunks(points):
        dense = torch.as_tensor(clusterer.predict_proba(part))
        kept, where = dense.topk(min(top_k, dense.shape[1]), dim=1)
        index.append(where.int())
        shares.append((kept / kept.sum(1, keepdim=True)).float())
    return Assignment(torch.cat(index), dense.shape[1], torch.cat(shares))


def _chunks(points: np.ndarray) -> list[np.ndarray]:
    return [points[start : start + CHUNK] for start in range(0, len(points), CHUNK)]


def _nearest_centroid(points: np.ndarray, chosen: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """
    Clusters of all points, given those of some. scikit-learn's NearestCentroid refuses a single
    cluster and warns of clusters without spread, both of which may well be.
    """
    nearest, least = np.zeros(len(points), dtype=int), np.full(len(points), np.inf)
    for number, label in enumerate(np.unique(labels)):
        distance = np.square(points - chosen[labels == label].mean(0)).sum(1)
        nearest[distance < least] = number
        least = np.minimum(least, distance)
    return nearest
