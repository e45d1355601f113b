# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Tests of group_prior against the Pyro model that one would write by hand."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

from pyro_groupprior import (
    Assignment,
    AssignmentBuffer,
    AutoMeanField,
    Learned,
    MeanFieldELBO,
    assign,
    group_prior,
    init_to_weights,
)
from pyro_groupprior.families import StudentT

W, G, N = 6, 3, 5


def double(*values):
    return torch.tensor(values, dtype=torch.double)


HARD = Assignment(torch.tensor([0, 2, 1, 1, 0, 2]))
SHARES = double(
    0.2, 0.3, 0.5, 0.9, 0.1, 0.0, 1.0, 2.0, 3.0, 0.0, 1.0, 0.0, 4.0, 1.0, 2.0, 1.0, 1.0, 3.0
)
SOFT = Assignment.from_dense(SHARES.reshape(W, G) / SHARES.reshape(W, G).sum(1, True), top_k=2)
BASE = double(0.1, 0.5, 1.0, 2.0, 3.0, 0.7)
X = torch.randn(N, W, generator=torch.manual_seed(0), dtype=torch.double)
Y = torch.randn(N, generator=torch.manual_seed(1), dtype=torch.double)

HYPERS = {
    "default": (None, None),
    "own": (dist.Laplace(double(0.3), 2.0), dist.HalfCauchy(double(0.8))),
    "own per group": (
        dist.Normal(double(0.0, 1.0, -1.0), 0.5),
        dist.Gamma(double(1.0, 2.0, 3.0), 2.0),
    ),
    "number": (0.25, 1.5),
    "value per group": (double(0.0, 1.0, -1.0), double(0.5, 1.0, 2.0)),
    "learned": (Learned(0.5), Learned(double(0.5, 1.0, 2.0))),
    "mixed": (0.0, dist.InverseGamma(double(3.0), 1.0)),
}
UNIT = {
    "normal": (dist.Normal, (), 1.0),
    "laplace": (dist.Laplace, (), 2.0),
    "student_t": (dist.StudentT, (4.0,), 2.0),
}
# Every hyperprior with a base scale for each weight; the other base scales with some.
PRIORS = [(hyper, BASE) for hyper in HYPERS]
PRIORS += [("default", None), ("default", 0.5), ("own per group", None), ("learned", 0.5)]


def observe(weights, y):
    with pyro.plate("data", N):
        return pyro.sample("y", dist.Normal((X * weights).sum(-1), 0.5), obs=y)


def ours(assignment, family, centered, base_scale, hyper):
    loc, scale = HYPERS[hyper]

    def model(y=Y):
        weights = group_prior(
            "w",
            assignment,
            loc=loc,
            scale=scale,
            base_scale=base_scale,
            family=family,
            centered=centered,
        )
        return observe(weights, y)

    return model


def by_hand(assignment, family, centered, base_scale, hyper):
    """The same without the package: matrices instead of indices, plain Pyro statements."""
    shares = torch.zeros(W, G, dtype=torch.double)
    for row in range(W):
        for slot in range(assignment.index.reshape(W, -1).shape[1]):
            group = int(assignment.index.reshape(W, -1)[row, slot])
            shares[row, group] = assignment.responsibilities[row, slot] if assignment.is_soft else 1
    make, shape_parameters, variance = UNIT[family]
    base = 1.0 if base_scale is None else base_scale

    def parameter(name, prior, default, constraint):
        prior = default if prior is None else prior
        if isinstance(prior, torch.distributions.Distribution):
            return pyro.sample(name, prior)
        if isinstance(prior, Learned):
            start = torch.as_tensor(prior.init, dtype=torch.double).expand(G).clone()
            return pyro.param(name, start, constraint=constraint)
        return torch.as_tensor(prior, dtype=torch.double).expand(G)

    def model(y=Y):
        zero, one = double(0.0).squeeze(), double(1.0).squeeze()
        prior_loc, prior_scale = HYPERS[hyper]
        with pyro.plate("w_groups", G):
            loc = parameter("w_loc", prior_loc, dist.Normal(zero, one), constraints.real)
            default = dist.LogNormal(zero, one)
            scale = parameter("w_scale", prior_scale, default, constraints.positive)
        mean = shares @ loc
        second = shares @ (variance * scale**2 + loc**2)
        unit = ((second - mean**2) / variance).sqrt()
        if centered:
            fn = make(*shape_parameters, base * mean, base * unit)
            weights = pyro.sample("w", fn.to_event(1))
        else:
            fn = make(*shape_parameters, torch.zeros_like(mean), torch.ones_like(mean))
            noise = pyro.sample("w_decentered", fn.to_event(1))
            weights = pyro.deterministic("w", base * (mean + unit * noise), event_dim=1)
        return observe(weights, y)

    return model


@pytest.fixture
def double_by_default():
    # The other tests run in float64 beside a default of float32.
    torch.set_default_dtype(torch.double)


@pytest.mark.usefixtures("double_by_default")
@pytest.mark.parametrize("assignment", [HARD, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("family", list(UNIT))
@pytest.mark.parametrize("centered", [True, False], ids=["centred", "decentred"])
@pytest.mark.parametrize(("hyper", "base_scale"), PRIORS)
def test_log_joint_and_elbo_equal_those_of_the_model_by_hand(
    assignment, family, centered, base_scale, hyper
):
    kind = (assignment, family, centered, base_scale, hyper)
    model, reference = ours(*kind), by_hand(*kind)
    draw = poutine.trace(reference).get_trace()
    found = poutine.trace(poutine.replay(model, trace=draw)).get_trace()
    torch.testing.assert_close(found.nodes["w"]["value"], draw.nodes["w"]["value"])
    expected = draw.log_prob_sum()
    torch.testing.assert_close(found.log_prob_sum(), expected, rtol=1e-9, atol=1e-9)

    guide = AutoMeanField(model, init_scale=0.3)
    guide.setup()
    for elbo in (MeanFieldELBO(), TraceMeanField_ELBO(), Trace_ELBO()):
        losses = []
        for one in (model, reference):
            pyro.set_rng_seed(7)
            losses.append(elbo.loss(one, guide))
        assert losses[0] == pytest.approx(losses[1], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("assignment", [HARD, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize(
    "arguments",
    [
        {"base_scale": BASE},
        {"init": BASE},
        {"loc": double(0.0), "scale": double(1.0)},
        {"scale": Learned(double(1.0))},
    ],
)
def test_double_precision_beside_a_default_of_float(assignment, centered, arguments):
    assert torch.get_default_dtype() == torch.float

    def model(y=Y):
        return observe(group_prior("w", assignment, centered=centered, **arguments), y)

    trace = poutine.trace(model).get_trace()
    sampled = [trace.nodes[name]["value"] for name in ("w_loc", "w_scale", "w", "y")]
    assert {value.dtype for value in sampled} == {torch.double}
    guide = AutoMeanField(model)
    loss = MeanFieldELBO().differentiable_loss(model, guide)
    loss.backward()
    assert loss.dtype == torch.double
    assert {parameter.dtype for parameter in guide.parameters()} == {torch.double}


def test_responsibilities_in_double_leave_a_float_model_in_float():
    soft = Assignment.from_dense(torch.full((W, G), 1 / G, dtype=torch.double))
    assert group_prior("w", soft).dtype == torch.float


@pytest.mark.parametrize("centered", [True, False])
def test_start_values_and_shape(centered):
    base = BASE.float()
    start = torch.arange(6.0)

    def model():
        return group_prior(
            "w",
            HARD,
            base_scale=base,
            centered=centered,
            shape=(2, 3),
            init=lambda: start,
            loc=0.0,
            scale=1.0,
        )

    guide = AutoMeanField(model, init_loc_fn=init_to_weights)
    guide.setup()
    weights = poutine.condition(model, guide.median())()
    torch.testing.assert_close(weights, start.reshape(2, 3))


def test_assign_returns_what_its_source_holds():
    assert assign("w", HARD) is HARD
    buffer = AssignmentBuffer(SOFT)
    assert assign("w", buffer) == SOFT
    buffer.assignment = HARD
    assert assign("w", buffer) == HARD
    with pytest.raises(TypeError, match=r"assignment: expected an Assignment or an Assign.*list"):
        assign("w", [0, 1])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"base_scale": 0.0}, ValueError, "base_scale: expected finite positive"),
        ({"base_scale": -BASE}, ValueError, "base_scale: expected finite positive"),
        ({"base_scale": BASE * torch.nan}, ValueError, "base_scale: expected finite positive"),
        ({"base_scale": torch.inf}, ValueError, "base_scale: expected finite positive"),
        ({"base_scale": BASE[:-1]}, ValueError, r"base_scale: .*shape \[6\], got \(5,\)"),
        ({"family": "cauchy"}, ValueError, "family: expected one of"),
        ({"family": dist.Normal}, TypeError, "family: expected a name or a Family"),
        ({"family": StudentT(1.5)}, ValueError, "df: a soft assignment"),
        ({"loc": "zero"}, TypeError, "loc: expected a Pyro distribution"),
        ({"loc": torch.nan}, ValueError, "loc: expected values that are finite"),
        ({"loc": torch.zeros(2)}, ValueError, "w_loc: expected one value for each of 3 groups"),
        ({"scale": -1.0}, ValueError, "scale: expected values that are positive"),
        ({"scale": dist.Normal(0.0, 1.0)}, ValueError, "scale: expected a distribution over pos"),
        ({"shape": (2, 2)}, ValueError, r"shape: expected 6 weights in all, got \(2, 2\)"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        group_prior("w", SOFT, **arguments)
    assert not list(pyro.get_param_store())


@pytest.mark.parametrize("centered", [True, False])
def test_values_of_another_grouping_are_refused(centered):
    def model(assignment):
        return group_prior("w", assignment, centered=centered)

    guide = AutoMeanField(model)
    guide.setup(HARD)
    fewer = Assignment(HARD.index.clamp(max=1))
    with pytest.raises(ValueError, match=r"w_loc: .*2 groups.*has 3; it was made for another"):
        MeanFieldELBO().loss(model, guide, fewer)
    site = "w" if centered else "w_decentered"
    with pytest.raises(ValueError, match=rf"{site}: expected a value of shape \[6\], got \(5,\)"):
        poutine.condition(model, {site: torch.zeros(5)})(HARD)
    with pytest.raises(ValueError, match="w_scale: the assignment has 3 groups"):
        poutine.condition(model, {"w_scale": torch.ones(1)})(HARD)


@pytest.mark.parametrize("as_callable", [False, True])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize(
    ("init", "error", "message"),
    [
        (torch.zeros(W - 1), ValueError, r"init: expected shape \[6\], got \(5,\)"),
        (torch.zeros(()), ValueError, r"init: expected shape \[6\], got \(\)"),
        (torch.full((W,), torch.nan), ValueError, "init: expected finite"),
        (torch.arange(W) / 0, ValueError, "init: expected finite"),
        ([0.0] * W, TypeError, "init: expected a tensor or a callable .*got list"),
    ],
)
def test_a_first_value_that_cannot_be_is_refused(as_callable, centered, init, error, message):
    calls = []

    def give():
        calls.append(1)
        return init

    def model():
        group_prior("w", HARD, init=give if as_callable else init, centered=centered)

    if as_callable:
        model()
        assert not calls  # a guide calls it, once
    with pytest.raises(error, match=message):
        pyro.infer.autoguide.AutoDelta(model, init_loc_fn=init_to_weights)()
