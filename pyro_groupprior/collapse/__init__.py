# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""
Collapse: a net's posterior falls back onto its prior, layer by layer, until it predicts a constant
(in mean-field inference: Trippe, Turner 2018, "Overpruning in variational Bayesian neural
networks"; Coker et al. 2022, "Wide mean-field Bayesian neural networks ignore the data").
"""

from .monitor import CollapseMonitor, CollapseWarning
from .repair import CollapseRepair, has_cheap_moments
from .signal import Signal, collapse_report, weight_signals

__all__ = [
    "CollapseMonitor",
    "CollapseRepair",
    "CollapseWarning",
    "Signal",
    "collapse_report",
    "has_cheap_moments",
    "weight_signals",
]
