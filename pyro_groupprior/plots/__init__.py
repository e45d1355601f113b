# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Pictures of groups, training and predictions, on Matplotlib axes."""

from .axes import COLOURS
from .groups import plot_group_priors
from .predictions import plot_predictions, plot_reliability
from .sharing import plot_bits, plot_codebook, plot_densities, plot_sizes
from .training import plot_history
from .weights import plot_comparison, plot_pruning, plot_transpositions, plot_weight_moments

__all__ = [
    "COLOURS",
    "plot_bits",
    "plot_codebook",
    "plot_comparison",
    "plot_densities",
    "plot_group_priors",
    "plot_history",
    "plot_predictions",
    "plot_pruning",
    "plot_reliability",
    "plot_sizes",
    "plot_transpositions",
    "plot_weight_moments",
]
