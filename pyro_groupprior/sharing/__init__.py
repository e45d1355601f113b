# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Posteriors in which many weights share a few normals (stochastic weight sharing)."""

from .codebook import Blend, Codebook, Outliers
from .guide import AutoShared, with_pruned_group
from .making import make_codebook
from .merging import merge_codebook, merge_while

__all__ = [
    "AutoShared",
    "Blend",
    "Codebook",
    "Outliers",
    "make_codebook",
    "merge_codebook",
    "merge_while",
    "with_pruned_group",
]
