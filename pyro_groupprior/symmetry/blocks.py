# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A net's tensors in blocks, of which each dimension follows one axis."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .spec import Dim, Product, Sum, Symmetry, Whole


@dataclass(frozen=True)
class Block:
    """
    A part of a tensor, seen in a shape in which each dimension follows one axis.

    :param Tensor value: shape ``[..., n_1, ..., n_k]``.
    :param wholes: what each of the last ``k`` dimensions follows.
    """

    value: Tensor
    wholes: tuple[Whole, ...]

    def dims(self, axis: str) -> list[int]:
        """The dimensions that follow an axis, counted from the last."""
        number = len(self.wholes)
        return [dim - number for dim, whole in enumerate(self.wholes) if whole.axis == axis]


def blocks(symmetry: Symmetry, tensors: Mapping[str, Tensor]) -> list[Block]:
    """
    All tensors that a symmetry moves, in blocks; those not given are left out.

    Example::

        >>> from pyro_groupprior.symmetry import Product, Sum, Symmetry, Whole
        >>> from pyro_groupprior.symmetry.blocks import blocks
        >>> joined = Sum((Whole(2), Product((Whole(3, "channels"), Whole(4)))))
        >>> found = blocks(Symmetry({"w": (Whole(5), joined)}), {"w": torch.randn(5, 14)})
        >>> [tuple(block.value.shape) for block in found]
        [(5, 3, 4)]

    :param tensors: by name, each with any leading dimensions. Of those that are tied one is taken.
    """
    found = []
    for name, dims in symmetry.tensors.items():
        if name not in tensors or symmetry.tied.get(name) in tensors:
            continue
        for choice in itertools.product(*map(_terms, dims)):
            wholes = tuple(whole for _, factors in choice for whole in factors)
            if all(whole.axis is None for whole in wholes):
                continue
            value = tensors[name].detach()
            for number, (start, factors) in enumerate(choice):
                size = _size(factors)
                value = value.narrow(number - len(dims), start, size)
            shape = value.shape[: value.dim() - len(dims)]
            found.append(Block(value.reshape(*shape, *(w.size for w in wholes)), wholes))
    return found


def _size(factors: Sequence[Whole]) -> int:
    return math.prod(whole.size for whole in factors)


def _terms(dim: Dim) -> list[tuple[int, tuple[Whole, ...]]]:
    """The parts of a dimension that are products of whole axes: start and factors of each."""
    if isinstance(dim, Whole):
        return [(0, (dim,))]
    if isinstance(dim, Sum):
        found, start = [], 0
        for part in dim.parts:
            found += [(start + offset, factors) for offset, factors in _terms(part)]
            start += part.size
        return found
    return _product_terms(dim)


def _product_terms(dim: Product) -> list[tuple[int, tuple[Whole, ...]]]:
    """A sum within a product is none of neighbours; there all but its order is given up."""
    factors: list[Whole] = []
    for part in dim.parts:
        terms = _terms(part)
        factors += terms[0][1] if len(terms) == 1 else (Whole(part.size),)
    return [(0, tuple(factors))]
