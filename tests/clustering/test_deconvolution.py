# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The deconvolved mixture: scikit-learn's without noise, the truth with it, units as a whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import special, stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.utils import estimator_checks

from pyro_groupprior import DeconvolvedMixture

LOCS, SCALES, WEIGHTS = np.array([-2.0, 0.0, 1.5]), np.array([0.3, 0.1, 0.2]), [0.2, 0.5, 0.3]


def planted(size=3000, least=0.05, most=0.6, seed=0):
    """Points seen through noise that differs, and their groups."""
    rng = np.random.default_rng(seed)
    label = rng.choice(3, size, p=WEIGHTS)
    noise = np.exp(rng.uniform(np.log(least), np.log(most), size))
    true = LOCS[label] + SCALES[label] * rng.standard_normal(size)
    return np.stack([true + noise * rng.standard_normal(size), noise], 1), label


def plain(size=1500, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    label = rng.choice(3, size, p=WEIGHTS)
    return (LOCS[label] + 1.5 * SCALES[label] * rng.standard_normal(size))[:, None]


def log_joint(mixture, X) -> np.ndarray:
    scale = np.hypot(mixture.scales_, X[:, 1:])
    return np.log(mixture.weights_) + stats.norm.logpdf(X[:, :1], mixture.means_, scale)


@pytest.mark.parametrize("column", ["none", "zeros"])
def test_without_noise_it_is_scikit_learns(column):
    X = plain()
    theirs = GaussianMixture(3, tol=1e-10, max_iter=2000, n_init=3, random_state=0, reg_covar=0)
    theirs.fit(X)
    given_points = X if column == "none" else np.concatenate([X, np.zeros_like(X)], 1)
    ours = DeconvolvedMixture(3, criterion=None, prior_count=0, tol=1e-10, max_iter=2000)
    ours.fit(given_points)
    order = np.argsort(theirs.means_[:, 0])
    assert_allclose(ours.means_, theirs.means_[order, 0], atol=1e-4)
    assert_allclose(ours.scales_, np.sqrt(theirs.covariances_[order, 0, 0]), atol=1e-4)
    assert_allclose(ours.weights_, theirs.weights_[order], atol=1e-4)
    assert ours.score(given_points) == pytest.approx(theirs.score(X), abs=1e-6)
    assert ours.trace_[-1] == pytest.approx(len(X) * theirs.score(X), abs=1e-3)
    assert ours.bic(given_points) == pytest.approx(theirs.bic(X), abs=2e-3)
    assert_allclose(ours.predict_proba(given_points), theirs.predict_proba(X)[:, order], atol=1e-3)


@pytest.mark.parametrize("size", [3000, 50_000])
def test_recovers_groups_seen_through_noise(size):
    X, label = planted(size)
    mixture = DeconvolvedMixture(6).fit(X)
    assert mixture.n_components_ == 3
    assert_allclose(mixture.means_, LOCS, atol=0.06)
    assert_allclose(mixture.scales_, SCALES, atol=0.06)
    assert_allclose(mixture.weights_, WEIGHTS, atol=0.03)
    # As good as with the true parameters, to which chance in 3,000 points adds little.
    exact = np.log(WEIGHTS) + stats.norm.logpdf(X[:, :1], LOCS, np.hypot(SCALES, X[:, 1:]))
    best = (exact.argmax(1) == label).mean()
    assert (mixture.predict(X) == label).mean() > best - 0.01


@pytest.mark.parametrize("zero_mean", [False, True])
def test_responsibilities_and_density_by_definition(zero_mean):
    X, _ = planted(500)
    mixture = DeconvolvedMixture(3, criterion=None, zero_mean=zero_mean).fit(X)
    joint = log_joint(mixture, X)
    assert_allclose(mixture.score_samples(X), special.logsumexp(joint, 1), atol=1e-8)
    assert_allclose(mixture.predict_proba(X), special.softmax(joint, 1), atol=1e-8)
    assert (mixture.predict(X) == joint.argmax(1)).all()


def test_points_that_say_nothing_join_no_group_firmly():
    X, _ = planted()
    mixture = DeconvolvedMixture(3, criterion=None).fit(X)
    shares = mixture.predict_proba([[0.0, 1e6], [-2.0, 1e-6]])
    assert_allclose(shares[0], mixture.weights_, atol=1e-4)
    assert shares[1, 0] > 0.999


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([0.0, 3.0]), st.booleans())
def test_trace_only_rises_and_is_the_objective(seed, zero_mean, prior_count, with_noise):
    rng = np.random.default_rng(seed)
    X = rng.standard_t(3, (60, 1))
    X = np.concatenate([X, rng.gamma(2, 0.3, X.shape) if with_noise else 0 * X], 1)
    mixture = DeconvolvedMixture(
        3, criterion=None, zero_mean=zero_mean, prior_count=prior_count, max_iter=40
    ).fit(X)
    assert (np.diff(mixture.trace_) >= -1e-9 * np.abs(mixture.trace_[:-1])).all()
    total = special.logsumexp(log_joint(mixture, X), 1).sum()
    if prior_count and not with_noise:
        # Without noise the single normal that sets the prior's scale has a closed form.
        spread = np.sqrt(np.mean(X[:, 0] ** 2)) if zero_mean else X[:, 0].std()
        ratio = (spread / 3 / mixture.scales_) ** 2
        total += prior_count / 2 * (np.log(ratio) - ratio).sum()
    if not prior_count or not with_noise:
        assert mixture.trace_[-1] == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("noise", [0.0, 0.7])
@pytest.mark.parametrize("size", [400, 30_000])
def test_one_normal_is_one_group(noise, size):
    rng = np.random.default_rng(0)
    X = np.full((size, 2), noise)
    X[:, 0] = 0.4 + np.hypot(0.5, noise) * rng.standard_normal(size)
    assert DeconvolvedMixture(8).fit(X).n_components_ == 1


def test_bic_chooses_what_scikit_learns_does():
    X = plain()
    best = min(
        range(1, 6), key=lambda k: GaussianMixture(k, n_init=3, random_state=0).fit(X).bic(X)
    )
    assert DeconvolvedMixture(5).fit(X).n_components_ == best == 3


def test_scale_mixture():
    rng = np.random.default_rng(0)
    scales = np.repeat([0.05, 1.0], 1000)
    noise = rng.uniform(0.01, 0.1, 2000)
    X = np.stack([np.hypot(scales, noise) * rng.standard_normal(2000), noise], 1)
    mixture = DeconvolvedMixture(5, zero_mean=True).fit(X)
    assert not mixture.means_.any() and mixture.n_components_ == 2
    assert_allclose(mixture.scales_, [0.05, 1.0], rtol=0.15)
    assert_allclose(mixture.weights_, 0.5, atol=0.04)


def test_bins_change_little():
    X, _ = planted(50_000)
    options = {"criterion": None, "tol": 1e-7, "max_iter": 500}
    binned = DeconvolvedMixture(3, **options).fit(X)
    exact = DeconvolvedMixture(3, n_bins=None, **options).fit(X)
    assert_allclose(binned.means_, exact.means_, atol=3e-3)
    assert_allclose(binned.scales_, exact.scales_, atol=3e-3)
    assert_allclose(binned.weights_, exact.weights_, atol=3e-3)
    assert binned.score(X) == pytest.approx(exact.score(X), abs=1e-4)
    apart = np.abs(binned.predict_proba(X) - exact.predict_proba(X))
    assert apart.mean() < 0.01 and np.quantile(apart, 0.999) < 0.15
    index, shares = clone(binned).fit_top_responsibilities(X, 2)
    again = binned.top_responsibilities(X, 2)
    assert (index == again[0]).all() and (shares == again[1]).all()
    assert_allclose(shares.sum(1), 1.0, atol=1e-6)


def unit_problem(seed=0):
    """Units of ten values each, of which a single value says little."""
    rng = np.random.default_rng(seed)
    kind, units = np.arange(40) % 2, rng.permutation(np.repeat(np.arange(40), 10))
    noise = rng.uniform(0.5, 1.5, 400)
    spread = np.hypot(0.2, noise)
    return np.stack([2 * kind[units] + spread * rng.standard_normal(400), noise], 1), units, kind


def test_units_multiply_the_likelihoods_of_their_values():
    X, units, kind = unit_problem()
    mixture = DeconvolvedMixture(2, criterion=None).fit(X, units=units)
    shares = mixture.predict_units(X, units)
    density = log_joint(mixture, X) - np.log(mixture.weights_)
    total = np.stack([density[units == unit].sum(0) for unit in range(40)])
    assert_allclose(shares, special.softmax(total + np.log(mixture.weights_), 1), atol=1e-8)
    likelihood = special.logsumexp(total + np.log(mixture.weights_), 1).sum()
    assert mixture.trace_[-1] < likelihood + 1e-6  # the rest is the prior of the scales
    assert (np.diff(mixture.trace_) >= -1e-9).all()
    by_unit = adjusted_rand_score(kind, shares.argmax(1))
    assert by_unit > 0.9 > adjusted_rand_score(kind[units], mixture.predict(X))


@given(st.permutations(list(range(60))))
def test_order_of_the_points_is_moot(order):
    X, _ = planted(60)
    one = DeconvolvedMixture(3, criterion=None).fit(X)
    other = DeconvolvedMixture(3, criterion=None).fit(X[order])
    assert_allclose(one.means_, other.means_, atol=1e-4)
    assert_allclose(one.predict_proba(X)[order], other.predict_proba(X[order]), atol=1e-3)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_fewer_points_than_components(size):
    mixture = DeconvolvedMixture(8).fit(np.arange(2.0 * size).reshape(size, 2))
    assert mixture.n_components_ <= size and np.isfinite(mixture.means_).all()


@pytest.mark.parametrize(
    ("options", "X", "match"),
    [
        ({"n_components": 0}, None, "n_components: expected a positive"),
        ({"criterion": "aic"}, None, "criterion: expected one of"),
        ({"min_scale": 0.0}, None, "min_scale"),
        ({"prior_count": -1.0}, None, "prior_count"),
        ({"max_iter": 0}, None, "max_iter"),
        ({"n_bins": "many"}, None, "n_bins"),
        ({"n_bins": (512,)}, None, "n_bins: expected two positive numbers"),
        ({"n_bins": (0, 4)}, None, "n_bins"),
        ({}, np.zeros((5, 3)), "one or two columns, values and noise, got 3"),
        ({}, [[0.0, 1.0], [1.0, -0.1]], "noise that is not negative"),
        ({}, [[0.0, np.nan]], "NaN"),
        ({}, [[np.inf, 1.0]], "infinity"),
    ],
)
def test_bad_input(options, X, match):
    with pytest.raises(ValueError, match=match):
        DeconvolvedMixture(**options).fit(np.ones((9, 2)) if X is None else X)


@pytest.mark.parametrize("units", [[0, 1], [0.0, 1.0, 2.0], [0, 1, -1]])
def test_bad_units(units):
    X = [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]
    with pytest.raises(ValueError, match="units: expected 3 integers from 0"):
        DeconvolvedMixture(2).fit(X, units=units)


def test_conventions_of_scikit_learn():
    mixture = DeconvolvedMixture(3, zero_mean=True, n_bins=(9, 9))
    assert clone(mixture).get_params() == mixture.get_params()
    assert mixture.set_params(tol=0.5).tol == 0.5
    X = planted(50)[0]
    for method in ("predict", "predict_proba", "score_samples", "score"):
        with pytest.raises(NotFittedError):
            getattr(mixture, method)(X)
    assert mixture.fit(X).n_features_in_ == 2
    with pytest.raises(ValueError, match="X has 1 features, but DeconvolvedMixture is expecting 2"):
        mixture.predict(X[:, :1])
    assert (mixture.fit_predict(X) == mixture.predict(X)).all()
    for name in (
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_get_params_invariance",
        "check_set_params",
        "check_estimators_unfitted",
    ):
        getattr(estimator_checks, name)("DeconvolvedMixture", DeconvolvedMixture(3))
