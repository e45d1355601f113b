# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

from .callback import MergeEntries
from .codebook import Blend, Codebook, Outliers
from .files import load_codebook, save_codebook
from .guide import AutoShared, with_pruned_group
from .guide_files import load_shared, save_shared
from .making import make_codebook
from .merging import merge_codebook, merge_to_size, merge_while
from .module import SharedModule, load_module
from .packing import bits_a_weight
from .posterior import share_posterior

__all__ = [
    "AutoShared",
    "Blend",
    "Codebook",
    "MergeEntries",
    "Outliers",
    "SharedModule",
    "bits_a_weight",
    "load_codebook",
    "load_module",
    "load_shared",
    "make_codebook",
    "merge_codebook",
    "merge_to_size",
    "merge_while",
    "save_codebook",
    "save_shared",
    "share_posterior",
    "with_pruned_group",
]
