# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Regrouping: strategies, schedules and the identity of groups."""

from .agreement import adjusted_rand_index, assignment_cost, contingency
from .annealing import Annealed, Sampled
from .evidence import Evidence, cavity
from .matching import flows, match_groups
from .posterior import WeightPosterior, group_moments
from .schedule import Regroup
from .strategy import Cluster, Naive, Strategy
from .trajectories import Trajectories, correlation_matrix, pair_correlations, standardized

__all__ = [
    "Annealed",
    "Cluster",
    "Evidence",
    "Naive",
    "Regroup",
    "Sampled",
    "Strategy",
    "Trajectories",
    "WeightPosterior",
    "adjusted_rand_index",
    "assignment_cost",
    "cavity",
    "contingency",
    "correlation_matrix",
    "flows",
    "group_moments",
    "match_groups",
    "pair_correlations",
    "standardized",
]
