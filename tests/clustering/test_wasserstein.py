# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The Wasserstein-2 distance between Gaussians, and mixtures merged by it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment
from scipy.stats import ortho_group, wasserstein_distance
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

from pyro_groupprior.clustering.wasserstein import MergedMixture, merge_components, wasserstein2

FORMS = ["full", "diag"]
seeds = st.integers(0, 10**6)


def gaussians(seed, count, dims, form="full", scale=1.0):
    """Weights, means and covariances of a random mixture."""
    rng = np.random.default_rng(seed)
    means = scale * rng.normal(size=(count, dims))
    if form == "diag":
        return rng.dirichlet(np.ones(count)), means, scale**2 * rng.gamma(1.0, size=(count, dims))
    roots = scale * rng.normal(size=(count, dims, dims))
    return rng.dirichlet(np.ones(count)), means, roots @ roots.swapaxes(-1, -2)


def as_full(cov):
    return cov if cov.ndim == 3 else cov[:, :, None] * np.eye(cov.shape[1])


@given(seed=seeds, dims=st.integers(1, 5))
def test_formula_with_scipys_root(seed, dims):
    _, means, covs = gaussians(seed, 2, dims)
    root = sqrtm(covs[0])
    cross = sqrtm(root @ covs[1] @ root).real
    expected = np.square(means[0] - means[1]).sum() + np.trace(covs[0] + covs[1] - 2 * cross)
    found = wasserstein2(means[0], covs[0], means[1], covs[1])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@given(seed=seeds, dims=st.integers(1, 4), scale=st.sampled_from([1e-4, 1.0, 1e4]))
def test_symmetric_zero_with_itself_and_a_metric(seed, dims, scale):
    for form in FORMS:
        _, means, covs = gaussians(seed, 3, dims, form, scale)
        matrix = wasserstein2(means[:, None], covs[:, None], means, covs)
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-10 * scale**2)
        np.testing.assert_allclose(np.diag(matrix), 0, atol=1e-10 * scale**2)
        assert (matrix >= 0).all()
        one, two, three = np.sqrt([matrix[0, 1], matrix[1, 2], matrix[0, 2]])
        assert three <= one + two + 1e-6 * scale


@given(seed=seeds, dims=st.integers(1, 4))
def test_forms_agree(seed, dims):
    _, means, variances = gaussians(seed, 2, dims, "diag")
    matrices = as_full(variances)
    expected = wasserstein2(means[0], variances[0], means[1], variances[1])
    for cov1 in (variances[0], matrices[0]):
        for cov2 in (variances[1], matrices[1]):
            found = wasserstein2(means[0], cov1, means[1], cov2)
            np.testing.assert_allclose(found, expected, atol=1e-10)


@given(seed=seeds)
def test_rotations_and_shifts_do_not_matter(seed):
    _, means, covs = gaussians(seed, 2, 3)
    turn = ortho_group.rvs(3, random_state=seed)
    before = wasserstein2(means[0], covs[0], means[1], covs[1])
    means, covs = means @ turn.T + 5, turn @ covs @ turn.T
    after = wasserstein2(means[0], covs[0], means[1], covs[1])
    np.testing.assert_allclose(after, before, rtol=1e-8, atol=1e-8)


def test_closed_forms():
    # Covariances that commute: the difference of roots. Here 45 degrees between the axes.
    turn = np.array([[1.0, -1.0], [1.0, 1.0]]) / np.sqrt(2)
    one, two = turn @ np.diag([4.0, 1.0]) @ turn.T, turn @ np.diag([9.0, 16.0]) @ turn.T
    assert wasserstein2([0, 0], one, [3, 4], two) == pytest.approx(25 + 1 + 9)
    # Lines at a right angle share nothing but their middle.
    assert wasserstein2([0, 0], np.diag([4.0, 0]), [0, 0], np.diag([0, 9.0])) == pytest.approx(13)
    # A line and the same at an angle a: 2 - 2 |cos a|.
    line = np.array([[np.cos(0.3)], [np.sin(0.3)]])
    found = wasserstein2([0, 0], line @ line.T, [0, 0], np.diag([1.0, 0]))
    assert found == pytest.approx(2 - 2 * np.cos(0.3), abs=1e-7)
    # Points.
    assert wasserstein2([1.0, 2.0], [0, 0], [4.0, 6.0], np.zeros((2, 2))) == pytest.approx(25)


def test_against_optimal_transport_of_many_points():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(600, 2))
    one, two = np.array([[1.0, 0.5], [0.5, 2.0]]), np.array([[2.0, -0.8], [-0.8, 0.5]])
    first = normal @ np.linalg.cholesky(one).T
    second = rng.normal(size=(600, 2)) @ np.linalg.cholesky(two).T + [1, 2]
    costs = np.square(first[:, None] - second).sum(-1)
    transport = costs[linear_sum_assignment(costs)].mean()
    found = wasserstein2(
        first.mean(0), np.cov(first.T, ddof=0), second.mean(0), np.cov(second.T, ddof=0)
    )
    # A lower bound for any two sets of points with these moments (Gelbrich), close for Gaussians.
    assert found <= transport <= 1.1 * found
    # In one dimension and with equal spreads W1 is the same number.
    points = normal[:, 0]
    assert wasserstein_distance(points, points + 3) ** 2 == pytest.approx(
        float(wasserstein2([0.0], [1.0], [3.0], [1.0]))
    )


def test_leading_dimensions_broadcast():
    _, means, covs = gaussians(0, 6, 2)
    found = wasserstein2(means[:, None], covs[:, None], means[:4], covs[:4])
    assert found.shape == (6, 4)
    for i, j in np.ndindex(6, 4):
        assert found[i, j] == pytest.approx(
            float(wasserstein2(means[i], covs[i], means[j], covs[j])), abs=1e-12
        )


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([0.0], [[1.0, 2.0]], [0.0], [1.0]), "mean1, cov1: expected shapes"),
        ((0.0, 1.0, [0.0], [1.0]), "mean1, cov1"),
        (([0.0], [1.0], [0.0, 1.0], [1.0, 1.0]), "mean2: expected 1 dimensions like mean1, got 2"),
        (([0.0], [1.0], [0.0], [-1.0]), "cov2: expected variances of at least 0, got -1"),
        (([np.nan], [1.0], [0.0], [1.0]), "mean1, cov1: expected finite"),
    ],
)
def test_bad_gaussians(arguments, match):
    with pytest.raises(ValueError, match=match):
        wasserstein2(*arguments)


def moments(weights, means, covs):
    """Of a mixture as a whole."""
    shares = weights / weights.sum()
    mean = shares @ means
    second = np.einsum("k,kij->ij", shares, as_full(covs) + means[:, :, None] * means[:, None])
    return mean, second - np.outer(mean, mean)


@given(seed=seeds, dims=st.integers(1, 3), left=st.integers(1, 7), form=st.sampled_from(FORMS))
def test_merging_keeps_the_moments(seed, dims, left, form):
    weights, means, covs = gaussians(seed, 7, dims, form)
    merged = merge_components(weights, means, covs, n_components=left)
    labels = merged[3]
    assert merged[0].shape == (left,) and merged[1].shape == (left, dims)
    assert merged[2].shape == (left, *covs.shape[1:])
    assert sorted(set(labels)) == list(range(left))
    # Of the whole, and of each merger by its members; a diagonal form keeps the diagonal.
    groups = [(slice(None), tuple(merged[:3]))]
    groups += [(labels == m, [part[m : m + 1] for part in merged[:3]]) for m in range(left)]
    for members, after in groups:
        before = moments(weights[members], means[members], covs[members])
        after_moments = moments(*after)
        np.testing.assert_allclose(after_moments[0], before[0], atol=1e-12)
        cut = (lambda c: c) if form == "full" else np.diag
        np.testing.assert_allclose(cut(after_moments[1]), cut(before[1]), atol=1e-12)
        np.testing.assert_allclose(np.sum(after[0]), weights[members].sum())


@given(seed=seeds, form=st.sampled_from(FORMS))
def test_order_does_not_matter(seed, form):
    weights, means, covs = gaussians(seed, 8, 2, form)
    order = np.random.default_rng(seed).permutation(8)
    one = merge_components(weights, means, covs, n_components=3)
    other = merge_components(weights[order], means[order], covs[order], n_components=3)
    assert adjusted_rand_score(one[3][order], other[3]) == 1.0
    for i, label in enumerate(order):
        for part, same in zip(one[:3], other[:3]):
            np.testing.assert_allclose(part[one[3][label]], same[other[3][i]], atol=1e-12)


@given(seed=seeds, distance=st.floats(0, 3), least=st.none() | st.integers(1, 6))
def test_stops_when_the_closest_are_too_far(seed, distance, least):
    weights, means, covs = gaussians(seed, 6, 2)
    weights, means, covs, _ = merge_components(weights, means, covs, distance, least)
    apart = np.sqrt(wasserstein2(means[:, None], covs[:, None], means, covs))
    np.fill_diagonal(apart, np.inf)
    assert len(weights) >= (least or 1)
    assert len(weights) == (least or 1) or apart.min() > distance


def test_merges_the_closest_pair_first():
    means = np.array([[0.0], [1.0], [1.4], [5.0]])
    spread = np.array([[1.0], [1.0], [4.0], [1.0]])  # the third is near in place but not in spread
    found = merge_components(np.ones(4), means, spread, n_components=3)
    assert found[3].tolist() == [0, 0, 1, 2]
    assert found[0].tolist() == [2, 1, 1] and found[1].ravel().tolist() == [0.5, 1.4, 5.0]
    assert merge_components(np.ones(4), means, spread, 0.99)[3].tolist() == [0, 1, 2, 3]
    assert merge_components(np.ones(4), means, spread, 1.0)[3].tolist() == [0, 0, 1, 2]


def test_arguments_are_left_alone_and_nothing_may_happen():
    weights, means, covs = gaussians(0, 5, 2)
    copies = weights.copy(), means.copy(), covs.copy()
    merge_components(weights, means, covs, n_components=1)
    for given_, copy in zip((weights, means, covs), copies):
        assert (given_ == copy).all()
    same = merge_components(weights, means, covs, n_components=9)
    for given_, after in zip((weights, means, covs, np.arange(5)), same):
        assert (given_ == after).all()
    assert merge_components([1.0], [[2.0]], [[3.0]], 1.0)[3].tolist() == [0]


def test_components_without_weight_have_no_say():
    means, covs = np.array([[0.0], [1.0], [2.0]]), np.ones((3, 1))
    found = merge_components([0.0, 0.0, 1.0], means, covs, n_components=1)
    assert found[1] == 2.0 and found[2] == 1.0 and found[0] == 1.0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({}, "expected at least one of them, got none"),
        ({"max_distance": -1.0}, "max_distance: expected a number of at least 0"),
        ({"max_distance": float("nan")}, "max_distance"),
        ({"n_components": 0}, "n_components: expected a positive number, got 0"),
        ({"n_components": 1, "weights": [1.0]}, "weights, means: expected shapes"),
        ({"n_components": 1, "weights": [1.0, -1.0]}, "weights: expected numbers that are not"),
        ({"n_components": 1, "weights": [0.0, 0.0]}, "weights"),
        ({"n_components": 1, "covariances": [1.0, 1.0]}, "means, covariances: expected shapes"),
    ],
)
def test_bad_mixtures(change, match):
    mixture = {"weights": [0.5, 0.5], "means": [[0.0], [1.0]], "covariances": [[1.0], [1.0]]}
    with pytest.raises(ValueError, match=match):
        merge_components(**{**mixture, **change})


TRUTH = np.arange(300) % 3


def rings() -> np.ndarray:
    """Three groups too oddly shaped for a Gaussian each."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, np.pi, size=300)
    arcs = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.05 * rng.normal(size=(300, 2))
    return arcs + 6.0 * TRUTH[:, None]


@pytest.mark.parametrize("kind", [GaussianMixture, BayesianGaussianMixture])
@pytest.mark.parametrize("form", ["full", "diag", "spherical", "tied"])
def test_merges_a_fitted_mixture(kind, form):
    base = kind(n_components=9, covariance_type=form, random_state=0)
    merged = MergedMixture(base, n_components=3)
    points = rings()
    assert merged.fit(points) is merged
    assert not hasattr(base, "means_") and merged.n_features_in_ == 2
    assert adjusted_rand_score(TRUTH, merged.predict(points)) == 1.0
    assert (merged.fit_predict(points) == merged.predict(points)).all()
    assert merged.covariances_.shape == ((3, 2) if form in ("diag", "spherical") else (3, 2, 2))
    # A fitted component is the moments of the points by responsibility, so a merger is too.
    shares = merged.predict_proba(points)
    np.testing.assert_allclose(shares.sum(1), 1.0)
    fitted = clone(base).fit(points).predict_proba(points)
    for m in range(3):
        members = merged.labels_of_components_ == m
        np.testing.assert_allclose(shares[:, m], fitted[:, members].sum(1))
    if kind is GaussianMixture:
        np.testing.assert_allclose(merged.weights_, shares.mean(0), atol=1e-3)
        np.testing.assert_allclose(
            merged.means_, (shares.T @ points) / shares.sum(0)[:, None], atol=1e-2
        )


def test_distance_finds_the_number_of_groups():
    for n in (3, 5, 12):
        merged = MergedMixture(GaussianMixture(n, random_state=0), max_distance=2.0).fit(rings())
        assert len(merged.weights_) == 3


def test_a_covariance_form_without_a_name():
    class Unnamed(GaussianMixture):
        def fit(self, X, y=None):
            super().fit(X)
            del self.covariance_type
            return self

        def predict_proba(self, X):
            return np.ones((len(X), 3)) / 3

    merged = MergedMixture(Unnamed(3, covariance_type="diag"), n_components=2).fit(rings())
    assert merged.covariances_.shape == (2, 2)


def test_parameters_as_in_scikit_learn():
    merged = MergedMixture(GaussianMixture(4), max_distance=0.5)
    assert merged.get_params()["mixture__n_components"] == 4
    again = clone(merged).set_params(mixture__n_components=6, n_components=2)
    assert again.mixture.n_components == 6 and merged.mixture.n_components == 4
    assert len(again.fit(rings()).labels_of_components_) == 6


def test_bad_use_of_a_merged_mixture():
    with pytest.raises(NotFittedError):
        MergedMixture(GaussianMixture(2), 1.0).predict(rings())
    with pytest.raises(TypeError, match=r"mixture: expected a mixture .*got KMeans"):
        MergedMixture(KMeans(2), 1.0).fit(rings())
    with pytest.raises(ValueError, match="at least one of them"):
        MergedMixture(GaussianMixture(2)).fit(rings())
