# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Exact enumeration of assignments against closed forms and SciPy."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betaln
from scipy.stats import multivariate_normal

from pyro_groupprior.mcmc import enumerate_assignments, linear_log_evidence

LOC, SCALE = torch.tensor([-1.0, 0.5]), torch.tensor([0.2, 0.7])


def flat(index):
    return torch.zeros(len(index))


def scipy_log_evidence(x, y, noise, loc, scale, base, loc_sd, z):
    """The covariance written out weight by weight."""
    loc_sd = np.broadcast_to(loc_sd, loc.shape)
    prior = np.diag((base * scale[z]) ** 2)
    for i, j in itertools.product(range(len(z)), repeat=2):
        prior[i, j] += base[i] * base[j] * loc_sd[z[i]] ** 2 * (z[i] == z[j])
    covariance = noise**2 * np.eye(len(y)) + x @ prior @ x.T
    return multivariate_normal(x @ (base * loc[z]), covariance).logpdf(y)


@pytest.mark.parametrize("rows", [2, 4, 9])  # fewer than, as many as, more than the weights
@pytest.mark.parametrize("loc_sd", [0.0, 1.3, [0.4, 2.0]])
def test_linear_evidence_is_that_of_scipy(rows, loc_sd):
    rng = np.random.default_rng(rows)
    x, y, base = rng.normal(size=(rows, 4)), rng.normal(size=rows), rng.uniform(0.5, 2, 4)
    z = torch.cartesian_prod(*[torch.arange(2)] * 4)
    log_evidence = linear_log_evidence(
        *(torch.as_tensor(a) for a in (x, y)), 0.6, LOC, SCALE, torch.as_tensor(base),
        torch.as_tensor(loc_sd),
    )  # fmt: skip
    loc, scale = LOC.double().numpy(), SCALE.double().numpy()
    expected = [
        scipy_log_evidence(x, y, 0.6, loc, scale, base, np.array(loc_sd), row) for row in z.numpy()
    ]
    torch.testing.assert_close(log_evidence(z), torch.tensor(expected))


def test_separate_weights_have_separate_posteriors():
    """With one observation a weight, the posterior is a product of two-component mixtures."""
    y = torch.tensor([-1.0, 0.0, 0.6, 2.0])
    log_evidence = linear_log_evidence(torch.eye(4), y, 0.5, LOC, SCALE)
    log_weights = torch.tensor([0.3, 0.7]).log()
    posterior = enumerate_assignments(log_evidence, 4, 2, log_weights + 5.0)  # normalised anyway
    marginal = torch.distributions.Normal(LOC, (SCALE**2 + 0.25).sqrt())
    each = marginal.log_prob(y[:, None]) + log_weights
    torch.testing.assert_close(posterior.responsibilities.float(), each.softmax(1))
    assert posterior.log_evidence == pytest.approx(float(each.logsumexp(1).sum()))
    r = posterior.responsibilities
    torch.testing.assert_close(
        posterior.co_clustering.fill_diagonal_(0), (r @ r.T).fill_diagonal_(0)
    )
    best = posterior.assignments[posterior.log_probs.argmax()]
    assert best.tolist() == each.argmax(1).tolist()


@given(
    num_weights=st.integers(1, 7),
    num_groups=st.integers(1, 3),
    concentration=st.none() | st.floats(0.05, 20.0),
)
def test_the_prior_is_a_distribution(num_weights, num_groups, concentration):
    posterior = enumerate_assignments(flat, num_weights, num_groups, concentration=concentration)
    assert len(posterior.assignments) == num_groups**num_weights
    assert len(posterior.assignments.unique(dim=0)) == num_groups**num_weights
    assert posterior.log_evidence == pytest.approx(0.0, abs=1e-9)
    expected = torch.full((num_weights, num_groups), 1 / num_groups, dtype=torch.double)
    torch.testing.assert_close(posterior.responsibilities, expected)
    torch.testing.assert_close(posterior.co_clustering.diagonal(), expected.sum(1))


@given(num_weights=st.integers(1, 6), concentration=st.floats(0.05, 20.0))
def test_two_groups_of_unknown_proportions_are_beta_binomial(num_weights, concentration):
    posterior = enumerate_assignments(flat, num_weights, 2, concentration=concentration)
    second = posterior.assignments.sum(1).numpy()
    expected = betaln(concentration + second, concentration + num_weights - second)
    expected -= betaln(concentration, concentration)
    np.testing.assert_allclose(posterior.log_probs, expected, rtol=1e-6, atol=1e-6)


def test_refusals_name_the_argument():
    with pytest.raises(ValueError, match=r"max_assignments: expected at most 1048576 .* 2\*\*21"):
        enumerate_assignments(flat, 21, 2)
    with pytest.raises(ValueError, match="max_assignments: expected at most 7"):
        enumerate_assignments(flat, 3, 2, max_assignments=7)
    with pytest.raises(ValueError, match="num_weights: expected a positive number, got 0"):
        enumerate_assignments(flat, 0, 2)
    with pytest.raises(ValueError, match="num_groups: expected a positive number, got -1"):
        enumerate_assignments(flat, 2, -1)
    with pytest.raises(ValueError, match=r"log_weights: expected shape \[2\], got \(3,\)"):
        enumerate_assignments(flat, 2, 2, torch.zeros(3))
    with pytest.raises(ValueError, match="log_weights or concentration, got both"):
        enumerate_assignments(flat, 2, 2, torch.zeros(2), concentration=1.0)
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="concentration: expected a finite positive"):
            enumerate_assignments(flat, 2, 2, concentration=bad)
    with pytest.raises(ValueError, match="log_evidence: expected one number for each row"):
        enumerate_assignments(lambda z: torch.zeros(()), 2, 2)
    x, y = torch.ones(3, 2), torch.ones(3)
    with pytest.raises(ValueError, match=r"x: expected shape \[N, W\] with y"):
        linear_log_evidence(x, y[:2], 1.0, LOC, SCALE)
    with pytest.raises(ValueError, match="noise: expected a finite positive number, got 0"):
        linear_log_evidence(x, y, 0.0, LOC, SCALE)
    with pytest.raises(ValueError, match=r"scale: expected the shape \[G\] of loc"):
        linear_log_evidence(x, y, 1.0, LOC, SCALE[:1])
