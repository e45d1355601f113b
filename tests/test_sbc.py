# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""
Simulation-based calibration (Talts et al. 2018, "Validating Bayesian inference algorithms with
simulation-based calibration") of the group parameters in a linear regression under NUTS.

Every replication draws group parameters, coefficients and data from the model and samples the
posterior; if model and sampler are right, the rank of the true value among independent posterior
draws is uniform. The replications share one chain: they are independent under an outer plate, so
each one's part of the chain is a chain on its own posterior.
"""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from scipy.stats import chisquare

from pyro_groupprior import Assignment, group_prior

GROUPS = Assignment(torch.arange(8) // 4)
ROWS = 12
DRAWS, BINS = 19, 10  # 20 possible ranks, 2 a bin
PARAMETERS = [(site, group) for site in ("w_loc", "w_scale") for group in range(2)]


def regression(x, y, replications, noise, centered=True, log_scale=0.0):
    with pyro.plate("replications", replications, dim=-2):
        scale = dist.LogNormal(torch.tensor(log_scale, dtype=x.dtype), 0.5)
        start = x.new_zeros(8)  # gives the weights their dtype
        weights = group_prior("w", GROUPS, scale=scale, centered=centered, init=start)
        with pyro.plate("data", ROWS):
            pyro.sample("y", dist.Normal((x * weights).sum(-1), noise), obs=y)


def rank_p_values(replications, thinning, noise=1.0, centered=True, assumed=0.0):
    """
    P-values of a chi-square test of uniform ranks, for each group parameter. The posterior is that
    of a model whose scales have the prior median ``exp(assumed)`` instead of the true 1.
    """
    # Orthogonal columns: the replications have posteriors of similar shape, so that one step size
    # fits all.
    x = 2 * torch.linalg.qr(torch.randn(ROWS, 8, dtype=torch.double)).Q
    truth = poutine.trace(regression).get_trace(x, None, replications, noise).nodes
    kernel = NUTS(regression, max_tree_depth=5, target_accept_prob=0.65)
    mcmc = MCMC(kernel, DRAWS * thinning, warmup_steps=60, disable_progbar=True)
    mcmc.run(x, truth["y"]["value"], replications, noise, centered, assumed)
    draws = mcmc.get_samples()
    p_values = {}
    for site, group in PARAMETERS:
        ranks = (draws[site][::thinning] < truth[site]["value"]).sum(0)[:, group]
        assert draws[site].shape == (DRAWS * thinning, replications, 2)
        counts = np.bincount(ranks.numpy() * BINS // (DRAWS + 1), minlength=BINS)
        p_values[site, group] = chisquare(counts).pvalue
    return p_values


# Each parametrisation where it serves: the data say much, or little.
@pytest.mark.parametrize(
    ("centered", "noise", "replications"), [(True, 1.0, 200), (False, 3.0, 100)]
)
def test_ranks_of_the_group_parameters_are_uniform(centered, noise, replications):
    p_values = rank_p_values(replications, 3, noise, centered)
    assert min(p_values.values()) > 0.01, p_values


def test_a_wrong_prior_is_found_out():
    p_values = rank_p_values(replications=100, thinning=1, assumed=1.0)
    assert max(p_values["w_scale", group] for group in range(2)) < 1e-6, p_values
