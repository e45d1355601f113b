# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Which weights, and which units, a net can do without."""

from .masks import keep_mask, prune_draws, prune_net
from .scores import RULES, weight_scores
from .shrinking import keep_units, shrink

__all__ = [
    "RULES",
    "keep_mask",
    "keep_units",
    "prune_draws",
    "prune_net",
    "shrink",
    "weight_scores",
]
