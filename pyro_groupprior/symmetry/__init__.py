# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Permutation symmetry of nets: what it is, how to undo it, and what is left of a posterior."""

from .activations import Activations
from .alignment import Alignment, align
from .blocks import Block, blocks
from .matching import Match, Matcher
from .nulls import Null, matching_null, transpositions_along
from .posterior import align_draws, in_frame, in_one_frame, permute_draws, posterior_symmetry
from .proof import prove
from .spec import Dim, Permutation, Product, Sum, Symmetry, Whole
from .tracing import find_symmetry
from .transpositions import num_transpositions, random_transpositions, transpositions_between
from .units import unit_blocks

__all__ = [
    "Activations",
    "Alignment",
    "Block",
    "Dim",
    "Match",
    "Matcher",
    "Null",
    "Permutation",
    "Product",
    "Sum",
    "Symmetry",
    "Whole",
    "align",
    "align_draws",
    "blocks",
    "find_symmetry",
    "in_frame",
    "in_one_frame",
    "matching_null",
    "num_transpositions",
    "permute_draws",
    "posterior_symmetry",
    "prove",
    "random_transpositions",
    "transpositions_along",
    "transpositions_between",
    "unit_blocks",
]
