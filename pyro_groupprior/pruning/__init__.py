# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Which weights, and which units, a net can do without."""

from .gradual import GradualPruning
from .masks import keep_mask, prune_draws, prune_model, prune_net
from .models import shrink_draws, shrink_model
from .scores import RULES, weight_scores
from .shrinking import shrink
from .units import keep_units, shrinkable_axes

__all__ = [
    "RULES",
    "GradualPruning",
    "keep_mask",
    "keep_units",
    "prune_draws",
    "prune_model",
    "prune_net",
    "shrink",
    "shrink_draws",
    "shrink_model",
    "shrinkable_axes",
    "weight_scores",
]
