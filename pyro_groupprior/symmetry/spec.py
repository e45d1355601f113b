# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Which axes of which parameters may be permuted together, and where signs may be flipped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class Whole:
    """
    Positions along a dimension that are permuted as one of a net's axes is.

    :param int size: how many.
    :param str axis: whose permutation they follow; None if they stay where they are.
    :param str sign: whose flips they follow; None if they keep their signs.
    """

    size: int
    axis: str | None = None
    sign: str | None = None


@dataclass(frozen=True)
class Product:
    """
    All combinations of positions of several axes, the last running fastest, as where a
    convolution's channels and places are flattened.
    """

    parts: tuple[Dim, ...]

    @property
    def size(self) -> int:
        """How many positions."""
        return math.prod(part.size for part in self.parts)


@dataclass(frozen=True)
class Sum:
    """The positions of several axes one after another, as where features are concatenated."""

    parts: tuple[Dim, ...]

    @property
    def size(self) -> int:
        """How many positions."""
        return sum(part.size for part in self.parts)


Dim: TypeAlias = "Whole | Product | Sum"


def wholes(dim: Dim) -> Iterator[Whole]:
    """What a dimension is made of, in order."""
    if isinstance(dim, Whole):
        yield dim
    else:
        for part in dim.parts:
            yield from wholes(part)


def positions(dim: Dim, permutations: Mapping[str, Tensor]) -> Tensor | None:
    """
    From where each position along a dimension takes its value.

    :param permutations: by axis, each ``[n]``.
    :return: shape ``[size]``, or None where everything stays.
    """
    if all(part.axis is None for part in wholes(dim)):
        return None
    if isinstance(dim, Whole):
        assert dim.axis is not None
        return permutations[dim.axis]
    found = [_or_range(positions(part, permutations), part.size) for part in dim.parts]
    if isinstance(dim, Product):
        place = found[0]
        for part, inner in zip(dim.parts[1:], found[1:], strict=True):
            place = (place[:, None] * part.size + inner).flatten()
        return place
    offsets, start = [], 0
    for part, place in zip(dim.parts, found, strict=True):
        offsets.append(place + start)
        start += part.size
    return torch.cat(offsets)


def flips(dim: Dim, signs: Mapping[str, Tensor]) -> Tensor | None:
    """
    By what each position along a dimension is multiplied, once it has been moved.

    :param signs: by name, each ``[n]``, of 1 and -1.
    :return: shape ``[size]``, or None where no sign changes.
    """
    if all(part.sign is None or part.sign not in signs for part in wholes(dim)):
        return None
    if isinstance(dim, Whole):
        assert dim.sign is not None
        return signs[dim.sign]
    like = next(iter(signs.values()))
    found = [flips(part, signs) for part in dim.parts]
    each = [
        like.new_ones(part.size) if flip is None else flip
        for part, flip in zip(dim.parts, found, strict=True)
    ]
    if isinstance(dim, Product):
        whole = each[0]
        for inner in each[1:]:
            whole = (whole[:, None] * inner).flatten()
        return whole
    return torch.cat(each)


def _or_range(place: Tensor | None, size: int) -> Tensor:
    return torch.arange(size) if place is None else place


@dataclass(frozen=True)
class Permutation:
    """
    One rearrangement of a net's units, or ``S`` of them:
    ``new[i] = sign[i] * old[permutation[i]]``.

    Example::

        >>> from pyro_groupprior.symmetry import Permutation
        >>> many = Permutation({"hidden": torch.tensor([[0, 1, 2], [2, 0, 1]])}, {})
        >>> many[1].permutations["hidden"].tolist()
        [2, 0, 1]

    :param permutations: by axis, integers ``[n]``, or ``[S, n]``.
    :param signs: by name, 1 and -1, likewise; of those left out nothing is flipped.
    """

    permutations: Mapping[str, Tensor]
    signs: Mapping[str, Tensor]

    def __getitem__(self, number: int) -> Permutation:
        """One of many."""
        orders = {axis: order[number] for axis, order in self.permutations.items()}
        return Permutation(orders, {name: sign[number] for name, sign in self.signs.items()})


class Symmetry:
    """
    The axes of a net along which units may be permuted, with no change to what it computes, and
    those along which their signs may be flipped.

    Example, written by hand::

        >>> from pyro_groupprior.symmetry import Symmetry, Whole
        >>> net = nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 1))
        >>> units = Whole(50, "hidden", sign="hidden")
        >>> symmetry = Symmetry({
        ...     "0.weight": (units, Whole(4)), "0.bias": (units,), "2.weight": (Whole(1), units),
        ... })
        >>> moved = symmetry.apply(dict(net.named_parameters()), symmetry.random())
        >>> x = torch.randn(3, 4)
        >>> torch.allclose(torch.func.functional_call(net, moved, x), net(x), atol=1e-6)
        True

    :param tensors: of each tensor, by its name, what each of its dimensions follows.
    :param kinds: by axis, a number for each position: only those with the same number may change
        places. Default: all may.
    :param tied: of tensors that are one under several names, the name that stands for each other
        one.
    :raises ValueError: if an axis has several sizes, a sign has several axes or none, kinds do not
        fit, or tied tensors are not alike.
    """

    def __init__(
        self,
        tensors: Mapping[str, Sequence[Dim]],
        kinds: Mapping[str, Tensor] | None = None,
        tied: Mapping[str, str] | None = None,
    ) -> None:
        self.tensors = {name: tuple(dims) for name, dims in tensors.items()}
        self.tied = dict(tied or {})
        self.axes: dict[str, int] = {}  #: size of every axis
        self.signs: dict[str, str] = {}  #: of what can be flipped, the axis that it is permuted by
        for name, dims in self.tensors.items():
            for whole in (whole for dim in dims for whole in wholes(dim)):
                self._add(name, whole)
        for name, other in self.tied.items():
            if self.tensors.get(name) != self.tensors.get(other) or name not in self.tensors:
                raise ValueError(f"tied: expected tensors that are alike, got {name!r}, {other!r}")
        self.kinds = dict(kinds or {})
        for axis, kind in self.kinds.items():
            if kind.shape != (self.axes.get(axis, -1),):
                raise ValueError(
                    f"kinds: expected a number for each position of one of the axes {self.axes}, "
                    f"got {tuple(kind.shape)} for {axis!r}"
                )

    def _add(self, name: str, whole: Whole) -> None:
        if whole.axis is None:
            if whole.sign is not None:
                raise ValueError(
                    f"tensors[{name!r}]: expected an axis where there is a sign, got none for "
                    f"{whole.sign!r}"
                )
            return
        if self.axes.setdefault(whole.axis, whole.size) != whole.size:
            raise ValueError(
                f"tensors[{name!r}]: expected {self.axes[whole.axis]} positions along "
                f"{whole.axis!r}, as before, got {whole.size}"
            )
        if whole.sign is not None and self.signs.setdefault(whole.sign, whole.axis) != whole.axis:
            raise ValueError(
                f"tensors[{name!r}]: expected the sign {whole.sign!r} along "
                f"{self.signs[whole.sign]!r}, as before, got {whole.axis!r}"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(axes={self.axes}, signs={self.signs})"

    def only(self, axis: str) -> Symmetry:
        """The symmetry of one axis, while all others stay."""
        return self.mapped(lambda whole: whole if whole.axis == axis else Whole(whole.size))

    def unsigned(self) -> Symmetry:
        """The same, but nothing may be flipped."""
        return self.mapped(lambda whole: Whole(whole.size, whole.axis))

    def mapped(self, function: Callable[[Whole], Whole]) -> Symmetry:
        """
        The symmetry with something else in place of every part of a dimension; kinds of axes that
        are still there and have their size stay.
        """

        def part(dim: Dim) -> Dim:
            if isinstance(dim, Whole):
                return function(dim)
            return type(dim)(tuple(map(part, dim.parts)))

        tensors = {name: list(map(part, dims)) for name, dims in self.tensors.items()}
        found = Symmetry(tensors, tied=self.tied)
        kinds = {a: k for a, k in self.kinds.items() if found.axes.get(a) == len(k)}
        return Symmetry(tensors, kinds, self.tied)

    def identity(self) -> Permutation:
        """The rearrangement that leaves all units where they are."""
        orders = {axis: torch.arange(size) for axis, size in self.axes.items()}
        ones = {
            name: torch.ones(self.axes[axis], dtype=torch.long) for name, axis in self.signs.items()
        }
        return Permutation(orders, ones)

    def random(self, generator: torch.Generator | None = None, flip: bool = True) -> Permutation:
        """
        A random rearrangement of all units.

        :param generator: of random numbers; default: torch's own.
        :param bool flip: whether signs are flipped too.
        """
        orders = {
            axis: _shuffled(self.kinds.get(axis, torch.zeros(size, dtype=torch.long)), generator)
            for axis, size in self.axes.items()
        }
        signs = {
            name: 1 - 2 * torch.randint(2, (self.axes[axis],), generator=generator)
            for name, axis in (self.signs.items() if flip else ())
        }
        return Permutation(orders, signs)

    def apply(self, tensors: Mapping[str, Tensor], permutation: Permutation) -> dict[str, Tensor]:
        """
        Rearranged tensors. Those that the symmetry does not know stay as they are.

        :param tensors: by name, each with any leading dimensions, such as draws.
        :param Permutation permutation: one; of many take ``Alignment.apply``.
        :raises ValueError: if these are many.
        """
        moved = dict(tensors)
        several = [tuple(p.shape) for p in permutation.permutations.values() if p.dim() != 1]
        if several:
            raise ValueError(f"permutation: expected one, got orders of shape {several[0]}")
        for name, dims in self.tensors.items():
            if name not in moved:
                continue
            value = moved[name]
            for number, dim in enumerate(dims, -len(dims)):
                place = positions(dim, permutation.permutations)
                if place is not None:
                    value = value.index_select(number, place.to(value.device))
                flip = flips(dim, permutation.signs)
                if flip is not None:
                    shape = [1] * value.dim()
                    shape[number] = -1
                    value = value * flip.to(value).reshape(shape)
            moved[name] = value
        return moved


def _shuffled(kinds: Tensor, generator: torch.Generator | None) -> Tensor:
    """A random order in which every position gets one of its own kind."""
    places = kinds.argsort(stable=True)
    mixed = torch.randperm(len(kinds), generator=generator)
    sources = mixed[kinds[mixed].argsort(stable=True)]
    return torch.empty_like(places).scatter(0, places, sources)
