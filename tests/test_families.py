# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the prior families against scipy, and of the blend against exact mixture moments."""

from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_groupprior import Assignment
from pyro_groupprior.families import Laplace, Normal, StudentT, as_family, weight_loc_scale

FAMILIES = [
    (Normal(), scipy.stats.norm),
    (Laplace(), scipy.stats.laplace),
    (StudentT(), partial(scipy.stats.t, 4.0)),
    (StudentT(df=7.5), partial(scipy.stats.t, 7.5)),
]


@pytest.mark.parametrize(("family", "truth"), FAMILIES)
def test_density_and_variance_are_those_of_scipy(family, truth):
    loc = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.double)
    scale = torch.tensor([0.1, 1.0, 3.0], dtype=torch.double)
    value = torch.linspace(-4, 4, 9, dtype=torch.double).unsqueeze(1)
    member = truth(loc=loc.numpy(), scale=scale.numpy())
    np.testing.assert_allclose(
        family.distribution(loc, scale).log_prob(value), member.logpdf(value.numpy()), rtol=1e-10
    )
    assert family.unit_variance == pytest.approx(truth().var())


@st.composite
def blends(draw):
    num_weights, num_groups = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    dense = rng.dirichlet(np.full(num_groups, draw(st.sampled_from([0.05, 1.0]))), num_weights)
    loc = rng.normal(size=num_groups) * draw(st.sampled_from([0.0, 1.0, 100.0]))
    scale = rng.lognormal(size=num_groups)
    base = rng.lognormal(size=num_weights)
    return dense, loc, scale, base


@pytest.mark.parametrize(("family", "truth"), FAMILIES)
@given(blend=blends())
def test_a_blend_has_the_moments_of_the_mixture(family, truth, blend):
    dense, loc, scale, base = blend
    # Raw moments of the mixture of the groups' own priors, from scipy's moments of each.
    members = [
        [truth(loc=b * m, scale=b * s).stats("mv") for m, s in zip(loc, scale)] for b in base
    ]
    first = np.array([[float(m) for m, _ in row] for row in members])
    second = np.array([[float(v) + float(m) ** 2 for m, v in row] for row in members])
    mean = (dense * first).sum(1)
    variance = (dense * second).sum(1) - mean**2

    blended = family.distribution(
        *weight_loc_scale(
            Assignment.from_dense(dense),
            torch.tensor(loc),
            torch.tensor(scale),
            torch.tensor(base),
            family.unit_variance,
        )
    )
    np.testing.assert_allclose(blended.mean, mean, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(blended.variance, variance, rtol=1e-6)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.booleans(), st.booleans())
def test_a_sure_soft_assignment_equals_the_hard_one(index, with_base, batched):
    hard = Assignment(torch.tensor(index), num_groups=4)
    soft = Assignment.from_dense(hard.dense())
    loc = torch.randn(*[3] * batched, 4, dtype=torch.double)
    scale = torch.rand(*[3] * batched, 4, dtype=torch.double) + 0.1
    base = torch.rand(len(index), dtype=torch.double) + 0.1 if with_base else None
    by_hand = [part[..., index] * (1.0 if base is None else base) for part in (loc, scale)]
    for assignment, variance in ((hard, 1.0), (soft, 1.0), (soft, 2.0)):
        found = weight_loc_scale(assignment, loc, scale, base, variance)
        torch.testing.assert_close(list(found), by_hand)


def test_a_blend_of_nearly_equal_groups_keeps_a_positive_variance():
    # E[m^2] - E[m]^2 would be lost to rounding in float32 here.
    soft = Assignment.from_dense(torch.full((1, 2), 0.5))
    loc, scale = weight_loc_scale(soft, torch.tensor([1e4, 1e4]), torch.tensor([1e-3, 1e-3]))
    torch.testing.assert_close(scale, torch.tensor([1e-3]))
    torch.testing.assert_close(loc, torch.tensor([1e4]))


@pytest.mark.parametrize(("name", "kind"), [("normal", Normal), ("laplace", Laplace)])
def test_families_by_name(name, kind):
    assert as_family(name) == kind()
    assert as_family(kind()) == kind()
    assert as_family("student_t") == StudentT(df=4.0)


def test_refusals():
    with pytest.raises(ValueError, match=r"family: expected one of \['laplace'.*got 'cauchy'"):
        as_family("cauchy")
    with pytest.raises(TypeError, match="family: expected a name or a Family, got type"):
        as_family(Normal)
    for df in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="df: expected a finite positive number"):
            StudentT(df)
    with pytest.raises(ValueError, match=r"df: a soft assignment.*above 2, got 2"):
        _ = StudentT(2.0).unit_variance
