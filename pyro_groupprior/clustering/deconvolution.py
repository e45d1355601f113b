# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A normal mixture of values that are known with noise of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.validation import check_array, check_is_fitted

from .binned import BinnedMixture
from .cells import Cells, single_cells
from .mixture_em import Mixture, Noisy, Settings, fit, search, shares_of

CRITERIA = ("bic", None)


class DeconvolvedMixture(BinnedMixture):
    r"""
    A one-dimensional normal mixture of values that are seen through noise of known size, each of
    its own:

    .. math:: e_i \mid g \sim N(loc_g,\; scale_g^2 + t_i^2)

    fitted by EM (Bovy, Hogg and Roweis 2011, "Extreme deconvolution"). In regrouping the values
    are the evidence about each weight, so that a weight of which the data say little joins no
    group firmly. Many points are gathered in a fine histogram first, so that 25 million cost
    little more than binning them.

    Example::

        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> loc = rng.choice([-1.0, 1.0], 500)
        >>> noise = rng.uniform(0.1, 0.5, 500)
        >>> seen = loc + 0.1 * rng.standard_normal(500) + noise * rng.standard_normal(500)
        >>> mixture = DeconvolvedMixture().fit(np.stack([seen, noise], 1))
        >>> mixture.means_.round(1), mixture.scales_.round(1)
        (array([-1.,  1.]), array([0.1, 0.1]))

    :param int n_components: the number of groups, or with a ``criterion`` the largest number.
    :param criterion: ``"bic"``: of all numbers up to ``n_components`` the one with the best
        Bayesian information criterion, closest components being merged one after another; None:
        exactly ``n_components``.
    :param bool zero_mean: a scale mixture: all means are zero.
    :param float min_scale: smallest standard deviation of a component, in the values' unit.
    :param float prior_count: each component's scale is drawn towards that of all values divided by
        ``n_components``, as by so many points at that distance (Fraley and Raftery 2007); 0 for
        maximum likelihood, under which few points can end in a spike of their own.
    :param int max_iter: EM steps for each number of components.
    :param float tol: EM stops when a step gains less, in nats a point.
    :param n_bins: bins along the values and along the logarithm of the noise; ``"auto"``:
        (512, 64) for more than 20,000 points, else None, which takes every point as it is.

    After ``fit``: ``weights_``, ``means_``, ``scales_``, each of shape ``[n_components_]`` and in
    the order of the means (scales for a scale mixture); ``n_components_``; and ``trace_``, the
    log-likelihood of all points plus log-prior before every step of the last EM and at its end.
    """

    default_bins = (512, 64)
    features = "evidence"  # what a regrouping strategy gives it by default

    def __init__(
        self,
        n_components: int = 8,
        *,
        criterion: str | None = "bic",
        zero_mean: bool = False,
        min_scale: float = 1e-3,
        prior_count: float = 3.0,
        max_iter: int = 300,
        tol: float = 1e-5,
        n_bins: tuple[int, int] | str | None = "auto",
    ) -> None:
        self.n_components, self.criterion, self.zero_mean = n_components, criterion, zero_mean
        self.min_scale, self.prior_count = min_scale, prior_count
        self.max_iter, self.tol, self.n_bins = max_iter, tol, n_bins

    def fit(self, X: Any, y: Any = None, units: np.ndarray | None = None) -> DeconvolvedMixture:
        """
        :param X: shape ``[n, 2]``: the values and the standard deviations of their noise; or
            ``[n, 1]``, values without noise.
        :param y: ignored.
        :param units: integers from 0, shape ``[n]``: values of the same unit share one component.
        :raises ValueError: if ``X`` is not finite, a deviation is negative, or a setting is out of
            range.
        """
        self._fit(X, units)
        return self

    def _fit(self, X: Any, units: np.ndarray | None = None) -> Cells:
        self._check_settings()
        points = self._points(X, fitting=True)
        units = None if units is None else self._check_units(units, points)
        cells = self._gather(points, fitting=True)
        data = Noisy.from_cells(cells, units)
        # Units name the values of fine cells; without them a search needs no more than a sketch.
        rough = data if units is not None else Noisy.from_cells(cells.coarser(SKETCH))
        settings = Settings(
            self.max_iter, self.tol, self.min_scale, self.zero_mean, prior_count=self.prior_count
        )
        most = min(self.n_components, int(data.num_points))
        penalty = None if self.criterion is None else self._num_parameters
        mixture, settings = search(rough, most, settings, penalty)
        mixture, trace = fit(mixture, data, settings)
        order = np.lexsort((mixture.scales, mixture.means))
        self.weights_, self.means_ = mixture.weights[order], mixture.means[order]
        self.scales_, self.n_components_ = mixture.scales[order], len(mixture)
        self.trace_ = np.array(trace)
        return cells

    def predict_units(self, X: Any, units: np.ndarray) -> np.ndarray:
        """
        Responsibilities of whole units, whose values share one component: shape
        ``[U, n_components_]``.

        :param units: integers from 0, shape ``[n]``.
        """
        check_is_fitted(self)
        points = self._points(X)
        units = self._check_units(units, points)
        return shares_of(self._mixture, Noisy.from_cells(self._gather(points), units))[0]

    def score_samples(self, X: Any) -> np.ndarray:
        """Log-density of each point under its own noise, shape ``[n]``."""
        check_is_fitted(self)
        data = Noisy.from_cells(single_cells(self._points(X)))
        return shares_of(self._mixture, data)[1]

    def bic(self, X: Any) -> float:
        """Bayesian information criterion on ``X``; lower is better."""
        total = self.score(X) * len(X)
        return -2 * total + self._num_parameters(self.n_components_) * np.log(len(X))

    @property
    def _mixture(self) -> Mixture:
        return Mixture(self.weights_, self.means_, self.scales_)

    def _responsibilities(self, cells: Cells) -> np.ndarray:
        return shares_of(self._mixture, Noisy.from_cells(cells))[0]

    def _num_parameters(self, num_components: int) -> int:
        return (2 if self.zero_mean else 3) * num_components - 1

    def _points(self, X: Any, fitting: bool = False) -> np.ndarray:
        """Values and logarithm of the noise's deviation, shape ``[n, 2]``."""
        X = check_array(X, dtype=[np.float64, np.float32])
        if X.shape[1] not in (1, 2):
            raise ValueError(f"X: expected one or two columns, values and noise, got {X.shape[1]}")
        if fitting:
            self.n_features_in_ = X.shape[1]
        elif X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {X.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input"
            )
        points = np.empty((2, len(X)), dtype=X.dtype).T  # each column in one piece
        points[:, 0] = X[:, 0]
        if X.shape[1] == 1:
            points[:, 1] = _NO_NOISE
            return points
        if X[:, 1].min() < 0:
            raise ValueError("X: expected noise that is not negative in its second column")
        with np.errstate(divide="ignore"):
            np.log(X[:, 1], out=points[:, 1])
        np.maximum(points[:, 1], _NO_NOISE, out=points[:, 1])
        return points

    def _check_units(self, units: Any, points: np.ndarray) -> np.ndarray:
        units = np.asarray(units)
        if units.shape != (len(points),) or units.dtype.kind not in "iu" or units.min() < 0:
            raise ValueError(
                f"units: expected {len(points)} integers from 0, got {units.dtype} of shape "
                f"{units.shape}"
            )
        return units

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.criterion not in CRITERIA:
            raise ValueError(f"criterion: expected one of {CRITERIA}, got {self.criterion!r}")
        if not self.min_scale > 0:
            raise ValueError(f"min_scale: expected a positive number, got {self.min_scale}")
        if not self.prior_count >= 0:
            raise ValueError(f"prior_count: expected a number >= 0, got {self.prior_count}")


SKETCH = 1000  # cells that the search for a mixture makes do with
_NO_NOISE = -20.0  # logarithm of a deviation that is none beside min_scale
