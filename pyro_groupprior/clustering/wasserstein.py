# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The Wasserstein-2 distance between Gaussians, and mixtures merged by it."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted


def wasserstein2(mean1: Any, cov1: Any, mean2: Any, cov2: Any) -> np.ndarray:
    """
    Squared Wasserstein-2 distance between Gaussians, in squared units of the points:
    ``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2)``, which for diagonal covariances is
    ``|m1 - m2|^2 + |s1 - s2|^2``. Leading dimensions broadcast.

    Example::

        >>> from pyro_groupprior.clustering.wasserstein import wasserstein2
        >>> float(wasserstein2([0.0], [1.0], [3.0], [25.0]))
        25.0

    Source: Dowson and Landau 1982, "The Fréchet distance between multivariate normal
    distributions".

    :param mean1: means, shape ``[..., D]``.
    :param cov1: of the shape of its mean: variances; or ``[..., D, D]``: covariance matrices.
    :param mean2: means, shape ``[..., D]``.
    :param cov2: as ``cov1``; the two may differ in form.
    :return: shape ``[...]``.
    :raises ValueError: if shapes do not fit, or a variance is negative.
    """
    mean1, cov1 = _gaussian(mean1, cov1, "mean1", "cov1")
    mean2, cov2 = _gaussian(mean2, cov2, "mean2", "cov2")
    if mean1.shape[-1] != mean2.shape[-1]:
        raise ValueError(
            f"mean2: expected {mean1.shape[-1]} dimensions like mean1, got {mean2.shape[-1]}"
        )
    square = np.square(mean1 - mean2).sum(-1)
    if cov1.shape == mean1.shape and cov2.shape == mean2.shape:
        return square + np.square(np.sqrt(cov1) - np.sqrt(cov2)).sum(-1)
    root1, root2 = _root(mean1, cov1), _root(mean2, cov2)
    # The trace of the root in the formula is the sum of singular values of the product of roots:
    # unlike the eigenvalues in it, they need no root themselves, which would double the error.
    overlap = np.linalg.svd(root1 @ root2, compute_uv=False).sum(-1)
    traces = np.square(root1).sum((-2, -1)) + np.square(root2).sum((-2, -1))
    return square + np.maximum(traces - 2 * overlap, 0.0)


def merge_components(
    weights: Any,
    means: Any,
    covariances: Any,
    max_distance: float | None = None,
    n_components: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """
    Merge the two closest components of a Gaussian mixture by Wasserstein-2 distance, again and
    again, until the closest are further apart than ``max_distance`` or ``n_components`` are left,
    whichever comes first. Each merger keeps the mixture's mean and covariance: ``m = sum n_k/n
    m_k`` and ``C = sum n_k/n [C_k + (m_k - m)(m_k - m)']``.

    Example::

        >>> from pyro_groupprior.clustering.wasserstein import merge_components
        >>> means, variances = [[0.0], [9.0], [1.0]], [[1.0], [1.0], [1.0]]
        >>> merged = merge_components([0.25, 0.5, 0.25], means, variances, max_distance=2.0)
        >>> merged[0].tolist(), merged[1].tolist(), merged[2].tolist(), merged[3].tolist()
        ([0.5, 0.5], [[0.5], [9.0]], [[1.25], [1.0]], [0, 1, 0])

    Source: Lin et al., stochastic weight sharing for Bayesian neural networks (2DGBNN).

    :param weights: of the ``K`` components, not negative, shape ``[K]``.
    :param means: shape ``[K, D]``.
    :param covariances: variances of shape ``[K, D]``, or matrices of shape ``[K, D, D]``.
    :param float max_distance: the distance itself, not its square, in units of the points.
    :param int n_components: how many to leave at least.
    :return: weights, means and covariances of the ``M`` components left, in the forms given and
        in the order of their first members; and for each old component the one it is part of,
        int64, shape ``[K]``.
    :raises ValueError: if neither criterion is given or one is out of range, or shapes do not fit.
    """
    _check_criteria(max_distance, n_components)
    means, covariances = _gaussian(means, covariances, "means", "covariances")
    weights = np.array(weights, dtype=np.float64)
    if means.ndim != 2 or weights.shape != means.shape[:1]:
        raise ValueError(
            f"weights, means: expected shapes [K] and [K, D], got {list(weights.shape)} and "
            f"{list(means.shape)}"
        )
    if not (weights >= 0).all() or not weights.sum() > 0:
        raise ValueError(f"weights: expected numbers that are not negative, got {weights}")
    labels = np.arange(len(weights))
    left = list(labels)
    distances = wasserstein2(means[:, None], covariances[:, None], means, covariances)
    np.fill_diagonal(distances, np.inf)
    while len(left) > (n_components or 1):
        one, other = np.unravel_index(distances.argmin(), distances.shape)
        if max_distance is not None and distances[one, other] > max_distance**2:
            break
        one, other = min(one, other), max(one, other)
        pair = [one, other]
        weights[one], means[one], covariances[one] = _merged(
            weights[pair], means[pair], covariances[pair]
        )
        labels[labels == other] = one
        left.remove(other)
        distances[other] = distances[:, other] = np.inf
        rest = [k for k in left if k != one]
        distances[one, rest] = distances[rest, one] = wasserstein2(
            means[one], covariances[one], means[rest], covariances[rest]
        )
    return weights[left], means[left], covariances[left], np.searchsorted(left, labels)


class MergedMixture(BaseEstimator):
    """
    A Gaussian mixture whose components are merged once it is fitted: with more components than
    groups it can follow groups that are not Gaussian, and the distance decides how many there are.
    A point's responsibilities are those of the components, summed over each merger.

    Example::

        >>> from sklearn.mixture import GaussianMixture
        >>> from pyro_groupprior.clustering.wasserstein import MergedMixture
        >>> points = np.concatenate([np.linspace(0, 1, 50), np.linspace(9, 10, 50)])[:, None]
        >>> merged = MergedMixture(GaussianMixture(6, random_state=0), max_distance=2.0)
        >>> merged.fit(points).means_.round(1).ravel().tolist()
        [9.5, 0.5]

    Source: Lin et al., stochastic weight sharing for Bayesian neural networks (2DGBNN).

    :param mixture: such as :class:`sklearn.mixture.GaussianMixture`, with ``predict_proba`` and,
        when fitted, ``weights_``, ``means_`` and ``covariances_``; it is cloned.
    :param float max_distance: merge components no further apart than this, in units of the points.
    :param int n_components: or as long as there are more than these. One criterion or both.
    :ivar mixture_: the mixture as it was fitted, ``K`` components.
    :ivar weights_: of the ``M`` merged components, shape ``[M]``.
    :ivar means_: shape ``[M, D]``.
    :ivar covariances_: shape ``[M, D]`` (variances, if the mixture's are diagonal or spherical) or
        ``[M, D, D]``.
    :ivar labels_of_components_: shape ``[K]``: the merger that each component is part of.
    :ivar n_features_in_: ``D``.
    """

    def __init__(
        self,
        mixture: Any,
        max_distance: float | None = None,
        n_components: int | None = None,
    ) -> None:
        self.mixture = mixture
        self.max_distance = max_distance
        self.n_components = n_components

    def fit(self, X: Any, y: Any = None) -> MergedMixture:
        """
        :param X: points, shape ``[n_samples, D]``.
        :param y: ignored.
        :return: itself.
        :raises TypeError: if ``mixture`` has no ``predict_proba``.
        :raises ValueError: if neither criterion is given or one is out of range.
        """
        if not hasattr(self.mixture, "predict_proba"):
            raise TypeError(
                f"mixture: expected a mixture with predict_proba, got {type(self.mixture).__name__}"
            )
        _check_criteria(self.max_distance, self.n_components)
        self.mixture_ = clone(self.mixture).fit(X)
        merged = merge_components(
            self.mixture_.weights_,
            self.mixture_.means_,
            _covariances(self.mixture_),
            self.max_distance,
            self.n_components,
        )
        self.weights_, self.means_, self.covariances_, self.labels_of_components_ = merged
        self.n_features_in_ = self.means_.shape[1]
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """
        :param X: points, shape ``[n_samples, D]``.
        :return: responsibilities of the merged components, shape ``[n_samples, M]``.
        """
        check_is_fitted(self)
        members = np.eye(len(self.weights_))[self.labels_of_components_]
        return self.mixture_.predict_proba(X) @ members

    def predict(self, X: Any) -> np.ndarray:
        """
        :param X: points, shape ``[n_samples, D]``.
        :return: the most responsible merged component of each, shape ``[n_samples]``.
        """
        return self.predict_proba(X).argmax(1)

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """:meth:`fit`, then :meth:`predict`."""
        return self.fit(X).predict(X)


def _check_criteria(max_distance: float | None, n_components: int | None) -> None:
    if max_distance is None and n_components is None:
        raise ValueError("max_distance, n_components: expected at least one of them, got none")
    if max_distance is not None and not max_distance >= 0:
        raise ValueError(f"max_distance: expected a number of at least 0, got {max_distance}")
    if n_components is not None and n_components < 1:
        raise ValueError(f"n_components: expected a positive number, got {n_components}")


def _gaussian(mean: Any, cov: Any, *names: str) -> tuple[np.ndarray, np.ndarray]:
    """Copies, so that callers may write to them."""
    mean, cov = np.array(mean, dtype=np.float64), np.array(cov, dtype=np.float64)
    if mean.ndim == 0 or cov.shape not in (mean.shape, (*mean.shape, *mean.shape[-1:])):
        raise ValueError(
            f"{', '.join(names)}: expected shapes [..., D] and [..., D] or [..., D, D], got "
            f"{list(mean.shape)} and {list(cov.shape)}"
        )
    if not np.isfinite(mean).all() or not np.isfinite(cov).all():
        raise ValueError(f"{', '.join(names)}: expected finite numbers")
    variances = cov if cov.shape == mean.shape else np.diagonal(cov, axis1=-2, axis2=-1)
    if (variances < 0).any():
        raise ValueError(f"{names[1]}: expected variances of at least 0, got {variances.min()}")
    return mean, cov


def _root(mean: np.ndarray, cov: np.ndarray) -> np.ndarray:
    """The symmetric root of a covariance in either form."""
    if cov.shape == mean.shape:
        return np.sqrt(cov)[..., None] * np.eye(cov.shape[-1])
    values, vectors = np.linalg.eigh(cov)
    return (vectors * np.sqrt(values.clip(min=0.0))[..., None, :]) @ vectors.swapaxes(-1, -2)


def _merged(
    weights: np.ndarray, means: np.ndarray, covariances: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Weight and moments of several components together."""
    total = weights.sum()
    shares = weights / total if total > 0 else np.full(len(weights), 1 / len(weights))
    mean = shares @ means
    offsets = means - mean
    if covariances.shape == means.shape:
        spread = covariances + np.square(offsets)
    else:
        spread = covariances + offsets[:, :, None] * offsets[:, None, :]
    return total, mean, np.tensordot(shares, spread, axes=1)


def _covariances(mixture: Any) -> np.ndarray:
    """Of a fitted mixture, with a row for each component: variances or matrices."""
    means, covariances = np.asarray(mixture.means_), np.asarray(mixture.covariances_)
    if getattr(mixture, "covariance_type", None) == "tied":
        return np.broadcast_to(covariances, (len(means), *covariances.shape))
    if covariances.ndim == 1:
        return np.broadcast_to(covariances[:, None], means.shape)
    return covariances
