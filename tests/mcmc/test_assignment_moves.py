# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Assignments drawn between moves over a recorded potential, against exact enumeration."""

import functools
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import HMC
from scipy.special import gammaln
from scipy.stats import dirichlet_multinomial
from torch import Tensor

from pyro_groupprior import Assignment, AssignmentBuffer, group_prior
from pyro_groupprior.mcmc import (
    MCMCResult,
    StoredDraws,
    enumerate_assignments,
    linear_log_evidence,
    run_mcmc,
)
from pyro_groupprior.mcmc.assignment_moves import AssignmentMoves
from tests.mcmc.groups import LOC, SCALE, assert_agrees, pairs, tiny_data, upper

HMC_5 = functools.partial(HMC, num_steps=5, step_size=0.2)


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes longer than these small runs."""
    monkeypatch.setattr("pyro_groupprior.mcmc.gradient.WORTH_COMPILING", 10**9)


def regression(buffer: AssignmentBuffer, **prior: Any) -> Any:
    """Allows outer plates."""

    def model(x: Tensor, y: Tensor) -> None:
        weights = group_prior("w", buffer, **prior)
        mean = (x * weights).sum(-1)
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(mean, 0.7), obs=y)

    return model


def alternating(num_weights: int) -> AssignmentBuffer:
    return AssignmentBuffer(Assignment(torch.arange(num_weights) % 2, 2))


def sampled(x: Tensor, y: Tensor, **options: Any) -> tuple[MCMCResult, AssignmentBuffer]:
    buffer = alternating(4)
    result = run_mcmc(
        regression(buffer, scale=SCALE, **options), x, y, kernel=HMC_5, num_samples=300,
        warmup_steps=60, num_chains=2, concentration=0.8, progress=False,
    )  # fmt: skip
    assert isinstance(result, MCMCResult)
    return result, buffer


def test_agrees_with_enumeration() -> None:
    x, y = tiny_data(4)
    result, buffer = sampled(x, y, loc=LOC)
    exact = enumerate_assignments(
        linear_log_evidence(x, y, 0.7, LOC, SCALE), 4, 2, concentration=0.8
    )
    drawn, weights = result.samples["w_assignment"], result.samples["w"]
    assert drawn.dtype == torch.int16
    assert_agrees(pairs(drawn), upper(exact.co_clustering))
    assert_agrees(drawn, exact.responsibilities[:, 1])  # fixed priors tell the groups apart
    assert result.samples["w_proportions"].shape == (2, 300, 2)
    # The log-density of each draw is that of the model, of decentred weights, and of the grouping.
    index = drawn.long()
    counts = (index[..., None] == torch.arange(2)).sum(2).numpy()
    ways = gammaln(5) - gammaln(counts + 1).sum(-1)
    partition = dirichlet_multinomial.logpmf(counts, [0.8, 0.8], 4) - ways
    expected = dist.Normal(weights @ x.T, 0.7).log_prob(y).sum(-1) + dist.Normal(0.0, 1.0).log_prob(
        (weights - LOC[index]) / SCALE[index]
    ).sum(-1)
    torch.testing.assert_close(
        result.log_joint, expected + torch.as_tensor(partition).float(), atol=1e-3, rtol=1e-4
    )
    # The model has the grouping that it had.
    assert buffer.assignment.index.tolist() == [0, 1, 0, 1]
    assert "w_assignment" not in result.diagnostics().index


def test_agrees_with_enumeration_under_learned_locs() -> None:
    x, y = tiny_data(4)
    base = torch.tensor([0.5, 1.5, 1.0, 1.0])
    result, _ = sampled(x, y, base_scale=base)
    log_evidence = linear_log_evidence(x, y, 0.7, 0 * LOC, SCALE, base, loc_sd=1.0)
    exact = enumerate_assignments(log_evidence, 4, 2, concentration=0.8)
    assert_agrees(pairs(result.samples["w_assignment"]), upper(exact.co_clustering))


def test_a_run_that_was_stopped_goes_on(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_groupprior.mcmc.chain.KEPT", 5)
    x, y = tiny_data(4)
    model = regression(alternating(4), loc=LOC, scale=SCALE)
    options: dict[str, Any] = {"kernel": HMC_5, "warmup_steps": 10, "num_chains": 1}
    options |= {"concentration": 1.0, "progress": False}
    whole = run_mcmc(model, x, y, num_samples=17, **options)
    run_mcmc(model, x, y, num_samples=7, path=tmp_path, **options)
    found = run_mcmc(model, x, y, num_samples=17, path=tmp_path, **options)
    samples = found.get_samples(group_by_chain=True)
    assert set(samples) == {"w", "w_assignment", "w_proportions"}
    for name, value in samples.items():
        assert torch.equal(value, whole.samples[name]), name
    assert torch.equal(found.log_joint, whole.log_joint)
    with pytest.raises(ValueError, match=r"made with concentration=1.0, expected None"):
        run_mcmc(model, x, y, num_samples=17, path=tmp_path, **{**options, "concentration": None})


def test_bad_input() -> None:
    def plain(y: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    with pytest.raises(ValueError, match="concentration: expected a finite positive number, got 0"):
        run_mcmc(plain, torch.tensor(1.0), concentration=0, progress=False)
    with pytest.raises(ValueError, match="model: expected a group_prior statement, found none"):
        run_mcmc(plain, torch.tensor(1.0), concentration=1.0, progress=False)
    x, y = tiny_data(4)
    constant = regression(Assignment(torch.arange(4) % 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give group_prior an AssignmentBuffer"):
        run_mcmc(constant, x, y, concentration=1.0, progress=False)


def test_leapfrog_steps_are_counted_as_without_assignments() -> None:
    x, y = tiny_data(4)
    model = regression(alternating(4), loc=LOC, scale=SCALE)
    kernel = functools.partial(HMC, num_steps=5, step_size=0.01, adapt_step_size=False)
    options: dict[str, Any] = {"kernel": kernel, "num_samples": 5, "warmup_steps": 1}
    options |= {"num_chains": 1, "progress": False}
    for concentration in (None, 1.0):
        found = run_mcmc(model, x, y, concentration=concentration, **options)
        assert found.num_steps.tolist() == [[5] * 5]


def test_an_interrupted_regrouping_is_done_again(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The position and the groups in the file are of the same move."""
    x, y = tiny_data(4)
    model = regression(alternating(4), loc=LOC, scale=SCALE)
    options: dict[str, Any] = {"kernel": HMC_5, "warmup_steps": 5, "num_chains": 1}
    options |= {"concentration": 1.0, "progress": False}
    whole = run_mcmc(model, x, y, num_samples=12, **options)
    calls: list[int] = []
    constrain = AssignmentMoves.constrain

    def interrupted(self: Any, *args: Any) -> Any:
        calls.append(0)
        if len(calls) == 8:  # after the groups have been drawn
            raise KeyboardInterrupt
        return constrain(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(AssignmentMoves, "constrain", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_mcmc(model, x, y, num_samples=12, path=tmp_path, **options)
    assert StoredDraws(tmp_path).num_draws > 0
    found = run_mcmc(model, x, y, num_samples=12, path=tmp_path, **options)
    for name, value in whole.get_samples().items():
        assert torch.equal(found.get_samples()[name], value), name
