# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Clusters of trajectories by correlation."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.cluster import AgglomerativeClustering, MiniBatchKMeans, SpectralClustering
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.utils import estimator_checks

from pyro_groupprior.clustering import correlation as module
from pyro_groupprior.clustering.correlation import CorrelationClustering

METHODS = ["kmeans", "hierarchical", "spectral"]
TRUTH = np.arange(90) % 3


def planted(noise=0.1, opposite=False, seed=0, steps=12, dtype=np.float64) -> np.ndarray:
    """Three groups that only their correlation tells apart, not place or size."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(3, steps))[TRUTH] + noise * rng.normal(size=(90, steps))
    if opposite:
        rows *= rng.choice([-1.0, 1.0], size=(90, 1))
    rows *= 10.0 ** rng.uniform(-2, 2, size=(90, 1))
    return (rows + rng.normal(size=(90, 1))).astype(dtype)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_finds_planted_groups(method, absolute, dtype):
    rows = planted(opposite=absolute, dtype=dtype)
    clusterer = CorrelationClustering(3, method, absolute=absolute, random_state=0)
    assert clusterer.fit(rows) is clusterer
    assert adjusted_rand_score(TRUTH, clusterer.labels_) == 1.0
    assert clusterer.n_features_in_ == 12 and clusterer.labels_.dtype == np.int64


@pytest.mark.parametrize("method", METHODS)
def test_opposite_rows_are_alike_only_if_asked(method):
    up = np.random.default_rng(0).normal(size=(1, 12)) + 0.01 * planted()[:20]
    rows = np.concatenate([up, -up])
    signed = CorrelationClustering(2, method, random_state=0).fit_predict(rows)
    assert adjusted_rand_score(np.arange(40) // 20, signed) == 1.0
    other = np.random.default_rng(1).normal(size=(1, 12)) + np.zeros((20, 1))
    rows = np.concatenate([rows, other])
    alike = CorrelationClustering(2, method, absolute=True, random_state=0).fit_predict(rows)
    assert adjusted_rand_score(np.arange(60) // 40, alike) == 1.0


@given(seed=st.integers(0, 10**6), absolute=st.booleans(), length=st.integers(2, 7))
def test_points_of_kmeans_have_distances_of_correlation(seed, absolute, length):
    rows = np.random.default_rng(seed).normal(size=(6, length))
    unit, _ = module._unit_rows(rows)
    points = CorrelationClustering(absolute=absolute)._coordinates(unit)
    squares = np.square(points[:, None] - points).sum(-1)
    correlation = np.corrcoef(rows)
    expected = 2 - 2 * (np.square(correlation) if absolute else correlation)
    np.testing.assert_allclose(squares, expected, atol=1e-9)


@pytest.mark.parametrize("absolute", [False, True])
def test_matrix_methods_are_scikit_learns_on_the_matrix(absolute):
    rows = planted(noise=1.5, opposite=absolute)
    matrix = np.corrcoef(rows)
    linked = AgglomerativeClustering(4, metric="precomputed", linkage="average")
    expected = linked.fit_predict(1 - (np.abs(matrix) if absolute else matrix))
    found = CorrelationClustering(4, "hierarchical", absolute=absolute).fit_predict(rows)
    assert adjusted_rand_score(expected, found) == 1.0
    spectral = SpectralClustering(4, affinity="precomputed", random_state=0)
    expected = spectral.fit_predict(np.abs(matrix) if absolute else (1 + matrix) / 2)
    found = CorrelationClustering(4, "spectral", absolute=absolute, random_state=0)
    assert adjusted_rand_score(expected, found.fit_predict(rows)) == 1.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("absolute", [False, True])
def test_invariant_to_place_size_and_order(method, absolute):
    rows = planted(noise=0.5)
    clusterer = CorrelationClustering(3, method, absolute=absolute, random_state=0)
    before = clusterer.fit_predict(rows)
    rng = np.random.default_rng(1)
    sign = rng.choice([-1, 1], size=(90, 1)) if absolute else 1
    moved = rows * rng.uniform(0.1, 9, size=(90, 1)) * sign + rng.normal(size=(90, 1))
    order = rng.permutation(90)
    after = clusterer.fit_predict(moved[order])
    assert adjusted_rand_score(before[order], after) == 1.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("absolute", [False, True])
def test_rows_that_never_move_are_noise(method, absolute):
    rows = planted()
    still = np.array([3, 40, 89])
    rows[still] = [[0.0], [0.1], [1e6]]
    found = CorrelationClustering(3, method, absolute=absolute, random_state=0).fit_predict(rows)
    assert (np.flatnonzero(found == -1) == still).all()
    moving = found >= 0
    assert adjusted_rand_score(TRUTH[moving], found[moving]) == 1.0


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predict_goes_on_as_fitted(absolute, dtype):
    rows = planted(noise=0.5, opposite=absolute)
    clusterer = CorrelationClustering(3, absolute=absolute, random_state=0).fit(rows[::2])
    assert (clusterer.predict(rows[::2].astype(dtype)) == clusterer.labels_).all()
    assert adjusted_rand_score(TRUTH, clusterer.predict(rows.astype(dtype))) > 0.9
    assert clusterer.predict(np.ones((2, 12))).tolist() == [-1, -1]


def test_only_kmeans_predicts():
    assert hasattr(CorrelationClustering(), "predict")
    for method in METHODS[1:]:
        assert not hasattr(CorrelationClustering(method=method), "predict")


@pytest.mark.parametrize("absolute", [False, True])
def test_many_rows_go_in_small_batches(monkeypatch, absolute):
    monkeypatch.setattr(module, "MANY", 40)
    rows = planted(noise=0.3, opposite=absolute)
    clusterer = CorrelationClustering(3, absolute=absolute, random_state=0).fit(rows)
    assert isinstance(clusterer.estimator_, MiniBatchKMeans)
    assert adjusted_rand_score(TRUTH, clusterer.labels_) == 1.0


def test_products_of_many_rows_are_never_held_at_once(monkeypatch):
    rows = planted(noise=0.3, opposite=True)
    whole = CorrelationClustering(3, absolute=True, random_state=0).fit(rows)
    sizes = []
    coordinates = CorrelationClustering._coordinates

    def counted(self, part):
        sizes.append(len(part))
        return coordinates(self, part)

    monkeypatch.setattr(CorrelationClustering, "_coordinates", counted)
    monkeypatch.setattr(module, "PRODUCTS", 40 * 12 * 13 // 2)
    parts = CorrelationClustering(3, absolute=True, random_state=0).fit(rows)
    assert max(sizes) == 40
    assert adjusted_rand_score(whole.labels_, parts.labels_) == 1.0


@pytest.mark.parametrize("method", METHODS[1:])
def test_matrix_methods_are_for_small_nets(method):
    clusterer = CorrelationClustering(2, method, max_weights=89)
    with pytest.raises(ValueError, match=r"max_weights=89 rows, got 90.*kmeans"):
        clusterer.fit(planted())
    assert len(CorrelationClustering(2, max_weights=89).fit(planted()).labels_) == 90


def test_random_state_decides():
    rows = np.random.default_rng(0).normal(size=(200, 10))
    one, again = (CorrelationClustering(9, random_state=1).fit_predict(rows) for _ in range(2))
    assert (one == again).all()


@pytest.mark.parametrize("method", METHODS)
def test_lists_and_whole_numbers_are_fine(method):
    rows = [[0, 1, 2, 4], [4, 2, 1, 0], [0, 2, 4, 7], [9, 3, 2, 1]]
    labels = CorrelationClustering(2, method, random_state=0).fit_predict(rows)
    assert adjusted_rand_score([0, 1, 0, 1], labels) == 1.0


CHECKS = [
    "check_parameters_default_constructible",
    "check_no_attributes_set_in_init",
    "check_get_params_invariance",
    "check_set_params",
    "check_dict_unchanged",
    "check_estimators_dtypes",
    "check_estimators_fit_returns_self",
    "check_estimators_nan_inf",
    "check_estimators_overwrite_params",
    "check_estimators_pickle",
    "check_estimators_unfitted",
    "check_fit2d_predict1d",
    "check_fit2d_1sample",
    "check_fit2d_1feature",
    "check_fit1d",
    "check_fit_idempotent",
    "check_methods_subset_invariance",
    "check_methods_sample_order_invariance",
    "check_n_features_in",
    "check_n_features_in_after_fitting",
    "check_pipeline_consistency",
    "check_readonly_memmap_input",
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("method", METHODS)
def test_conventions_of_scikit_learn(check, method):
    estimator = CorrelationClustering(2, method)
    getattr(estimator_checks, check)("CorrelationClustering", estimator)


@pytest.mark.parametrize("view", ["reversed", "transposed", "strided", "readonly"])
def test_views_are_read_as_they_are(view):
    rows = planted()
    given = {
        "reversed": rows[::-1].copy()[::-1],
        "transposed": np.asfortranarray(rows),
        "strided": np.repeat(rows, 2, axis=1)[:, ::2],
        "readonly": rows.copy(),
    }[view]
    given.flags.writeable = view != "readonly"
    one, other = (CorrelationClustering(3, random_state=0).fit_predict(x) for x in (rows, given))
    assert (one == other).all() and (given == rows).all()


def test_clone_and_pickle():
    clusterer = CorrelationClustering(3, "kmeans", 77, True, 5)
    assert clone(clusterer).get_params() == clusterer.get_params()
    assert "features" not in clusterer.get_params() and clusterer.features == "trajectory"
    clusterer.fit(planted())
    again = pickle.loads(pickle.dumps(clusterer))
    assert (again.predict(planted()) == clusterer.labels_).all()


@pytest.mark.parametrize(
    ("options", "rows", "match"),
    [
        ({"method": "dbscan"}, planted(), "method: expected one of .*got 'dbscan'"),
        ({"n_clusters": 0}, planted(), "n_clusters: expected a positive number, got 0"),
        ({"n_clusters": 91}, planted(), "n_samples=90 rows of X that move, got 91"),
        ({"n_clusters": 2}, np.ones((5, 4)), "n_samples=0 rows of X that move"),
        ({}, np.ones((5, 1)), "minimum of 2 is required"),
        ({}, np.full((5, 3), np.nan), "NaN"),
        ({}, np.ones(5), "2D array"),
    ],
)
def test_bad_input(options, rows, match):
    clusterer = CorrelationClustering(**options)
    with pytest.raises(ValueError, match=match):
        clusterer.fit(rows)
    assert not hasattr(clusterer, "labels_")


def test_predict_checks_its_input():
    with pytest.raises(NotFittedError):
        CorrelationClustering().predict(planted())
    clusterer = CorrelationClustering(3).fit(planted())
    with pytest.raises(ValueError, match="expecting 12 features"):
        clusterer.predict(planted()[:, :5])
