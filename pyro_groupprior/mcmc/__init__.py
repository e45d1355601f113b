# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""
Sampling: HMC and Langevin dynamics with all chains side by side, Pyro's own kernels, assignments
drawn along with the weights, and exact enumeration.
"""

from .enumeration import EnumeratedPosterior, enumerate_assignments, linear_log_evidence
from .gibbs import GibbsGroups
from .hmc import ChainWarning, HMCResult, run_hmc
from .kernels import MCMCResult, run_mcmc
from .result import GibbsResult
from .run import run_gibbs
from .sgmcmc import SGMCMCResult, TemperatureWarning, run_sgmcmc
from .stored import StoredDraws

__all__ = [
    "ChainWarning",
    "EnumeratedPosterior",
    "GibbsGroups",
    "GibbsResult",
    "HMCResult",
    "MCMCResult",
    "SGMCMCResult",
    "StoredDraws",
    "TemperatureWarning",
    "enumerate_assignments",
    "linear_log_evidence",
    "run_gibbs",
    "run_hmc",
    "run_mcmc",
    "run_sgmcmc",
]
