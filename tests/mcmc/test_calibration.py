# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""
Simulation-based calibration (Talts et al. 2018): where parameters are drawn from the prior and data
given them, the parameters' ranks among posterior draws are uniform. All simulations stand side by
side in one model, as groups that have nothing to do with each other.
"""

import functools
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import NUTS
from scipy import stats
from torch import Tensor

import pyro_groupprior as pgp
from pyro_groupprior.mcmc import run_hmc, run_mcmc

SIMULATIONS, MEMBERS = 100, 5
GROUPS = pgp.AssignmentBuffer(pgp.Assignment(torch.arange(SIMULATIONS).repeat_interleave(MEMBERS)))


def model(y: Tensor | None = None) -> None:
    """Groups of five, each observed once, with so much noise that short chains mix."""
    weights = pgp.group_prior("w", GROUPS, centered=False)
    pyro.sample("y", dist.Normal(weights, 1.5).to_event(1), obs=y)


@pytest.mark.parametrize(
    "run",
    [
        functools.partial(
            run_hmc, num_samples=100, warmup_steps=150, num_chains=4, num_steps=15, thin=2
        ),
        functools.partial(
            run_mcmc,
            kernel=functools.partial(NUTS, max_tree_depth=4),
            num_samples=100,
            warmup_steps=150,
            num_chains=2,
        ),
    ],
    ids=["hmc", "nuts"],
)
def test_ranks_are_uniform(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_groupprior.mcmc.gradient.WORTH_COMPILING", 10**9)
    pyro.set_rng_seed(0)
    truth = poutine.trace(model).get_trace().nodes
    draws = run(model, truth["y"]["value"], progress=False).get_samples()
    for site, step in (("w_loc", 1), ("w_scale", 1), ("w_decentered", MEMBERS)):
        value = truth[site]["value"].detach().reshape(-1)
        found = draws[site].reshape(-1, len(value))
        ranks = (found < value).double().mean(0)[::step]
        assert stats.kstest(ranks.numpy(), "uniform").pvalue > 1e-3, site
        # Too narrow or too wide a posterior shows in the spread of the ranks.
        assert ranks.var().item() == pytest.approx(1 / 12, rel=0.35), site
