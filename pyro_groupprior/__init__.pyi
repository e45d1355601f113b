# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

from . import (
    clustering,
    collapse,
    comparison,
    datatree,
    families,
    guides,
    handlers,
    hyperpriors,
    likelihoods,
    mcmc,
    metrics,
    nn,
    plots,
    pruning,
    regrouping,
    sharing,
    svi,
    symmetry,
)
from .assignment import Assignment
from .assignment_buffer import AssignmentBuffer
from .batch_norm import update_bn
from .clustering import (
    BinnedGaussianMixture,
    CorrelationClustering,
    DeconvolvedMixture,
    MergedMixture,
)
from .collapse import CollapseMonitor, CollapseRepair, CollapseWarning, collapse_report
from .datatree import to_datatree, write_datatree
from .distillation import distill
from .elbo import MeanFieldELBO
from .fitting import fit
from .guides import (
    AutoBlockNormal,
    AutoFullRank,
    AutoLowRank,
    AutoMeanField,
    init_to_weights,
    load_guide,
    save_guide,
)
from .handlers import KLWeightMessenger, RegroupMessenger, regroup
from .hyperpriors import Floored, Learned
from .layout import Layout
from .nn import BayesianModule
from .predictive import Prediction, predict
from .primitives import assign, group_prior
from .regrouping import (
    Annealed,
    Cluster,
    Evidence,
    Naive,
    Regroup,
    Sampled,
    WeightPosterior,
    adjusted_rand_index,
    assignment_cost,
    match_groups,
)
from .storage import load_draws, save_draws
from .svi import (
    Callback,
    Checkpoint,
    History,
    LockIn,
    Monitor,
    PhasedSVI,
    lock_in_test,
    weight_posteriors,
)

__all__ = [
    "Annealed",
    "Assignment",
    "AssignmentBuffer",
    "AutoBlockNormal",
    "AutoFullRank",
    "AutoLowRank",
    "AutoMeanField",
    "BayesianModule",
    "BinnedGaussianMixture",
    "Callback",
    "Checkpoint",
    "Cluster",
    "CollapseMonitor",
    "CollapseRepair",
    "CollapseWarning",
    "CorrelationClustering",
    "DeconvolvedMixture",
    "Evidence",
    "Floored",
    "History",
    "KLWeightMessenger",
    "Layout",
    "Learned",
    "LockIn",
    "MeanFieldELBO",
    "MergedMixture",
    "Monitor",
    "Naive",
    "PhasedSVI",
    "Prediction",
    "Regroup",
    "RegroupMessenger",
    "Sampled",
    "WeightPosterior",
    "adjusted_rand_index",
    "assign",
    "assignment_cost",
    "clustering",
    "collapse",
    "collapse_report",
    "comparison",
    "datatree",
    "distill",
    "families",
    "fit",
    "group_prior",
    "guides",
    "handlers",
    "hyperpriors",
    "init_to_weights",
    "likelihoods",
    "load_draws",
    "load_guide",
    "lock_in_test",
    "match_groups",
    "mcmc",
    "metrics",
    "nn",
    "plots",
    "predict",
    "pruning",
    "regroup",
    "regrouping",
    "save_draws",
    "save_guide",
    "sharing",
    "svi",
    "symmetry",
    "to_datatree",
    "update_bn",
    "weight_posteriors",
    "write_datatree",
]
