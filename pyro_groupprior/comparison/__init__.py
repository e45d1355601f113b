# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Posteriors of one net side by side: in the space of weights, and by what they predict."""

from .moments import Posterior, WeightMoments, weight_moments
from .predictions import agreement, compare_predictions, total_variation
from .weights import compare_weights, overlap

__all__ = [
    "Posterior",
    "WeightMoments",
    "agreement",
    "compare_predictions",
    "compare_weights",
    "overlap",
    "total_variation",
    "weight_moments",
]
