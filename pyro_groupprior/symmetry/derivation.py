# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What is known of the axes of a net's tensors while its graph is gone through."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, fx

from .axes import Axis, unify

Axes: TypeAlias = "list[Axis]"
#: Of an operation: the axes of its output, or of each of several (None: nobody may look at it).
Rule: TypeAlias = "Callable[[Derivation, Operation], Axes | list[Axes | None]]"


@dataclass(frozen=True)
class Operation:
    """
    One operation of a graph.

    :param args: its arguments: nodes, or plain values.
    :param kwargs: those by name.
    :param value: a tensor, or tensors, like its result.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    value: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result."""
        return tuple(self.value.shape)

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument, given by position or by name, or its default."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)


class Derivation:
    """
    The axes of all values of a graph. It is gone through twice by the same rules: for the order of
    positions, where "the same axis" means "permuted alike", and then for signs, where it means
    "flipped alike" and fixed axes are those that cannot be flipped. What holds for order but not
    for signs, or the other way round, is said by :meth:`tie_order` and :meth:`keep_sign`.

    :param bool signs: which of the two.
    """

    def __init__(self, signs: bool) -> None:
        self.signs = signs
        self.values: dict[fx.Node, Any] = {}

    def axes(self, node: Any) -> Axes:
        """The axes of a value; none of a number."""
        return list(self.values[node]) if isinstance(node, fx.Node) else []

    def tie(self, first: Iterable[Axis], second: Iterable[Axis]) -> Axes:
        """
        Permute and flip these pairs alike.

        :return: the axes of values put together from both.
        """
        return [unify(one, other) for one, other in zip(first, second, strict=True)]

    def tie_order(self, first: Iterable[Axis], second: Iterable[Axis]) -> Axes:
        """
        Permute these pairs alike, whatever their signs.

        :return: the axes of the second's values, put together with the first's.
        """
        return list(second) if self.signs else self.tie(first, second)

    def keep_sign(self, axes: Iterable[Axis]) -> None:
        """Flip none of these, which may be permuted."""
        if self.signs:
            self.fix(axes)

    def fix(self, axes: Iterable[Axis]) -> None:
        """Neither permute nor flip these."""
        for axis in axes:
            axis.fix()

    def unsigned(self, axes: Iterable[Axis]) -> Axes:
        """The axes of what is permuted like these but never flipped, as their absolute values."""
        return [Axis(axis.size, fixed=True) if self.signs else axis for axis in axes]

    def multiplied(self, first: Axis, second: Axis) -> Axis:
        """The axis of a product, position by position: its sign is that of one of the factors."""
        if not self.signs:
            return unify(first, second)
        if first.root is second.root:
            return Axis(first.size, fixed=True)
        if first.is_fixed:
            return second
        if not second.is_fixed:
            second.fix()
        return first


def shape(node: Any) -> tuple[int, ...]:
    """The shape of an argument; that of one number if it is none."""
    value = node.meta["val"] if isinstance(node, fx.Node) else node
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def position(dim: int, number: int) -> int:
    """A dimension counted from the front."""
    return dim % number if number else 0


def fresh(sizes: Sequence[int], fixed: bool = False) -> Axes:
    """New axes of these sizes."""
    return [Axis(size, fixed) for size in sizes]


def uniform(sizes: Sequence[int], zero: bool, signs: bool) -> Axes:
    """Axes along which a value is the same; flipped it would not be, unless it is zero."""
    fixed = signs and not zero
    return [Axis(size, fixed, uniform=not fixed) for size in sizes]
