# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Clusters of weights that move together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import AgglomerativeClustering, KMeans, MiniBatchKMeans, SpectralClustering
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_array, check_is_fitted

METHODS = ("kmeans", "hierarchical", "spectral")
MANY = 100_000  # rows beyond which k-means goes over them in small batches
BATCH = 4096
PRODUCTS = 2**24  # products of coordinates held at once
STILL = -1  # the label of rows that never move


class CorrelationClustering(ClusterMixin, BaseEstimator):
    """
    Clusters of rows by the Pearson correlation between them. The rows are trajectories: a weight's
    posterior mean over training snapshots, or its posterior draws.

    - ``"kmeans"``: k-means on the standardised rows, whose squared distance is
      ``2 - 2 correlation``; for any number of rows (in small batches beyond 100,000), since no
      matrix of pairs is formed.
    - ``"hierarchical"``: average linkage on ``1 - correlation``.
    - ``"spectral"``: spectral clustering with ``(1 + correlation) / 2`` as affinity.

    Rows that never move correlate with nothing: they take no part in the clustering, and their
    label is -1, scikit-learn's label for noise.

    With ``absolute=True`` rows that move in opposite directions are alike: the two matrices are
    of ``|correlation|``, and k-means works on the products of all pairs of a row's coordinates,
    whose squared distance is ``2 - 2 correlation^2``. These are many, ``T (T + 1) / 2``, so that
    beyond 16 million of them it fits on rows drawn at random and predicts the others.

    Example::

        >>> from pyro_groupprior.clustering.correlation import CorrelationClustering
        >>> rows = [[0, 1, 2, 3], [5, 6, 7, 9], [1, 0, 1, 0], [7, 4, 6, 3]]
        >>> labels = CorrelationClustering(2, random_state=0).fit_predict(rows)
        >>> bool(labels[0] == labels[1] != labels[2] == labels[3])
        True

    :param int n_clusters: number of clusters of the rows that move.
    :param str method: ``"kmeans"``, ``"hierarchical"`` or ``"spectral"``.
    :param int max_weights: refuse more rows than this where the method needs all pairs.
    :param bool absolute: whether opposite trajectories are alike.
    :param random_state: seed or generator of k-means and spectral clustering.
    :ivar labels_: shape ``[n_samples]``, int64.
    :ivar estimator_: the scikit-learn clusterer fitted to the rows that move.
    :ivar n_features_in_: length ``T`` of the trajectories.
    """

    #: What a regrouping strategy gives it as rows.
    features = "trajectory"

    def __init__(
        self,
        n_clusters: int = 8,
        method: str = "kmeans",
        max_weights: int = 5000,
        absolute: bool = False,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.method = method
        self.max_weights = max_weights
        self.absolute = absolute
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> CorrelationClustering:
        """
        :param X: trajectories, shape ``[n_samples, T]``, ``T`` at least 2.
        :param y: ignored.
        :return: itself.
        :raises ValueError: if an option is out of range, a value is not finite, fewer rows than
            clusters move, or there are more than ``max_weights`` for a matrix of pairs.
        """
        if self.method not in METHODS:
            raise ValueError(f"method: expected one of {METHODS}, got {self.method!r}")
        if not self.n_clusters >= 1:
            raise ValueError(f"n_clusters: expected a positive number, got {self.n_clusters}")
        X = check_array(X, dtype=[np.float64, np.float32], ensure_min_features=2)
        if self.method != "kmeans" and len(X) > self.max_weights:
            raise ValueError(
                f"X: {self.method} clustering forms a matrix of all pairs; expected at most "
                f"max_weights={self.max_weights} rows, got {len(X)}. Use method='kmeans'"
            )
        rows, moving = _unit_rows(X)
        if len(rows) < self.n_clusters:
            raise ValueError(
                f"n_clusters: expected at most the n_samples={len(rows)} rows of X that move, got "
                f"{self.n_clusters}"
            )
        self.n_features_in_ = X.shape[1]
        self.labels_ = np.full(len(X), STILL, dtype=np.int64)
        if self.method == "kmeans":
            self.labels_[moving] = self._fit_kmeans(rows)
        else:
            self.labels_[moving] = self._fit_matrix(rows)
        return self

    @available_if(lambda self: self.method == "kmeans")
    def predict(self, X: Any) -> np.ndarray:
        """
        The nearest cluster of each row; for ``"kmeans"`` only.

        :param X: trajectories, shape ``[n_samples, T]``, over the same snapshots.
        :return: labels, shape ``[n_samples]``; -1 for rows that never move.
        :raises ValueError: if ``T`` is not the same, or a value is not finite.
        """
        check_is_fitted(self)
        X = check_array(X, dtype=[np.float64, np.float32])
        if X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {X.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
        rows, moving = _unit_rows(X)
        labels = np.full(len(X), STILL, dtype=np.int64)
        labels[moving] = self._nearest(rows)
        return labels

    def _fit_kmeans(self, rows: np.ndarray) -> np.ndarray:
        random = check_random_state(self.random_state)
        seed = random.randint(np.iinfo(np.int32).max)
        chosen = rows
        if self.absolute and len(rows) > self._rows_at_once(rows):
            size = max(self._rows_at_once(rows), self.n_clusters)
            chosen = rows[random.choice(len(rows), size, replace=False)]
        if len(chosen) > MANY:
            clusterer = MiniBatchKMeans(
                self.n_clusters, batch_size=BATCH, n_init=3, random_state=seed
            )
        else:
            clusterer = KMeans(self.n_clusters, n_init=3, random_state=seed)
        self.estimator_ = clusterer.fit(self._coordinates(chosen))
        return self.estimator_.labels_ if chosen is rows else self._nearest(rows)

    def _nearest(self, rows: np.ndarray) -> np.ndarray:
        labels = np.empty(len(rows), dtype=np.int64)
        dtype, size = self.estimator_.cluster_centers_.dtype, self._rows_at_once(rows)
        for start in range(0, len(rows), size):
            points = self._coordinates(rows[start : start + size]).astype(dtype, copy=False)
            labels[start : start + size] = self.estimator_.predict(points)
        return labels

    def _coordinates(self, rows: np.ndarray) -> np.ndarray:
        """Points whose distances mean correlation."""
        if not self.absolute:
            return rows
        one, other = np.triu_indices(rows.shape[1])
        # Products off the diagonal stand for two: each is in the outer product twice.
        weight = np.where(one == other, 1.0, np.sqrt(2)).astype(rows.dtype)
        products = rows[:, one]
        products *= rows[:, other]
        products *= weight
        return products

    def _rows_at_once(self, rows: np.ndarray) -> int:
        length = rows.shape[1]
        return max(1, PRODUCTS // (length * (length + 1) // 2 if self.absolute else length))

    def _fit_matrix(self, rows: np.ndarray) -> np.ndarray:
        correlation = np.clip(rows @ rows.T, -1.0, 1.0)
        if self.absolute:
            correlation = np.abs(correlation)
        np.fill_diagonal(correlation, 1.0)
        if self.method == "hierarchical":
            self.estimator_ = AgglomerativeClustering(
                self.n_clusters, metric="precomputed", linkage="average"
            )
            return self.estimator_.fit_predict(1.0 - correlation)
        self.estimator_ = SpectralClustering(
            self.n_clusters, affinity="precomputed", random_state=self.random_state
        )
        affinity = correlation if self.absolute else (1.0 + correlation) / 2
        # A graph in several pieces has no unique embedding: hold them together by a thread.
        return self.estimator_.fit_predict(np.maximum(affinity, 1e-6))


def _unit_rows(X: np.ndarray) -> tuple[np.ndarray, Any]:
    """Standardised rows of those that move, and a mask of which do."""
    # Here, not above: the strategies of that folder use clusterers.
    from ..regrouping.trajectories import standardized

    if not X.flags.writeable or min(X.strides) < 0:
        X = X.copy()  # torch cannot look at such an array
    rows = standardized(torch.from_numpy(X).T).numpy()
    moving = np.any(rows, axis=1)
    return (rows if moving.all() else rows[moving]), moving
