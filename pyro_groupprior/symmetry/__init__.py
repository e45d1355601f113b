# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Permutation symmetry of nets: what it is, how to undo it, and what is left of a posterior."""

from .activations import Activations
from .alignment import Alignment, align
from .posterior import align_draws, in_frame, permute_draws, posterior_symmetry
from .proof import prove
from .spec import Permutation, Product, Sum, Symmetry, Whole
from .tracing import find_symmetry
from .transpositions import num_transpositions, random_transpositions
from .units import unit_blocks

__all__ = [
    "Activations",
    "Alignment",
    "Permutation",
    "Product",
    "Sum",
    "Symmetry",
    "Whole",
    "align",
    "align_draws",
    "find_symmetry",
    "in_frame",
    "num_transpositions",
    "permute_draws",
    "posterior_symmetry",
    "prove",
    "random_transpositions",
    "unit_blocks",
]
