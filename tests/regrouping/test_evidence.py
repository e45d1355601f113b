# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The prior taken out of a posterior, against what the data say in closed form."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_groupprior import Assignment, WeightPosterior
from pyro_groupprior.regrouping import cavity
from pyro_groupprior.regrouping import evidence as module

SIZE = 12


def prior(seed=0, size=SIZE):
    rng = torch.Generator().manual_seed(seed)
    loc = torch.randn(size, generator=rng, dtype=torch.float64)
    return loc, torch.rand(size, generator=rng, dtype=torch.float64) * 2 + 0.3


@given(st.integers(0, 10**6))
def test_a_single_datum_of_each_weight_comes_back(seed):
    """``y_i ~ N(w_i, t_i^2)``: the evidence is the datum, whatever the prior."""
    loc, scale = prior(seed)
    datum, noise = (part * 2 for part in prior(seed + 1))
    precision = scale**-2 + noise**-2
    mean = (loc * scale**-2 + datum * noise**-2) / precision
    found = cavity(mean, precision.rsqrt(), loc, scale, tolerance=0.0)
    torch.testing.assert_close(found.estimate, datum)
    torch.testing.assert_close(found.noise, noise)


@given(st.integers(0, 10**6))
def test_orthogonal_regression_gives_least_squares(seed):
    """With orthogonal columns the exact posterior factorises over the weights."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.linalg.qr(torch.randn(30, SIZE, generator=rng, dtype=torch.float64)).Q
    x = x * (torch.rand(SIZE, generator=rng, dtype=torch.float64) * 5 + 1)
    y = torch.randn(30, generator=rng, dtype=torch.float64)
    results = []
    for number in (1, 2):
        loc, scale = prior(seed + number)
        covariance = torch.linalg.inv(torch.diag(scale**-2) + x.T @ x / 0.25)
        mean = covariance @ (loc * scale**-2 + x.T @ y / 0.25)
        results.append(cavity(mean, covariance.diagonal().sqrt(), loc, scale, tolerance=0.0))
    for found in results:
        torch.testing.assert_close(found.estimate, torch.linalg.lstsq(x, y).solution)
        torch.testing.assert_close(found.noise, 0.5 / x.norm(dim=0))


def test_correlated_regression_gives_the_other_weights_integrated_out():
    """The evidence of one weight: its marginal likelihood under the prior of all the others."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(20, 4, generator=rng, dtype=torch.float64)
    x = x + torch.randn(20, 1, generator=rng, dtype=torch.float64)
    y = torch.randn(20, generator=rng, dtype=torch.float64)
    loc, scale = prior(0, 4)
    covariance = torch.linalg.inv(torch.diag(scale**-2) + x.T @ x)
    mean = covariance @ (loc * scale**-2 + x.T @ y)
    found = cavity(mean, covariance.diagonal().sqrt(), loc, scale, tolerance=0.0)
    for i in range(4):
        rest = [j for j in range(4) if j != i]
        marginal = (
            torch.eye(20, dtype=torch.float64) + (x[:, rest] * scale[rest] ** 2) @ x[:, rest].T
        )
        weighted = torch.linalg.solve(marginal, x[:, i])
        precision = weighted @ x[:, i]
        estimate = weighted @ (y - x[:, rest] @ loc[rest]) / precision
        assert found.noise[i].item() == pytest.approx(precision.rsqrt().item())
        assert found.estimate[i].item() == pytest.approx(estimate.item())


@given(st.integers(0, 10**6), st.floats(0.0, 1.0))
def test_tolerance_widens_the_noise_by_what_it_does_to_the_estimate(seed, tolerance):
    loc, scale = prior(seed)
    mean, sd = prior(seed + 1)[0], scale * 0.9
    exact = cavity(mean, sd, loc, scale, tolerance=0.0)
    found = cavity(mean, sd, loc, scale, tolerance=tolerance)
    moved = cavity(mean + tolerance * sd, sd, loc, scale, tolerance=0.0)
    torch.testing.assert_close(found.estimate, exact.estimate)
    expected = (exact.noise**2 + (moved.estimate - exact.estimate) ** 2).sqrt()
    torch.testing.assert_close(found.noise, expected)


@pytest.mark.parametrize("ratio", [1.0, 1.2, 100.0])
def test_a_posterior_as_wide_as_its_prior_says_nothing(ratio):
    loc, scale = prior()
    found = cavity(loc + 0.1 * scale, scale * ratio, loc, scale)
    assert found.estimate.isfinite().all() and found.noise.isfinite().all()
    assert (found.noise > 30 * scale).all()


def test_pieces_make_no_difference(monkeypatch):
    loc, scale = prior(0, 50)
    mean, sd = prior(1, 50)[0], scale * torch.linspace(0.1, 1.1, 50, dtype=torch.float64)
    whole = cavity(mean, sd, loc, scale)
    monkeypatch.setattr(module, "CHUNK", 7)
    pieces = cavity(mean, sd, loc, scale)
    assert torch.equal(whole.estimate, pieces.estimate) and torch.equal(whole.noise, pieces.noise)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 0.0, -1.0])
@pytest.mark.parametrize("name", ["mean", "sd", "prior_loc", "prior_scale"])
def test_bad_numbers_are_named(bad, name):
    values = {key: torch.ones(5) for key in ("mean", "sd", "prior_loc", "prior_scale")}
    values["sd"] = values["sd"] / 2
    kept = {key: value.clone() for key, value in values.items()}
    values[name][3] = bad
    if name in ("mean", "prior_loc") and bad in (0.0, -1.0):
        assert cavity(**values).estimate.isfinite().all()
        return
    with pytest.raises(FloatingPointError, match=f"^{name}: expected finite"):
        cavity(**values)
    for key in set(values) - {name}:
        assert torch.equal(values[key], kept[key])


def test_inputs_are_left_alone():
    values = [torch.rand(9) + 0.1 for _ in range(4)]
    kept = [value.clone() for value in values]
    cavity(*values)
    assert all(torch.equal(one, other) for one, other in zip(values, kept))


def test_a_posteriors_evidence_is_in_units_of_the_base_scale():
    loc, scale = prior()
    base = torch.linspace(0.1, 3.0, SIZE, dtype=torch.float64)
    groups = Assignment(torch.zeros(SIZE, dtype=torch.long))
    mean, sd = prior(3)[0], scale / 2
    found = WeightPosterior(
        mean * base, sd * base, base, groups, prior_loc=loc * base, prior_scale=scale * base
    ).evidence()
    plain = cavity(mean, sd, loc, scale)
    torch.testing.assert_close(found.estimate, plain.estimate)
    torch.testing.assert_close(found.noise, plain.noise)


def test_evidence_needs_the_prior():
    one = torch.ones(3)
    posterior = WeightPosterior(one, one, one, Assignment(torch.zeros(3, dtype=torch.long)))
    with pytest.raises(ValueError, match="the evidence needs the present prior"):
        posterior.evidence()
