# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Pictures of groups, weights, training and predictions, on Matplotlib axes."""

from .axes import COLOURS
from .bands import plot_bands
from .collapse import plot_collapse
from .correlations import plot_correlations
from .flows import plot_flows
from .groups import plot_group_priors
from .moments import plot_moments_by_group, plot_weight_moments
from .predictions import plot_predictions, plot_reliability
from .scales import plot_group_scales
from .sharing import plot_bits, plot_codebook, plot_densities, plot_sizes
from .training import plot_churn, plot_history
from .weights import plot_comparison, plot_pruning, plot_transpositions

__all__ = [
    "COLOURS",
    "plot_bands",
    "plot_bits",
    "plot_churn",
    "plot_codebook",
    "plot_collapse",
    "plot_comparison",
    "plot_correlations",
    "plot_densities",
    "plot_flows",
    "plot_group_priors",
    "plot_group_scales",
    "plot_history",
    "plot_moments_by_group",
    "plot_predictions",
    "plot_pruning",
    "plot_reliability",
    "plot_sizes",
    "plot_transpositions",
    "plot_weight_moments",
]
