# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Clusterers in the interface of scikit-learn, for any number of weights."""

from .correlation import CorrelationClustering
from .deconvolution import DeconvolvedMixture
from .gaussian import BinnedGaussianMixture
from .wasserstein import MergedMixture, merge_components, wasserstein2

__all__ = [
    "BinnedGaussianMixture",
    "CorrelationClustering",
    "DeconvolvedMixture",
    "MergedMixture",
    "merge_components",
    "wasserstein2",
]
