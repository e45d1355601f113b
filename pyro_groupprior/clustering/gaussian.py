# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A two-dimensional normal mixture of very many points."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.utils.validation import check_array, check_is_fitted
from threadpoolctl import threadpool_limits

from .binned import BinnedMixture
from .cells import Cells, single_cells
from .mixture_em import BLOCK, normalise


class BinnedGaussianMixture(BinnedMixture):
    """
    A mixture of normals with full covariances over two columns, such as a weight's posterior mean
    and the logarithm of its deviation: :class:`sklearn.mixture.GaussianMixture` on a histogram,
    for millions of points. The histogram's cells keep the means and variances of their points, so
    that little is lost.

    Example::

        >>> import numpy as np
        >>> X = np.random.default_rng(0).standard_normal((50_000, 2))
        >>> X[:20_000] += 8
        >>> mixture = BinnedGaussianMixture(2, random_state=0).fit(X)
        >>> np.sort(mixture.weights_).round(2)
        array([0.4, 0.6])

    :param int n_components: the number of components.
    :param float reg_covar: added to the diagonal of the covariances, in the columns' variances.
    :param int max_iter: most EM steps.
    :param float tol: EM stops when a step gains less, in nats a point.
    :param n_bins: bins along each column; ``"auto"``: (256, 256) for more than 20,000 points, else
        None, which takes every point as it is.
    :param random_state: seed of the k-means on the cells that EM starts from.

    After ``fit``: ``weights_``, ``means_`` (``[n_components, 2]``), ``covariances_``
    (``[n_components, 2, 2]``), ``n_iter_``, ``converged_`` and ``lower_bound_``, as in
    scikit-learn.
    """

    default_bins = (256, 256)
    features = "moments"  # what a regrouping strategy gives it by default

    def __init__(
        self,
        n_components: int = 8,
        *,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        tol: float = 1e-3,
        n_bins: tuple[int, int] | str | None = "auto",
        random_state: int | None = None,
    ) -> None:
        self.n_components, self.reg_covar = n_components, reg_covar
        self.max_iter, self.tol, self.n_bins = max_iter, tol, n_bins
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> BinnedGaussianMixture:
        """
        :param X: shape ``[n, 2]``.
        :param y: ignored.
        :raises ValueError: if ``X`` is not finite, has fewer points than components, or a setting
            is out of range.
        """
        self._fit(X)
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Log-density of each point, shape ``[n]``."""
        check_is_fitted(self)
        return normalise(self._log_joint(single_cells(self._points(X))))

    def _fit(self, X: Any) -> Cells:
        self._check_settings()
        points = self._points(X)
        if len(points) < self.n_components:
            raise ValueError(
                f"X: expected at least n_components={self.n_components} points, got {len(points)}"
            )
        self.n_features_in_ = 2
        cells = self._gather(points, fitting=True)
        with threadpool_limits(1):  # on few cells threads cost more than they bring
            self._run(cells)
        return cells

    def _points(self, X: Any) -> np.ndarray:
        X = check_array(X, dtype=[np.float64, np.float32])
        if X.shape[1] != 2:
            raise ValueError(f"X: expected two columns, got {X.shape[1]}")
        return X

    def _responsibilities(self, cells: Cells) -> np.ndarray:
        joint = self._log_joint(cells)
        normalise(joint)
        return joint

    def _log_joint(self, cells: Cells) -> np.ndarray:
        return self._features(cells) @ self._coefficients()

    def _run(self, cells: Cells) -> None:
        self._start(cells)
        self.converged_, self.lower_bound_ = False, -np.inf
        for number in range(1, self.max_iter + 1):
            self.n_iter_ = number
            moments, lower_bound = self._e_step(cells)
            self._m_step(moments)
            gain, self.lower_bound_ = lower_bound - self.lower_bound_, lower_bound
            if gain < self.tol:
                self.converged_ = True
                break

    def _start(self, cells: Cells) -> None:
        total = cells.counts.sum()
        self._middle = cells.counts @ cells.means / total
        variance = cells.counts @ ((cells.means - self._middle) ** 2 + cells.variances) / total
        unit = np.sqrt(np.where(variance > 0, variance, 1.0))
        kmeans = KMeans(self.n_components, n_init=1, random_state=self.random_state)
        labels = kmeans.fit(cells.means / unit, sample_weight=cells.counts).labels_
        mass = cells.counts[:, None] * np.eye(self.n_components)[labels]
        self._m_step(self._features(cells).T @ mass)

    def _coefficients(self) -> np.ndarray:
        """
        ``log weight_g + log N(point; mean_g, cov_g)`` is linear in the monomials of a point up to
        the second degree: the coefficients, shape ``[6, G]``.
        """
        a, b, c = (self.covariances_[:, i, j] for i, j in ((0, 0), (0, 1), (1, 1)))
        determinant = a * c - b * b
        p, q, r = c / determinant, -b / determinant, a / determinant  # the precision matrix
        x, y = (self.means_ - self._middle).T
        constant = np.log(self.weights_) - np.log(2 * np.pi) - 0.5 * np.log(determinant)
        constant -= 0.5 * (p * x * x + 2 * q * x * y + r * y * y)
        return np.stack([constant, p * x + q * y, q * x + r * y, -p / 2, -q, -r / 2])

    def _e_step(self, cells: Cells) -> tuple[np.ndarray, float]:
        """The components' sums of monomials, shape ``[6, G]``, and the mean log-density."""
        coefficients, features = self._coefficients(), self._features(cells)
        moments, total = np.zeros_like(coefficients), 0.0
        for start in range(0, len(features), BLOCK):
            rows = slice(start, start + BLOCK)
            mass = features[rows] @ coefficients
            total += float(cells.counts[rows] @ normalise(mass))
            mass *= cells.counts[rows, None]
            moments += features[rows].T @ mass
        return moments, total / float(cells.counts.sum())

    def _m_step(self, moments: np.ndarray) -> None:
        size = moments[0] + 10 * np.finfo(float).eps
        x, y, xx, xy, yy = moments[1:] / size
        self.weights_ = size / size.sum()
        self.means_ = self._middle + np.stack([x, y], 1)
        covariances = np.stack([xx - x * x, xy - x * y, xy - x * y, yy - y * y], 1)
        self.covariances_ = covariances.reshape(-1, 2, 2) + self.reg_covar * np.eye(2)

    def _features(self, cells: Cells) -> np.ndarray:
        """
        Means over each cell's points of 1, x, y, x^2, xy, y^2, taken about the points' overall
        mean: far from zero, squares would cancel. Shape ``[C, 6]``.
        """
        x, y = (cells.means - self._middle).T
        spread_x, spread_y = cells.variances.T
        return np.stack([np.ones_like(x), x, y, x * x + spread_x, x * y, y * y + spread_y], 1)
