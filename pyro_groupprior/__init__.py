# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""
Hierarchical group priors for Pyro: weights are sorted into groups while the model trains, and each
group has its own learned prior.
"""

from . import families, likelihoods, metrics
from .assignment import Assignment
from .assignment_buffer import AssignmentBuffer
from .elbo import MeanFieldELBO
from .guides import AutoLowRank, AutoMeanField, init_to_weights
from .handlers import KLWeightMessenger, RegroupMessenger, regroup
from .hyperpriors import Learned
from .layout import Layout
from .nn import BayesianModule
from .predictive import Prediction, predict
from .primitives import assign, group_prior
from .regrouping import Cluster, Regroup, WeightPosterior, match_groups
from .storage import load_draws, save_draws
from .svi import Callback, Checkpoint, History, PhasedSVI

__all__ = [
    "Assignment",
    "AssignmentBuffer",
    "AutoLowRank",
    "AutoMeanField",
    "BayesianModule",
    "Callback",
    "Checkpoint",
    "Cluster",
    "History",
    "KLWeightMessenger",
    "Layout",
    "Learned",
    "MeanFieldELBO",
    "PhasedSVI",
    "Prediction",
    "Regroup",
    "RegroupMessenger",
    "WeightPosterior",
    "assign",
    "families",
    "group_prior",
    "init_to_weights",
    "likelihoods",
    "load_draws",
    "match_groups",
    "metrics",
    "predict",
    "regroup",
    "save_draws",
]
