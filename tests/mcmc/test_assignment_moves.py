# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Assignments drawn between moves over a recorded potential, against exact enumeration."""

import functools
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import HMC, NUTS
from torch import Tensor

from pyro_groupprior import Assignment, AssignmentBuffer, group_prior
from pyro_groupprior.mcmc import (
    MCMCResult,
    enumerate_assignments,
    linear_log_evidence,
    run_gibbs,
    run_mcmc,
)
from tests.mcmc.groups import LOC, SCALE, assert_agrees, pairs, tiny_data, upper

NUTS_3 = functools.partial(NUTS, max_tree_depth=3)


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


@pytest.mark.parametrize("base", [None, torch.tensor([0.5, 1.5, 1.0, 1.0])])
def test_agrees_with_enumeration(base: Tensor | None) -> None:
    x, y = tiny_data(4)
    buffer = alternating(4)
    options = {"scale": SCALE} | ({"loc": LOC} if base is None else {"base_scale": base})
    result = run_mcmc(
        regression(buffer, **options), x, y, kernel=NUTS_3, num_samples=400, warmup_steps=80,
        num_chains=2, concentration=0.8, progress=False,
    )  # fmt: skip
    assert isinstance(result, MCMCResult)
    if base is None:
        log_evidence = linear_log_evidence(x, y, 0.7, LOC, SCALE)
    else:
        log_evidence = linear_log_evidence(x, y, 0.7, 0 * LOC, SCALE, base, loc_sd=1.0)
    exact = enumerate_assignments(log_evidence, 4, 2, concentration=0.8)
    drawn = result.samples["w_assignment"]
    assert drawn.dtype == torch.int16
    assert_agrees(pairs(drawn), upper(exact.co_clustering))
    if base is None:  # fixed priors tell the groups apart
        assert_agrees(drawn, exact.responsibilities[:, 1])
    assert result.samples["w_proportions"].shape == (2, 400, 2)
    # The model has the grouping that it had.
    assert buffer.assignment.index.tolist() == [0, 1, 0, 1]
    assert "w_assignment" not in result.diagnostics().index


def test_log_joint_is_that_of_gibbs_within_nuts() -> None:
    """Of the same posterior, worked out by Pyro's own kernels from the model itself."""
    x, y = tiny_data(4)
    options: dict[str, Any] = {"num_samples": 300, "warmup_steps": 80, "num_chains": 2}
    ours = run_mcmc(
        regression(alternating(4), loc=LOC, scale=SCALE), x, y, kernel=NUTS_3, concentration=1.0,
        progress=False, **options,
    )  # fmt: skip
    other = run_gibbs(
        regression(alternating(4), loc=LOC, scale=SCALE), x, y, kernel=NUTS_3, progress=False,
        **options,
    )  # fmt: skip
    for name in ("w",):
        mean, sd = other.samples[name].mean((0, 1)), other.samples[name].std((0, 1))
        found = ours.samples[name].flatten(0, 1)
        assert bool(((found.mean(0) - mean).abs() < 0.3 * sd).all())
    # Decentred positions: another volume, by the scales of the weights' groups.
    index = ours.samples["w_assignment"].long()
    volume = SCALE.log()[index].sum(-1)
    assert (ours.log_joint - volume).mean().item() == pytest.approx(
        other.log_joint.mean().item(), abs=0.5
    )


def test_a_run_that_was_stopped_goes_on(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_groupprior.mcmc.chain.KEPT", 5)
    x, y = tiny_data(4)
    model = regression(alternating(4), loc=LOC, scale=SCALE)
    hmc = functools.partial(HMC, num_steps=4, step_size=0.2)
    options: dict[str, Any] = {
        "kernel": hmc, "warmup_steps": 10, "num_chains": 1, "concentration": 1.0, "progress": False,
    }  # fmt: skip
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
