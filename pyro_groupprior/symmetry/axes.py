# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Which positions along the dimensions of a net's tensors move together: unification of axes.

Every dimension of every tensor in a net has an axis. Two dimensions that an operation runs side by
side have the same one, whatever is fixed by one of them is fixed for all. An axis that is seen in
parts, as by a view or a slice, is from then on the product or the sum of smaller ones, and can
only be permuted as these can.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence


class Axis:
    """
    One axis: free to be permuted, fixed, or made of smaller ones.

    :param int size: how many positions.
    :param bool fixed: whether they must stay where they are.
    :param bool uniform: whether values are the same along it, so that it goes with any other.
    """

    def __init__(self, size: int, fixed: bool = False, uniform: bool = False) -> None:
        self.size = size
        self._fixed = fixed
        self._uniform = uniform
        self._same: Axis | None = None
        self._parts: tuple[Axis, ...] = ()
        self._is_product = False

    @property
    def root(self) -> Axis:
        """What stands for all axes that have been made the same."""
        axis = self
        while axis._same is not None:
            if axis._same._same is not None:
                axis._same = axis._same._same  # the way is shorter next time
            axis = axis._same
        return axis

    @property
    def parts(self) -> tuple[Axis, ...]:
        """What it is made of; none if it is whole."""
        return tuple(part.root for part in self.root._parts)

    @property
    def is_product(self) -> bool:
        """Whether positions are all combinations of its parts' (the last running fastest)."""
        return self.root._is_product

    @property
    def is_fixed(self) -> bool:
        """Whether nothing of it can be permuted."""
        if self.parts:
            return all(part.is_fixed for part in self.parts)
        return self.root._fixed or self.size == 1

    @property
    def is_uniform(self) -> bool:
        """Whether values are the same along all of it; those of several terms may differ."""
        if self.parts:
            return self.is_product and all(part.is_uniform for part in self.parts)
        return self.root._uniform

    def leaves(self) -> Iterator[Axis]:
        """The whole axes that it is made of, in order; some may come repeatedly."""
        if not self.parts:
            yield self.root
        for part in self.parts:
            yield from part.leaves()

    def fix(self) -> None:
        """Allow no permutation from now on."""
        for leaf in self.leaves():
            leaf._fixed = True

    def _become(self, parts: Sequence[Axis], is_product: bool) -> None:
        """Be made of parts from now on."""
        root = self.root
        if root._fixed:
            for part in parts:
                part.fix()
        root._parts, root._is_product = tuple(parts), is_product

    def factors(self) -> list[Axis]:
        """Itself as a product of axes none of which is one itself, nor of size 1."""
        if self.parts and self.is_product:
            return [factor for part in self.parts for factor in part.factors()]
        return [self.root] if self.size != 1 else []

    def terms(self) -> list[Axis]:
        """Itself as a sum of axes none of which is one itself, nor empty."""
        if self.parts and not self.is_product:
            return [term for part in self.parts for term in part.terms()]
        return [self.root] if self.size else []


def product(axes: Sequence[Axis]) -> Axis:
    """The axis of all combinations of positions, as where dimensions are flattened."""
    factors = [factor for axis in axes for factor in axis.factors()]
    if len(factors) == 1:
        return factors[0]
    whole = Axis(math.prod(axis.size for axis in axes))
    if factors:
        whole._become(factors, is_product=True)
    return whole


def concatenation(axes: Sequence[Axis]) -> Axis:
    """The axis of the positions of several, one after another."""
    terms = [term for axis in axes for term in axis.terms()]
    if len(terms) == 1:
        return terms[0]
    whole = Axis(sum(axis.size for axis in axes))
    if terms:
        whole._become(terms, is_product=False)
    return whole


def unify(first: Axis, second: Axis) -> Axis:
    """
    Make two axes of the same size one, as those of values that are put together position by
    position. Where values are the same all along a part of one, that part asks for nothing.

    :return: the axis of the result.
    """
    first, second = first.root, second.root
    if first.size != second.size:
        raise ValueError(f"axes: expected equal sizes, got {first.size} and {second.size}")
    if first is second or second.is_uniform:
        return first
    if first.is_uniform:
        return second
    if not first.parts or not second.parts:
        if first.parts:
            first, second = second, first
        second = _varying(second)
        first._same = second
        if first._fixed:
            second.fix()
        return second
    if first.is_product and second.is_product:
        merged = _unify_products(first, second)
    elif not first.is_product and not second.is_product:
        merged = concatenation(_unify_sums(first, second))
    else:
        if first.is_product:
            first, second = second, first
        number = second.factors()[0].size
        merged = _unify_products(first, second) if _as_product(first, number) else None
    if merged is None:
        first.fix()
        second.fix()
        return second
    if not any(leaf.is_uniform for axis in (first, second) for leaf in axis.leaves()):
        first, second = first.root, second.root
        if first is not second:
            first._same = second
        return second
    return merged


def _varying(axis: Axis) -> Axis:
    """The same parts, but for those along which values are the same: these are left open."""
    if not any(leaf.is_uniform for leaf in axis.leaves()):
        return axis
    if not axis.parts:
        return Axis(axis.size)
    parts = [_varying(part) for part in axis.parts]
    return product(parts) if axis.is_product else concatenation(parts)


def _unify_products(first: Axis, second: Axis) -> Axis | None:
    """:return: None where there are no common factors."""

    def factors(axis: Axis, size: int) -> list[Axis] | None:
        return axis.factors() if split(axis, size) else None

    merged = _unify_in_turn(first.factors(), second.factors(), factors)
    return None if merged is None else product(merged)


def _unify_sums(first: Axis, second: Axis) -> list[Axis]:
    def terms(axis: Axis, size: int) -> list[Axis]:
        cut(axis, [size, axis.size - size])
        return axis.terms()

    return _unify_in_turn(first.terms(), second.terms(), terms) or []


def _unify_in_turn(
    ahead: list[Axis], other: list[Axis], taken_apart: Callable[[Axis, int], list[Axis] | None]
) -> list[Axis] | None:
    """
    Unify parts one after the other, of which the larger is taken apart first.

    :param taken_apart: gives parts of an axis, the first of them of a size; None if there are none.
    """
    merged = []
    while ahead and other:
        one, two = ahead.pop(0), other.pop(0)
        if one.size > two.size:
            ahead, other, one, two = other, ahead, two, one
        if two.size > one.size:
            parts = taken_apart(two, one.size)
            if parts is None:
                return None
            two, *rest = parts
            other = rest + other
        merged.append(unify(one, two))
    return merged


def split(axis: Axis, size: int) -> bool:
    """
    See an axis as a product of which the first factors together have a size.

    :return: whether that is possible.
    """
    axis = axis.root
    if axis.size % size:
        return False
    if size in (1, axis.size):
        return True
    if not axis.parts:
        axis._become(_alike(axis, [size, axis.size // size]), is_product=True)
        return True
    if not axis.is_product:
        return _as_product(axis, size)
    for factor in axis.factors():
        if size % factor.size:
            common = math.gcd(size, factor.size)
            return common == size and split(factor, size)
        size //= factor.size
        if size == 1:
            return True
    raise AssertionError("the factors' sizes multiply to the axis's")


def _alike(axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """Parts of an axis that is whole."""
    return [Axis(size, uniform=axis.is_uniform) for size in sizes]


def cut(axis: Axis, sizes: Sequence[int]) -> None:
    """See an axis as a sum of parts of these sizes; what cannot be seen so is fixed."""
    axis = axis.root
    sizes = [size for size in sizes if size]
    if len(sizes) < 2:
        return
    if not axis.parts:
        axis._become(_alike(axis, sizes), is_product=False)
        return
    if axis.is_product:
        number = axis.factors()[0].size
        block = axis.size // number
        if any(size % block for size in sizes):
            axis.fix()
            axis._become([Axis(size, fixed=True) for size in sizes], is_product=False)
            return
        _, *rest = axis.factors()
        axis.factors()[0].fix()
        axis._become([product(rest)] * number, is_product=False)
    ends, position = set(itertools.accumulate(sizes)), 0
    for term in axis.terms():
        inside = sorted(end - position for end in ends if position < end < position + term.size)
        if inside:
            cut(term, [b - a for a, b in itertools.pairwise([0, *inside, term.size])])
        position += term.size


def _as_product(axis: Axis, number: int) -> bool:
    """See a sum as a number of equal blocks, whose order is fixed."""
    if axis.size % number:
        return False
    block = axis.size // number
    cut(axis, [block] * number)
    blocks: list[Axis] = []
    terms = axis.terms()
    while terms:
        members = [terms.pop(0)]
        while sum(member.size for member in members) < block:
            members.append(terms.pop(0))
        blocks.append(concatenation(members))
    for other in blocks[1:]:
        unify(other, blocks[0])
    axis._become([Axis(number, fixed=True), *blocks[0].factors()], is_product=True)
    return True


def regroup_factors(axes: Sequence[Axis], sizes: Sequence[int]) -> list[Axis]:
    """
    The axes of a tensor of some shape viewed in another; what the view breaks up is fixed.

    Example::

        >>> from pyro_groupprior.symmetry.axes import Axis, regroup_factors
        >>> channels = Axis(8)
        >>> flat, = regroup_factors([channels, Axis(3, fixed=True)], [24])
        >>> [(part.size, part.is_fixed) for part in flat.parts]
        [(8, False), (3, True)]
        >>> heads, width = regroup_factors([channels], [2, 4])
        >>> [part.size for part in channels.parts], flat.parts[0] is channels
        ([2, 4], True)

    :param axes: of the dimensions before.
    :param sizes: of the dimensions after, of the same product.
    """
    waiting = [factor for axis in axes for factor in axis.factors()]
    viewed = []
    for size in sizes:
        taken: list[Axis] = []
        missing = size
        while missing > 1:
            factor = waiting.pop(0)
            if factor.size > missing and split(factor, missing):
                factor, *rest = _halves(factor, missing)
                waiting = rest + waiting
            elif missing % factor.size:
                return _all_fixed(axes, sizes)
            taken.append(factor)
            missing //= factor.size
        viewed.append(product(taken) if taken else Axis(size, fixed=True))
    return viewed


def _halves(factor: Axis, size: int) -> list[Axis]:
    """The factors of one that has been split, the first ones of which have a size together."""
    factors = factor.factors()
    first: list[Axis] = []
    while math.prod(part.size for part in first) < size:
        first.append(factors.pop(0))
    return [product(first), *factors]


def _all_fixed(axes: Sequence[Axis], sizes: Sequence[int]) -> list[Axis]:
    for axis in axes:
        axis.fix()
    return [Axis(size, fixed=True) for size in sizes]
