# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Rules that propose a grouping from posterior statistics."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from sklearn.base import clone

from ..assignment import Assignment
from .posterior import WeightPosterior

FEATURES = ("mean", "moments")


class Strategy(Protocol):
    """Anything that proposes a grouping from posterior statistics."""

    def propose(self, posterior: WeightPosterior) -> Assignment:
        """The proposed grouping of the same weights; group labels are free."""


class Cluster:
    """
    Cluster the weights' posterior moments with a scikit-learn clusterer.

    The points are the posterior mean in units of the base scale or, with ``features="moments"``,
    that and the logarithm of the standard deviation; each column is standardised. A clusterer with
    ``predict_proba`` (a mixture) can give soft assignments.

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
    :param str features: ``"mean"`` or ``"moments"``.
    :param soft: keep this many responsibilities for each weight (needs ``predict_proba``);
        default: hard.
    :param int max_points: fit on at most this many weights, drawn at random; the others go to the
        group that ``predict`` says, or whose centroid is nearest where a clusterer has no
        ``predict``. Agglomerative clustering needs memory quadratic in it.
    :param int seed: seed of that draw.
    :raises TypeError: if the clusterer lacks the methods.
    :raises ValueError: if an option is out of range.
    """

    def __init__(
        self,
        clusterer: Any,
        features: str = "mean",
        soft: int | None = None,
        max_points: int = 20_000,
        seed: int = 0,
    ) -> None:
        if not hasattr(clusterer, "get_params") or not any(
            hasattr(clusterer, method) for method in ("fit_predict", "predict")
        ):
            raise TypeError(
                f"clusterer: expected a scikit-learn clusterer, got {type(clusterer).__name__}"
            )
        if features not in FEATURES:
            raise ValueError(f"features: expected one of {FEATURES}, got {features!r}")
        if soft is not None and not hasattr(clusterer, "predict_proba"):
            raise TypeError(f"soft: {type(clusterer).__name__} has no predict_proba; use a mixture")
        if soft is not None and soft < 1:
            raise ValueError(f"soft: expected a positive number, got {soft}")
        if max_points < 2:
            raise ValueError(f"max_points: expected at least 2, got {max_points}")
        self.clusterer, self.features, self.soft = clusterer, features, soft
        self.max_points, self.seed = max_points, seed

    def propose(self, posterior: WeightPosterior) -> Assignment:
        """
        :raises FloatingPointError: if the moments are not finite.
        """
        points = self._points(posterior)
        clusterer = clone(self.clusterer)
        if len(points) <= self.max_points:
            chosen = points
        else:
            rng = np.random.default_rng(self.seed)
            chosen = points[rng.choice(len(points), self.max_points, replace=False)]
        device = posterior.mean.device
        if self.soft is not None:
            responsibilities = clusterer.fit(chosen).predict_proba(points)
            top_k = min(self.soft, responsibilities.shape[1])
            dense = torch.as_tensor(responsibilities, dtype=posterior.mean.dtype)
            return Assignment.from_dense(dense / dense.sum(1, keepdim=True), top_k).to(device)
        if hasattr(clusterer, "predict"):
            labels = clusterer.fit(chosen).predict(points)
        else:
            labels = clusterer.fit_predict(chosen)
            if len(chosen) < len(points):
                labels = _nearest_centroid(points, chosen, labels)
        # Numbered without gaps: a cluster may be empty, and DBSCAN calls its noise -1.
        labels = np.unique(labels, return_inverse=True)[1]
        return Assignment(torch.as_tensor(labels)).to(device)

    def _points(self, posterior: WeightPosterior) -> np.ndarray:
        columns = [posterior.mean / posterior.base_scale]
        if self.features == "moments":
            sd = (posterior.sd / posterior.base_scale).clamp(min=1e-12)
            columns.append(sd.log())
        points = torch.stack(columns, 1).detach().double().cpu().numpy()
        if not np.isfinite(points).all():
            raise FloatingPointError("posterior: expected finite means and deviations")
        spread = points.std(0)
        return (points - points.mean(0)) / np.where(spread > 0, spread, 1.0)


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
