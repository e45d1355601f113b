# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Tests of what a group parameter may be: hyperprior, fixed value, learned point."""

import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro.distributions import constraints

from pyro_groupprior import Learned
from pyro_groupprior.hyperpriors import check_hyper, default_loc, default_scale, sample_hyper

GROUPS = 3
ZEROS, ONES = torch.zeros(GROUPS), torch.ones(GROUPS)
LIKE = torch.empty((), dtype=torch.double)


def sample(name, hyper, like=LIKE, support=constraints.real):
    default = default_loc(GROUPS, like.dtype, like.device)

    def model():
        with pyro.plate("w_groups", GROUPS):
            return sample_hyper(name, hyper, default, GROUPS, like, support)

    return pyro.poutine.trace(model).get_trace()


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_defaults_are_standard_normal_and_log_normal(dtype):
    value = torch.tensor([0.3, 1.0, 2.5], dtype=dtype)
    loc = default_loc(GROUPS, dtype, value.device)
    scale = default_scale(GROUPS, dtype, value.device)
    for fn, truth in ((loc, scipy.stats.norm()), (scale, scipy.stats.lognorm(s=1.0))):
        expected = torch.as_tensor(truth.logpdf(value.numpy()), dtype=dtype)
        torch.testing.assert_close(fn.log_prob(value), expected)
        assert fn.sample().dtype == dtype and fn.batch_shape == (GROUPS,)


@pytest.mark.parametrize(
    "hyper",
    [
        None,
        dist.Normal(2.0, 3.0),
        dist.Normal(ZEROS, 3.0),
        dist.Normal(ZEROS[:1], 3.0),
        dist.Gamma(ONES, 2.0),
    ],
)
def test_a_distribution_becomes_one_sample_a_group(hyper):
    site = sample("w_loc", hyper).nodes["w_loc"]
    assert site["type"] == "sample" and not site["is_observed"]
    assert site["fn"].batch_shape == site["value"].shape == (GROUPS,)
    assert [frame.name for frame in site["cond_indep_stack"]] == ["w_groups"]
    assert len(site["value"].unique()) == GROUPS


@pytest.mark.parametrize("hyper", [2, 2.0, torch.tensor(2.0), ONES * 2, ONES[:1] * 2])
def test_a_value_is_fixed_and_adds_no_density(hyper):
    trace = sample("w_scale", hyper)
    torch.testing.assert_close(trace.nodes["w_scale"]["value"], 2.0 * ONES.double())
    assert trace.nodes["w_scale"]["infer"]["_deterministic"]
    assert trace.log_prob_sum() == 0.0


@pytest.mark.parametrize("name", ["w_loc", "w_scale"])
@pytest.mark.parametrize("support", [constraints.real, constraints.positive])
@pytest.mark.parametrize("init", [0.5, torch.tensor(0.5), ONES * 0.5])
def test_learned_becomes_a_param_with_the_support_asked_for(name, support, init):
    trace = sample(name, Learned(init), support=support)
    site = trace.nodes[name]
    assert site["type"] == "param" and trace.log_prob_sum() == 0.0
    torch.testing.assert_close(site["value"], 0.5 * ONES.double())
    assert site["kwargs"]["constraint"] is support
    assert pyro.param(name).requires_grad


def test_a_learned_value_does_not_share_memory_with_its_start():
    init = ZEROS.clone()
    sample("w_loc", Learned(init), like=init)
    init.fill_(7.0)
    assert pyro.param("w_loc").tolist() == [0.0] * GROUPS


def test_defaults_first_made_under_inference_mode_can_be_trained_on():
    default_scale.cache_clear()
    with torch.inference_mode():
        default_scale(GROUPS, ONES.dtype, ONES.device)
    value = ONES.clone().requires_grad_()
    default_scale(GROUPS, ONES.dtype, ONES.device).log_prob(value).sum().backward()
    # d/dx [-log x - (log x)^2 / 2] at 1
    assert value.grad.tolist() == [-1.0] * GROUPS


@pytest.mark.parametrize(
    "hyper",
    [
        dist.Normal(torch.zeros(2), 1.0),
        torch.zeros(2),
        torch.zeros(2, GROUPS),
        Learned(torch.zeros(4)),
    ],
)
def test_a_size_that_does_not_fit_the_groups_is_refused(hyper):
    with pytest.raises(ValueError, match="w_loc: expected one value for each of 3 groups"):
        sample("w_loc", hyper)


def test_a_learned_value_of_another_grouping_is_refused():
    sample("w_loc", Learned(0.0))
    with pytest.raises(ValueError, match=r"w_loc: .*each of 2 groups, got shape \(3,\)"):
        sample_hyper("w_loc", Learned(0.0), dist.Normal(0.0, 1.0), 2, LIKE)


@pytest.mark.parametrize(
    "hyper",
    [
        None,
        1,
        0.5,
        ONES,
        Learned(1.0),
        Learned(ONES),
        dist.LogNormal(0.0, 1.0),
        dist.Gamma(ONES, ONES),
        dist.InverseGamma(1.0, 1.0),
        dist.HalfCauchy(1.0),
        dist.HalfNormal(ONES),
        dist.Exponential(1.0),
        dist.Uniform(ZEROS, ONES),
        dist.Pareto(ONES, ONES),
        dist.TransformedDistribution(dist.Normal(ZEROS, 1.0), [dist.transforms.ExpTransform()]),
    ],
)
def test_what_a_scale_may_be(hyper):
    check_hyper("scale", hyper, constraints.positive)


@pytest.mark.parametrize(
    ("hyper", "error", "message"),
    [
        ("normal", TypeError, "scale: expected a Pyro distribution.*got str"),
        (True, TypeError, "scale: .*got bool"),
        ([1.0, 2.0], TypeError, "scale: .*got list"),
        (dist.Normal, TypeError, "scale: .*got"),
        (Learned("one"), TypeError, "scale: .*got Learned"),
        (0.0, ValueError, "scale: expected values that are positive and finite, got 0.0"),
        (float("nan"), ValueError, "scale: .*positive and finite, got nan"),
        (torch.tensor([1.0, torch.inf]), ValueError, "scale: .*positive and finite"),
        (Learned(-1.0), ValueError, "scale: .*positive and finite"),
        (dist.Normal(0.0, 1.0), ValueError, "scale: expected a distribution over positive"),
        (dist.Uniform(ZEROS - ONES, ONES), ValueError, "scale: .*over positive numbers"),
        (dist.LogNormal(ZEROS, 1.0).to_event(1), ValueError, r"scale: .*event shape \(3,\)"),
    ],
)
def test_what_a_scale_may_not_be(hyper, error, message):
    with pytest.raises(error, match=message):
        check_hyper("scale", hyper, constraints.positive)


@pytest.mark.parametrize(
    "hyper", [float("inf"), torch.tensor([0.0, torch.nan]), Learned(torch.inf)]
)
def test_a_location_must_be_finite(hyper):
    with pytest.raises(ValueError, match="loc: expected values that are finite"):
        check_hyper("loc", hyper, constraints.real)
    check_hyper("loc", -3.0, constraints.real)
