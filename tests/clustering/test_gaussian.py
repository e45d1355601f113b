# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The binned mixture of two columns, against scikit-learn's on the points themselves."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import special, stats
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.utils import estimator_checks

from pyro_groupprior import BinnedGaussianMixture

MEANS = np.array([[-3.0, 0.0], [0.0, 2.0], [2.5, -2.0]])


def clear(size=900, overlap=1.0, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    roots = np.array([[[0.5, 0.0], [0.3, 0.4]], [[0.8, 0.0], [-0.5, 0.3]], [[0.3, 0], [0, 0.9]]])
    label = rng.choice(3, size, p=[0.5, 0.3, 0.2])
    points = np.einsum("nij,nj->ni", roots[label], rng.standard_normal((size, 2)))
    return overlap * points + MEANS[label]


def scikit_learn_from_our_start(X, groups=3, **options) -> GaussianMixture:
    """scikit-learn's EM from the k-means that ours starts from, done by hand."""
    labels = KMeans(groups, n_init=1, random_state=0).fit(X / X.std(0)).labels_
    parts = [X[labels == group] for group in range(groups)]
    precisions = [np.linalg.inv(np.cov(p.T, ddof=0) + 1e-6 * np.eye(2)) for p in parts]
    return GaussianMixture(
        groups,
        weights_init=[len(part) / len(X) for part in parts],
        means_init=[part.mean(0) for part in parts],
        precisions_init=precisions,
        **options,
    ).fit(X)


@pytest.mark.parametrize("overlap", [1.0, 2.5])
@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_without_bins_it_is_scikit_learns(overlap, shift):
    X = clear(overlap=overlap) + shift
    ours = BinnedGaussianMixture(3, n_bins=None, tol=1e-5, max_iter=500, random_state=0).fit(X)
    theirs = scikit_learn_from_our_start(X, tol=1e-5, max_iter=500)
    assert ours.converged_ and ours.n_iter_ == theirs.n_iter_
    for name in ("weights_", "means_", "covariances_"):
        assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-6)
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, abs=1e-8)
    assert ours.score(X) == pytest.approx(theirs.score(X), abs=1e-7)
    assert_allclose(ours.score_samples(X), theirs.score_samples(X), atol=1e-4)
    assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-5)
    assert (ours.predict(X) == theirs.predict(X)).mean() > 0.999


def test_density_and_responsibilities_by_definition():
    X = clear(overlap=2.0)
    mixture = BinnedGaussianMixture(3, random_state=0).fit(X)
    joint = np.log(mixture.weights_) + np.stack(
        [
            stats.multivariate_normal(mean, covariance).logpdf(X)
            for mean, covariance in zip(mixture.means_, mixture.covariances_)
        ],
        1,
    )
    assert_allclose(mixture.score_samples(X), special.logsumexp(joint, 1), atol=1e-8)
    assert_allclose(mixture.predict_proba(X), special.softmax(joint, 1), atol=1e-8)


@pytest.mark.parametrize("n_bins", [None, (40, 30)])
def test_em_never_lowers_its_likelihood(n_bins):
    X = clear(overlap=2.5)
    bounds = [
        BinnedGaussianMixture(4, max_iter=n, tol=-np.inf, n_bins=n_bins, random_state=0)
        .fit(X)
        .lower_bound_
        for n in range(1, 15)
    ]
    # The constant added to the covariances may take back a little.
    assert (np.diff(bounds) > -1e-6).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bins_change_little(dtype):
    X = clear(50_000, overlap=1.5).astype(dtype)
    options = {"tol": 1e-6, "max_iter": 300, "random_state": 0}
    binned = BinnedGaussianMixture(3, **options).fit(X)
    exact = BinnedGaussianMixture(3, n_bins=None, **options).fit(X)
    order = np.argsort(binned.means_[:, 0]), np.argsort(exact.means_[:, 0])
    for name, tolerance in (("weights_", 2e-3), ("means_", 5e-3), ("covariances_", 5e-3)):
        one, other = (getattr(m, name)[o] for m, o in zip((binned, exact), order))
        assert_allclose(one, other, atol=tolerance)
    assert binned.score(X) == pytest.approx(exact.score(X), abs=1e-4)
    one, other = (m.predict_proba(X)[:, o] for m, o in zip((binned, exact), order))
    assert np.abs(one - other).mean() < 0.01 and np.quantile(np.abs(one - other), 0.999) < 0.15


def test_top_responsibilities():
    X = clear(overlap=2.0)
    mixture = BinnedGaussianMixture(3, n_bins=(50, 50), random_state=0)
    index, shares = mixture.fit_top_responsibilities(X, 2)
    proba = mixture.predict_proba(X)
    rows = np.arange(len(X))[:, None]
    kept = np.sort(proba, 1)[:, :0:-1]
    assert_allclose(proba[rows, index], kept, atol=1e-6)
    assert_allclose(shares, kept / kept.sum(1, keepdims=True), atol=1e-6)
    again = clone(mixture).fit(X).top_responsibilities(X, 2)
    assert (again[0] == index).all() and (again[1] == shares).all()
    assert (mixture.predict(X) == index[:, 0]).all()


def test_constant_column_and_one_component():
    X = np.stack([np.linspace(0, 1, 50), np.full(50, 7.0)], 1)
    mixture = BinnedGaussianMixture(1, random_state=0).fit(X)
    assert_allclose(mixture.means_, [X.mean(0)])
    assert_allclose(mixture.covariances_[0], np.cov(X.T, ddof=0) + 1e-6 * np.eye(2))


@pytest.mark.parametrize(
    ("options", "X", "match"),
    [
        ({"n_components": 0}, np.zeros((5, 2)), "n_components: expected a positive number, got 0"),
        ({"n_components": 6}, np.zeros((5, 2)), "at least n_components=6 points, got 5"),
        ({}, np.zeros((9, 3)), "X: expected two columns, got 3"),
        ({}, np.full((9, 2), np.nan), "NaN"),
        ({}, np.full((9, 2), np.inf), "infinity"),
        ({}, np.zeros(9), "2D"),
    ],
)
def test_bad_input(options, X, match):
    with pytest.raises(ValueError, match=match):
        BinnedGaussianMixture(**options).fit(X)


def test_conventions_of_scikit_learn():
    mixture = BinnedGaussianMixture(3, reg_covar=1e-4, random_state=1)
    assert clone(mixture).get_params() == mixture.get_params()
    assert mixture.set_params(tol=0.5).tol == 0.5
    for method in ("predict", "predict_proba", "score_samples"):
        with pytest.raises(NotFittedError):
            getattr(mixture, method)(clear())
    assert mixture.fit(clear()).n_features_in_ == 2
    with pytest.raises(ValueError, match="two columns"):
        mixture.predict(np.zeros((4, 1)))
    for name in (
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_get_params_invariance",
        "check_set_params",
        "check_estimators_unfitted",
    ):
        getattr(estimator_checks, name)("BinnedGaussianMixture", BinnedGaussianMixture(3))
