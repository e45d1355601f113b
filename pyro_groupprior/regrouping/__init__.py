# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Regrouping: strategies, schedules and the identity of groups."""

from .matching import match_groups
from .posterior import WeightPosterior, group_moments
from .schedule import Regroup
from .strategy import Cluster, Strategy

__all__ = ["Cluster", "Regroup", "Strategy", "WeightPosterior", "group_moments", "match_groups"]
