# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the regroup handler: what it rewrites, what it composes with, what it leaves alone."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal

from pyro_groupprior import (
    Assignment,
    AssignmentBuffer,
    AutoMeanField,
    MeanFieldELBO,
    RegroupMessenger,
    group_prior,
    regroup,
)

W, N = 4, 6
PRESENT = Assignment(torch.tensor([0, 0, 1, 1]))
PROPOSAL = Assignment(torch.tensor([2, 0, 1, 2]))
SHARES = torch.tensor([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0], [0.9, 0.1]])
SOFT = Assignment(torch.tensor([[0, 3], [1, 2], [0, 1], [3, 1]]), responsibilities=SHARES)
PROPOSALS = pytest.mark.parametrize("proposal", [PROPOSAL, SOFT], ids=["hard", "soft"])
X = torch.randn(N, W, generator=torch.manual_seed(0))
Y = torch.randn(N, generator=torch.manual_seed(1))


@pytest.fixture
def buffer():
    return AssignmentBuffer(PRESENT)


def regression(source, y=Y, centered=True):
    weights = group_prior("w", source, centered=centered)
    with pyro.plate("data", N):
        return pyro.sample("y", dist.Normal((X * weights).sum(-1), 0.5), obs=y)


@PROPOSALS
@pytest.mark.parametrize("centered", [True, False])
def test_it_equals_a_model_written_with_the_proposal(buffer, proposal, centered):
    expected = poutine.trace(regression).get_trace(proposal, centered=centered)
    run = poutine.replay(regroup(regression, {"w": proposal}), trace=expected)
    found = poutine.trace(run).get_trace(buffer, centered=centered)
    assert list(found.nodes) == list(expected.nodes)
    for site in ("w_groups", "w_loc", "w_scale"):
        assert len(found.nodes[site]["value"]) == proposal.num_groups
    assert found.nodes["w_loc"]["cond_indep_stack"][0].size == proposal.num_groups
    torch.testing.assert_close(found.log_prob_sum(), expected.log_prob_sum())
    assert buffer.assignment == PRESENT


@PROPOSALS
@pytest.mark.parametrize("outside", [True, False], ids=["outside", "inside"])
def test_it_composes_with_condition_and_block_either_way_round(buffer, proposal, outside):
    values = {
        "w_loc": torch.randn(proposal.num_groups),
        "w_scale": torch.rand(proposal.num_groups) + 0.1,
        "w": torch.randn(W),
    }
    expected = poutine.trace(poutine.condition(regression, values)).get_trace(proposal)

    for wrap in (
        lambda fn: poutine.condition(fn, values),
        lambda fn: poutine.condition(poutine.block(fn, hide=["y"]), values),
    ):
        model = wrap(regression) if outside else wrap(regroup(regression, {"w": proposal}))
        model = regroup(model, {"w": proposal}) if outside else model
        found = poutine.trace(model).get_trace(buffer)
        for site in values:
            torch.testing.assert_close(
                found.nodes[site]["fn"].log_prob(values[site]),
                expected.nodes[site]["fn"].log_prob(values[site]),
            )
        if "y" in found.nodes:
            torch.testing.assert_close(found.log_prob_sum(), expected.log_prob_sum())


def test_block_hides_the_statement_from_what_is_outside(buffer):
    with regroup({"w": PROPOSAL}) as handler:
        poutine.block(regression)(buffer)
    with pytest.raises(RuntimeError, match="no assign statement named"):
        handler.commit()


def test_the_innermost_of_nested_handlers_decides(buffer):
    with regroup({"w": SOFT}) as outer, regroup({"w": PROPOSAL}) as inner:
        value = group_prior("w", buffer)
        trace = poutine.trace(group_prior).get_trace("w", buffer)
    assert value.shape == (W,)
    assert len(trace.nodes["w_loc"]["value"]) == PROPOSAL.num_groups
    with pytest.raises(RuntimeError, match="run the model"):
        outer.commit()
    inner.commit()
    assert buffer.assignment == PROPOSAL
    with regroup({"other": SOFT}), regroup({"w": SOFT}):
        assert len(poutine.trace(group_prior).get_trace("w", buffer).nodes["w_loc"]["value"]) == 4


@PROPOSALS
@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("outside", [True, False], ids=["outside", "inside"])
def test_predictive_draws_under_the_proposal(buffer, proposal, parallel, outside):
    draws = {
        "w_loc": torch.randn(7, proposal.num_groups),
        "w_scale": torch.full((7, proposal.num_groups), 1e-6),
    }

    def predict(model):
        return Predictive(
            model, posterior_samples=draws, return_sites=["w", "y"], parallel=parallel
        )(buffer, None)

    if outside:
        with regroup({"w": proposal}):
            found = predict(regression)
    else:
        found = predict(regroup(regression, {"w": proposal}))
    assert found["y"].shape == (7, N)
    # Hardly any width: each weight is at its group's location, or between those of its groups.
    if not proposal.is_soft:
        expected = draws["w_loc"][:, proposal.index.long()]
        torch.testing.assert_close(found["w"].reshape(7, W), expected, rtol=0, atol=1e-4)
    assert buffer.assignment == PRESENT


@PROPOSALS
@pytest.mark.parametrize(
    ("make", "elbo"),
    [(AutoNormal, Trace_ELBO()), (AutoMeanField, MeanFieldELBO())],
    ids=["AutoNormal", "AutoMeanField"],
)
def test_svi_trains_under_the_proposal(buffer, proposal, make, elbo):
    model = regroup(regression, {"w": proposal})
    losses = {}
    for name, one, source in (("regrouped", model, buffer), ("written", regression, proposal)):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        guide = make(one)
        svi = SVI(one, guide, pyro.optim.Adam({"lr": 0.05}), elbo)
        losses[name] = [svi.step(source) for _ in range(5)]
        assert len(guide.median(source)["w_loc"]) == proposal.num_groups
    assert losses["regrouped"] == pytest.approx(losses["written"])
    assert buffer.assignment == PRESENT


def test_nuts_samples_under_the_proposal(buffer):
    draws = []
    for model, source in ((regroup(regression, {"w": SOFT}), buffer), (regression, SOFT)):
        pyro.set_rng_seed(0)
        mcmc = MCMC(NUTS(model, max_tree_depth=3), 4, 4, disable_progbar=True)
        mcmc.run(source)
        draws.append(mcmc.get_samples())
    assert draws[0]["w_scale"].shape == (4, SOFT.num_groups)
    for name in draws[1]:
        torch.testing.assert_close(draws[0][name], draws[1][name])


def test_evaluating_touches_no_state(buffer):
    guide = AutoMeanField(regression)
    guide.setup(PROPOSAL)
    before = copy.deepcopy(buffer.state_dict())
    with regroup({"w": PROPOSAL}):
        MeanFieldELBO().loss(regression, guide, buffer)
    with pytest.raises(ValueError, match="made for another grouping"):
        MeanFieldELBO().loss(regression, guide, buffer)
    for name, value in buffer.state_dict().items():
        assert torch.equal(value, before[name])
    assert len(poutine.trace(regression).get_trace(buffer).nodes["w_loc"]["value"]) == 2


@PROPOSALS
def test_commit_writes_to_the_buffer(buffer, proposal):
    with regroup({"w": proposal}) as handler:
        regression(buffer)
    handler.commit()
    assert buffer.assignment == proposal
    trace = poutine.trace(regression).get_trace(buffer)
    assert len(trace.nodes["w_scale"]["value"]) == proposal.num_groups


def two_priors(first, second):
    return group_prior("w", first), group_prior("v", second)


@pytest.mark.parametrize(
    ("names", "run", "constant", "message"),
    [
        (["w"], False, False, r"run the model under this handler.*\['w'\].*met: \[\]"),
        (["w", "u"], True, False, r"no assign statement named \['u'\] was met \(met: \['w'\]\)"),
        (["w", "v"], True, True, "the assignment of 'v' as a constant; give group_prior an Assign"),
    ],
    ids=["not run", "unknown name", "constant"],
)
def test_a_commit_that_fails_writes_nothing(buffer, names, run, constant, message):
    second = PRESENT if constant else AssignmentBuffer(PRESENT)
    with regroup(dict.fromkeys(names, PROPOSAL)) as handler:
        if run:
            two_priors(buffer, second)
    with pytest.raises(RuntimeError, match=message):
        handler.commit()
    assert buffer.assignment == PRESENT


def test_a_proposal_for_other_weights_is_refused(buffer):
    short = Assignment(torch.tensor([0, 1, 0]))
    message = r"assignments\['w'\]: .*4 weights, got one for 3"
    with pytest.raises(ValueError, match=message), regroup({"w": short}) as handler:
        regression(buffer)
    with pytest.raises(RuntimeError, match="commit"):
        handler.commit()
    assert buffer.assignment == PRESENT


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match=r"assignments\['w'\]: expected an Assignment, got list"):
        RegroupMessenger({"w": [0, 1]})
    with pytest.raises(TypeError, match="assignments: expected a mapping"):
        regroup(regression)


def test_it_decorates_a_model(buffer):
    @regroup({"w": PROPOSAL})
    def model():
        return regression(buffer)

    assert len(poutine.trace(model).get_trace().nodes["w_loc"]["value"]) == 3
