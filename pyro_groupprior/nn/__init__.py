# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Nets as Pyro models."""

from .draws import map_draws
from .grouping import fan_in_scale, initial_assignment
from .modes import evaluation_mode
from .module import BayesianModule
from .selection import select_parameters

__all__ = [
    "BayesianModule",
    "evaluation_mode",
    "fan_in_scale",
    "initial_assignment",
    "map_draws",
    "select_parameters",
]
