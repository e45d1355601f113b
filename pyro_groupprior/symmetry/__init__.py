# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Permutation symmetry of nets: what it is, how to undo it, and what is left of a posterior."""

from .proof import prove
from .spec import Permutation, Product, Sum, Symmetry, Whole
from .tracing import find_symmetry
from .transpositions import num_transpositions, random_transpositions

__all__ = [
    "Permutation",
    "Product",
    "Sum",
    "Symmetry",
    "Whole",
    "find_symmetry",
    "num_transpositions",
    "prove",
    "random_transpositions",
]
