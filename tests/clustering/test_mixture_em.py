# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""EM of a mixture from noisy values: it only climbs, and what it climbs is what it says."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import optimize, special, stats

from pyro_groupprior.clustering import mixture_em as module
from pyro_groupprior.clustering.cells import Grid, single_cells
from pyro_groupprior.clustering.mixture_em import (
    Mixture,
    Noisy,
    Settings,
    fit,
    search,
    shares_of,
    single,
    step,
    without_closest_pair,
)

DEFAULT = Settings(max_iter=60, tol=0.0, min_scale=1e-3, zero_mean=False)


@st.composite
def problems(draw):
    """Values, noise, a first mixture, settings and perhaps units: all at random."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size, groups = draw(st.integers(2, 40)), draw(st.integers(1, 5))
    values = rng.standard_t(2, size) * 10 ** rng.uniform(-1, 1)
    noise = np.zeros(size) if draw(st.booleans()) else rng.gamma(1.0, 1.0, size)
    zero_mean = draw(st.booleans())
    mixture = Mixture(
        rng.dirichlet(np.ones(groups)),
        np.zeros(groups) if zero_mean else rng.standard_normal(groups),
        rng.uniform(0.05, 3.0, groups),
    )
    options = Settings(
        max_iter=30,
        tol=0.0,
        min_scale=draw(st.sampled_from([1e-3, 0.5])),
        zero_mean=zero_mean,
        prior_scale=draw(st.sampled_from([0.1, 1.0])),
        prior_count=draw(st.sampled_from([0.0, 3.0, 10.0])),
    )
    units = rng.integers(0, draw(st.integers(1, size)), size) if draw(st.booleans()) else None
    if draw(st.booleans()):  # in the cells of a histogram
        points = np.stack([values, np.log(np.maximum(noise, 1e-8))], 1)
        return Grid(points, (6, 3)).cells(points), units, mixture, options
    points = np.stack([values, np.log(np.maximum(noise, 1e-8))], 1)
    return single_cells(points), units, mixture, options


def objective(values, noise, units, mixture: Mixture, options: Settings) -> float:
    """The penalised log-likelihood by its definition."""
    density = stats.norm.logpdf(
        values[:, None], mixture.means, np.hypot(mixture.scales, noise[:, None])
    )
    if units is not None:
        density = np.stack([density[units == u].sum(0) for u in range(units.max() + 1)])
    with np.errstate(divide="ignore"):
        joint = density + np.log(mixture.weights)
    total = special.logsumexp(joint, 1).sum()
    if not options.prior_count:
        return total
    # An inverse gamma with its mode at the square of the prior scale, less its height there.
    shape, mode = options.prior_count / 2 - 1, options.prior_scale**2
    prior = stats.invgamma(shape, scale=options.prior_count / 2 * mode)
    above = prior.logpdf(mixture.scales**2) - prior.logpdf(mode)
    return total + above.sum() - options.prior_count / 2 * len(mixture.means)


@settings(max_examples=60)
@given(problems())
def test_em_never_lowers_its_objective(problem):
    cells, units, mixture, options = problem
    found, trace = fit(mixture, Noisy.from_cells(cells, units), options)
    gains = np.diff(trace)
    assert (gains >= -1e-9 * (1 + np.abs(trace[:-1]))).all()
    assert found.weights.sum() == pytest.approx(1.0)
    assert (found.scales >= options.min_scale).all()
    if options.zero_mean:
        assert not found.means.any()


@settings(max_examples=60)
@given(problems())
def test_objective_is_the_penalised_likelihood(problem):
    cells, units, mixture, options = problem
    if cells.members is not None:
        return
    data = Noisy.from_cells(cells, units)
    values, noise = cells.means[:, 0], np.exp(cells.means[:, 1])
    units = None if units is None else np.unique(units, return_inverse=True)[1]
    data = Noisy.from_cells(cells, units)
    expected = objective(values, noise, units, mixture, options)
    assert step(mixture, data, options)[1] == pytest.approx(expected, rel=1e-9, abs=1e-7)
    found, trace = fit(mixture, data, options)
    expected = objective(values, noise, units, found, options)
    assert trace[-1] == pytest.approx(expected, rel=1e-9, abs=1e-7)


@settings(max_examples=60)
@given(problems())
def test_responsibilities_are_bayes_rule(problem):
    cells, units, mixture, _ = problem
    if cells.members is not None:
        return
    units = None if units is None else np.unique(units, return_inverse=True)[1]
    scale = np.hypot(mixture.scales, np.exp(cells.means[:, 1:]))
    density = stats.norm.logpdf(cells.means[:, :1], mixture.means, scale)
    if units is not None:
        density = np.stack([density[units == u].sum(0) for u in range(units.max() + 1)])
    expected = special.softmax(density + np.log(mixture.weights), 1)
    shares, _ = shares_of(mixture, Noisy.from_cells(cells, units))
    assert_allclose(shares, expected, atol=1e-9)


def noisy(size=300, seed=0) -> Noisy:
    rng = np.random.default_rng(seed)
    noise = rng.uniform(0.05, 2.0, size)
    values = rng.choice([-2.0, 1.0], size) + 0.3 * rng.standard_normal(size)
    points = np.stack([values + noise * rng.standard_normal(size), np.log(noise)], 1)
    return Noisy.from_cells(single_cells(points))


def test_blocks_make_no_difference(monkeypatch):
    mixture = Mixture(np.array([0.3, 0.7]), np.array([-1.0, 1.0]), np.array([0.5, 1.0]))
    whole, objective_whole = step(mixture, noisy(), DEFAULT)
    monkeypatch.setattr(module, "BLOCK", 7)
    pieces, objective_pieces = step(mixture, noisy(), DEFAULT)
    assert objective_whole == pytest.approx(objective_pieces)
    for name in ("weights", "means", "scales"):
        assert_allclose(getattr(whole, name), getattr(pieces, name))


def test_em_ends_at_a_stationary_point():
    """No gradient is left of the likelihood, by scipy's own differences."""
    data, options = noisy(), replace(DEFAULT, max_iter=3000, tol=1e-12)
    found, _ = fit(
        Mixture(np.array([0.5, 0.5]), np.array([-1.0, 1.0]), np.array([0.5, 0.5])), data, options
    )

    def likelihood(x):
        shares = special.softmax([0.0, x[0]])
        return objective(
            data.values, np.sqrt(data.noise), None, Mixture(shares, x[1:3], np.exp(x[3:])), options
        )

    at = np.array([np.log(found.weights[1] / found.weights[0]), *found.means])
    at = np.concatenate([at, np.log(found.scales)])
    assert_allclose(optimize.approx_fprime(at, likelihood, 1e-5), 0, atol=0.05)


@pytest.mark.parametrize("zero_mean", [False, True])
def test_single_normal_is_the_maximum(zero_mean):
    data = noisy()
    found = single(data, replace(DEFAULT, zero_mean=zero_mean, max_iter=2000, tol=1e-12))

    def loss(x):
        mean = 0.0 if zero_mean else x[0]
        return -stats.norm.logpdf(data.values, mean, np.sqrt(np.exp(2 * x[1]) + data.noise)).sum()

    best = optimize.minimize(loss, [0.0, 0.0])
    assert found.means[0] == pytest.approx(0.0 if zero_mean else best.x[0], abs=1e-3)
    assert found.scales[0] == pytest.approx(np.exp(best.x[1]), rel=1e-3)


@given(st.integers(0, 10**6), st.integers(2, 6))
def test_merging_keeps_the_moments(seed, groups):
    rng = np.random.default_rng(seed)
    mixture = Mixture(
        rng.dirichlet(np.ones(groups)), rng.standard_normal(groups), rng.uniform(0.1, 2, groups)
    )
    merged = without_closest_pair(mixture)
    assert len(merged) == groups - 1

    def moments(m: Mixture):
        mean = m.weights @ m.means
        return m.weights.sum(), mean, m.weights @ (m.scales**2 + (m.means - mean) ** 2)

    assert_allclose(moments(merged), moments(mixture))


def test_merges_the_two_that_are_alike():
    mixture = Mixture(
        np.full(4, 0.25), np.array([-5.0, 0.0, 0.1, 5.0]), np.array([1.0, 0.5, 0.6, 1.0])
    )
    assert without_closest_pair(mixture).means.tolist() == pytest.approx([-5.0, 0.05, 5.0])


def test_search_with_a_penalty_takes_the_least_criterion():
    """BIC by its definition, over fits of every number of components."""
    data = noisy(400, seed=1)
    options = replace(DEFAULT, max_iter=200, tol=1e-6)
    best, used = search(data, 4, options, lambda k: 3 * k - 1)

    def bic(mixture):
        total = objective(data.values, np.sqrt(data.noise), None, mixture, used)
        return -2 * total + (3 * len(mixture) - 1) * np.log(400)

    exact = [bic(search(data, k, options, None)[0]) for k in (1, 2, 3, 4)]
    assert len(best) == 1 + int(np.argmin(exact)) == 2
    assert bic(best) <= min(exact) + 0.1
