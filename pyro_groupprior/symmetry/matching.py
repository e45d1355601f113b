# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Rearrange the units of one net to be as like those of another as possible."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .blocks import Block
from .spec import Permutation, Symmetry, Whole

_SWEEPS = 100  # through all axes; a few do as a rule
_MOST_NESTED = 64  # units that are compared by what is in them: as many squared assignments
_MOST_IN_NESTED = 4096  # units and what is in them, squared in memory
_GAIN = 1e-6  # relative; less is the noise of sums in single precision


@dataclass(frozen=True)
class Match:
    """
    A rearrangement and how good it is.

    :param Permutation permutation: of the sample's units.
    :param float similarity: what was maximised.
    """

    permutation: Permutation
    similarity: float


class Matcher:
    """
    Coordinate ascent over the axes of a symmetry (Ainsworth, Hayase and Srinivasa 2023, "Git
    Re-Basin", algorithm 1), in which each axis is one linear assignment. Axes are first taken in
    the order in which they can be told apart by what is known already, such as a first layer's
    units by what they read, and only then all by all.

    Example::

        >>> from pyro_groupprior.symmetry import find_symmetry
        >>> from pyro_groupprior.symmetry.blocks import blocks
        >>> from pyro_groupprior.symmetry.matching import Matcher
        >>> net = nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 1))
        >>> symmetry, weights = find_symmetry(net, torch.randn(2, 4)), net.state_dict()
        >>> moved = symmetry.apply(weights, symmetry.random())
        >>> found = Matcher(symmetry, blocks(symmetry, weights)).match(blocks(symmetry, moved))
        >>> back = symmetry.apply(moved, found.permutation)
        >>> torch.equal(back["0.weight"], weights["0.weight"])
        True

    :param Symmetry symmetry: what may be permuted.
    :param linear: blocks of a reference.
    :param quadratic: likewise, for the squares of the sample's values; for a Gaussian reference
        its mean over its variance, and minus half of one over its variance.
    """

    def __init__(
        self,
        symmetry: Symmetry,
        linear: Sequence[Block],
        quadratic: Sequence[Block] | None = None,
    ) -> None:
        self.symmetry, self.linear, self.quadratic = symmetry, linear, quadratic
        self._beside: dict[str, set[str]] = {axis: set() for axis in symmetry.axes}
        self._along: dict[str, list[int]] = {axis: [] for axis in symmetry.axes}
        for number, block in enumerate(linear):
            axes = {whole.axis for whole in block.wholes if whole.axis is not None}
            for axis in axes:
                self._along[axis].append(number)
                # One that comes twice in a block is beside itself.
                others = axes if len(block.dims(axis)) > 1 else axes - {axis}
                self._beside[axis] |= others

    def match(
        self,
        sample: Sequence[Block],
        restarts: int = 0,
        generator: torch.Generator | None = None,
        anchor: bool = True,
        starts: Sequence[Permutation] = (),
    ) -> Match:
        """
        Rearrange one sample.

        :param sample: its blocks, in the order of the reference's.
        :param int restarts: further starts from random arrangements; the best end is taken.
        :param bool anchor: whether axes are first taken in the order in which they can be told
            apart; else it is the descent as published, from where the units are.
        :param starts: further arrangements to start from.
        """
        start = _State(self.symmetry, sample, self.symmetry.identity())
        stale = self._anchor(start) if anchor else set(self.symmetry.axes)
        exact = not stale and len(self.symmetry.axes) == 1  # one assignment: none is better
        best = self._climb(start, stale, generator)
        if exact:
            return best
        for first in (*starts, *(self.symmetry.random(generator) for _ in range(restarts))):
            start = _State(self.symmetry, sample, first)
            found = self._climb(start, set(self.symmetry.axes), generator)
            if found.similarity > best.similarity:
                best = found
        return best

    def _climb(self, state: _State, stale: set[str], generator: torch.Generator | None) -> Match:
        """Rearrange axis after axis, as long as one beside it has moved since."""
        similarity = self._similarity(state, range(len(self.linear)))
        names = list(self.symmetry.axes)
        for _ in range(_SWEEPS):
            for number in torch.randperm(len(names), generator=generator).tolist():
                axis = names[number]
                if axis not in stale:
                    continue
                stale.discard(axis)
                step = self._assign(axis, state, self._along[axis])
                if step is None:
                    continue
                trial, along = state.moved(axis, *step), self._along[axis]
                gain = self._similarity(trial, along) - self._similarity(state, along)
                if gain > _GAIN * self._size(state, along):
                    state, similarity = trial, similarity + gain
                    stale |= self._beside[axis]
            if not stale:
                break
        return Match(Permutation(state.permutations, state.signs), similarity)

    def _anchor(self, state: _State) -> set[str]:
        """
        Match axis after axis by the blocks whose other axes have been matched.

        :return: the axes that were not yet matched by all of their blocks.
        """
        unknown, stale = dict.fromkeys(self.symmetry.axes), set[str]()
        # Values by which a unit of each axis can be told from others.
        told = {axis: self._anchors(axis, unknown) for axis in unknown}
        while unknown:
            axis = max(unknown, key=lambda name: sum(told[name].values()))
            if not told[axis]:
                nested = self._assign_nested(state, unknown)
                if nested is not None:
                    axis, order = nested
                    state.move(axis, order, {})
            else:
                nested = None
            if nested is None:
                step = self._assign(axis, state, told[axis])
                if step is not None:
                    state.move(axis, *step)
            if nested is not None or len(told[axis]) < len(self._along[axis]):
                stale.add(axis)
            del unknown[axis]
            told |= {name: self._anchors(name, unknown) for name in self._beside[axis] & {*unknown}}
        return stale

    def _anchors(self, axis: str, unknown: Mapping[str, None]) -> dict[int, int]:
        """Blocks that tell units of an axis apart: number, and values for each unit."""
        found = {}
        for number in self._along[axis]:
            block = self.linear[number]
            dims = block.dims(axis)
            others = {whole.axis for whole in block.wholes} - {axis, None}
            if len(dims) == 1 and not others & unknown.keys():
                found[number] = block.value.numel() // self.symmetry.axes[axis]
        return found

    def _assign(
        self, axis: str, state: _State, numbers: Iterable[int]
    ) -> tuple[Tensor, dict[str, Tensor]] | None:
        """The best order and signs of one axis given the others, by some of the blocks."""
        unsigned: Tensor | None = None
        signed: dict[str, Tensor] = {}
        for number in numbers:
            value, wholes = state.values[number], self.linear[number].wholes
            for dim in self.linear[number].dims(axis):
                gain = _products(self.linear[number].value, value, dim)
                sign = wholes[dim].sign
                if sign is None:
                    unsigned = gain if unsigned is None else unsigned + gain
                else:
                    signed[sign] = signed[sign] + gain if sign in signed else gain
                if self.quadratic is not None:
                    gain = _products(self.quadratic[number].value, value.square(), dim)
                    unsigned = gain if unsigned is None else unsigned + gain
        if unsigned is None and not signed:
            return None
        total = sum((gain.abs() for gain in signed.values()), start=torch.zeros(()))
        if unsigned is not None:
            total = total + unsigned
        place = self._order(axis, total)
        flips = {
            name: torch.where(gain.cpu().gather(1, place[:, None])[:, 0] < 0, -1, 1)
            for name, gain in signed.items()
        }
        return place, flips

    def _assign_nested(
        self, state: _State, unknown: Mapping[str, None]
    ) -> tuple[str, Tensor] | None:
        """
        The best order of an axis whose units are made of those of another that is unknown too,
        such as attention heads: each is compared with each by the best order of what is in them.
        """
        gains: dict[tuple[str, str], Tensor] = {}
        for number, block in enumerate(self.linear):
            free = [whole.axis for whole in block.wholes if whole.axis in unknown]
            if len(free) != 2 or free[0] == free[1]:
                continue
            outer, inner = sorted(filter(None, free), key=self.symmetry.axes.__getitem__)
            size = self.symmetry.axes[outer]
            if size > _MOST_NESTED or size * self.symmetry.axes[inner] > _MOST_IN_NESTED:
                continue
            dims = (block.dims(outer)[0], block.dims(inner)[0])
            pairs = [(block.value, state.values[number])]
            if self.quadratic is not None:
                pairs.append((self.quadratic[number].value, state.values[number].square()))
            for reference, sample in pairs:
                count = reference.shape[dims[0]] * reference.shape[dims[1]]
                rows, columns = (
                    value.movedim(dims, (0, 1)).reshape(count, -1) for value in (reference, sample)
                )
                gain = rows @ columns.T
                gains[outer, inner] = gains.get((outer, inner), torch.zeros(())) + gain
        if not gains:
            return None
        (outer, inner), gain = next(iter(gains.items()))
        sizes = [self.symmetry.axes[axis] for axis in (outer, inner)]
        each = _as_numpy(gain.reshape(*sizes, *sizes).movedim(2, 1))  # outer pair, inner pair
        best = torch.tensor(
            [
                [part[linear_sum_assignment(part, maximize=True)].sum() for part in row]
                for row in each
            ]
        )
        return outer, self._order(outer, best)

    def _order(self, axis: str, gain: Tensor) -> Tensor:
        """The permutation of an axis with the greatest gain, within kinds."""
        if axis in self.symmetry.kinds:
            kinds = self.symmetry.kinds[axis]
            gain = gain.masked_fill((kinds[:, None] != kinds).to(gain.device), -torch.inf)
        return torch.as_tensor(linear_sum_assignment(_as_numpy(gain), maximize=True)[1])

    def _similarity(self, state: _State, numbers: Iterable[int]) -> float:
        """What some of the blocks add to what is maximised."""
        return sum(float(value.sum()) for value in self._terms(state, numbers))

    def _size(self, state: _State, numbers: Iterable[int]) -> float:
        """Of these terms, whatever their signs: what rounding is relative to."""
        return sum(float(value.abs().sum()) for value in self._terms(state, numbers))

    def _terms(self, state: _State, numbers: Iterable[int]) -> Iterator[Tensor]:
        for number in numbers:
            value = state.values[number]
            yield self.linear[number].value * value
            if self.quadratic is not None:
                yield self.quadratic[number].value * value.square()


def _products(reference: Tensor, sample: Tensor, dim: int) -> Tensor:
    """The inner products of all slices along a dimension, ``[n, n]``."""
    rows = reference.movedim(dim, 0).flatten(1) if reference.dim() > 1 else reference[:, None]
    columns = sample.movedim(dim, 0).flatten(1) if sample.dim() > 1 else sample[:, None]
    return rows @ columns.T


def rearranged(
    symmetry: Symmetry, sample: Sequence[Block], permutation: Permutation
) -> list[Tensor]:
    """The values of a sample's blocks after a rearrangement."""
    return _State(symmetry, sample, permutation).values


class _State:
    """A sample as it is rearranged so far."""

    def __init__(self, symmetry: Symmetry, sample: Sequence[Block], first: Permutation) -> None:
        self.symmetry, self.wholes = symmetry, [block.wholes for block in sample]
        self.values = [block.value for block in sample]
        one = symmetry.identity()
        self.permutations, self.signs = dict(one.permutations), dict(one.signs)
        for axis, order in first.permutations.items():
            flips = {n: first.signs[n] for n, owner in symmetry.signs.items() if owner == axis}
            if not torch.equal(order, self.permutations[axis]) or flips:
                self.move(axis, order, flips)

    def moved(self, axis: str, order: Tensor, flips: Mapping[str, Tensor]) -> _State:
        """A copy with one axis rearranged once more."""
        other = object.__new__(_State)
        other.symmetry, other.wholes = self.symmetry, self.wholes
        other.values = list(self.values)
        other.permutations, other.signs = dict(self.permutations), dict(self.signs)
        other.move(axis, order, flips)
        return other

    def move(self, axis: str, order: Tensor, flips: Mapping[str, Tensor]) -> None:
        """Rearrange one axis once more."""
        self.permutations[axis] = self.permutations[axis][order]
        for name, owner in self.symmetry.signs.items():
            if owner == axis:
                self.signs[name] = self.signs[name][order] * flips.get(name, 1)
        for number, wholes in enumerate(self.wholes):
            for dim, whole in enumerate(wholes):
                if whole.axis == axis:
                    self.values[number] = _moved(self.values[number], dim, order, whole, flips)


def _moved(
    value: Tensor, dim: int, order: Tensor, whole: Whole, flips: Mapping[str, Tensor]
) -> Tensor:
    value = value.index_select(dim, order.to(value.device))
    if whole.sign is not None and whole.sign in flips:
        shape = [1] * value.dim()
        shape[dim] = -1
        value = value * flips[whole.sign].to(value).reshape(shape)
    return value


def _as_numpy(gain: Tensor) -> np.ndarray:
    """On the CPU; numpy knows no bfloat16."""
    return (gain.float() if gain.element_size() < 4 else gain).cpu().numpy()
