# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What mixtures fitted to a histogram of many points share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin, DensityMixin
from sklearn.utils.validation import check_is_fitted

from .cells import Cells, Grid, single_cells, top_of

MANY = 20_000  # points above which they are binned by default


class BinnedMixture(ClusterMixin, DensityMixin, BaseEstimator):
    """
    A mixture over two columns whose points, if they are many, are gathered in cells first. A
    subclass has ``n_components``, ``max_iter`` and ``n_bins`` among its settings.
    """

    n_components: int
    max_iter: int
    n_bins: tuple[int, int] | str | None
    default_bins: ClassVar[tuple[int, int]]

    @abstractmethod
    def _fit(self, X: Any) -> Cells:
        """Fit, and give the points' cells."""

    @abstractmethod
    def _points(self, X: Any) -> np.ndarray:
        """Checked points as the grid takes them, shape ``[n, 2]``."""

    @abstractmethod
    def _responsibilities(self, cells: Cells) -> np.ndarray:
        """Of the components for each cell's points, shape ``[C, n_components]``."""

    @abstractmethod
    def score_samples(self, X: Any) -> np.ndarray:
        """Log-density of each point, shape ``[n]``."""

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """``fit``, then :meth:`predict` of the same points."""
        return _most_responsible(*self._fitted_shares(X))

    def fit_top_responsibilities(self, X: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        """``fit``, then :meth:`top_responsibilities` of the same points, binned only once."""
        return top_of(*self._fitted_shares(X), k)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Responsibilities, shape ``[n, n_components]``."""
        cells, shares = self._shares(X)
        return cells.spread(shares)

    def predict(self, X: Any) -> np.ndarray:
        """The most responsible component of each point, shape ``[n]``."""
        return _most_responsible(*self._shares(X))

    def top_responsibilities(self, X: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        """
        The ``k`` most responsible components of each point, largest first, without a matrix of
        all points by all components.

        :return: indices, int32, and responsibilities, float32, that sum to one in each row: shape
            ``[n, min(k, number of components)]`` both.
        """
        return top_of(*self._shares(X), k)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-density of the points."""
        return float(self.score_samples(X).mean())

    def _fitted_shares(self, X: Any) -> tuple[Cells, np.ndarray]:
        cells = self._fit(X)
        return cells, self._responsibilities(cells)

    def _shares(self, X: Any) -> tuple[Cells, np.ndarray]:
        check_is_fitted(self)
        cells = self._gather(self._points(X))
        return cells, self._responsibilities(cells)

    def _gather(self, points: np.ndarray, fitting: bool = False) -> Cells:
        if fitting:
            bins = self.n_bins
            if isinstance(bins, str):
                bins = self.default_bins if len(points) > MANY else None
            self._grid = None if bins is None else Grid(points, bins)
        return single_cells(points) if self._grid is None else self._grid.cells(points)

    def _check_settings(self) -> None:
        if self.n_components < 1:
            raise ValueError(f"n_components: expected a positive number, got {self.n_components}")
        if self.max_iter < 1:
            raise ValueError(f"max_iter: expected a positive number, got {self.max_iter}")
        bins = self.n_bins
        if bins is None or (isinstance(bins, str) and bins == "auto"):
            return
        if isinstance(bins, str) or len(bins) != 2 or min(bins) < 1:
            raise ValueError(f"n_bins: expected two positive numbers, None or 'auto', got {bins!r}")


def _most_responsible(cells: Cells, shares: np.ndarray) -> np.ndarray:
    return cells.spread(shares.argmax(1).astype(np.int32))
