# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Rearrange the units of one net to be as like those of another as possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .blocks import Block
from .spec import Permutation, Symmetry, Whole


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
        self.symmetry = symmetry
        self.linear = linear
        self.quadratic = quadratic

    def match(
        self, sample: Sequence[Block], restarts: int = 0, seed: int = 0, sweeps: int = 100
    ) -> Match:
        """
        Rearrange one sample.

        :param sample: its blocks, in the order of the reference's.
        :param int restarts: further starts from random arrangements; the best end is taken.
        """
        generator = np.random.default_rng(seed)
        best = self._climb(sample, sweeps, generator, anchored=True)
        for _ in range(restarts):
            found = self._climb(sample, sweeps, generator, anchored=False)
            if found.similarity > best.similarity:
                best = found
        return best

    def _climb(
        self, sample: Sequence[Block], sweeps: int, generator: np.random.Generator, anchored: bool
    ) -> Match:
        state = _State(self.symmetry, sample)
        if anchored:
            self._anchor(state)
        else:
            for axis, size in self.symmetry.axes.items():
                state.move(axis, torch.as_tensor(generator.permutation(size)), {})
        similarity = self._similarity(state)
        for _ in range(sweeps):
            before = similarity
            for axis in generator.permutation(list(self.symmetry.axes)):
                step = self._assign(axis, state, range(len(sample)))
                if step is None:
                    continue
                trial = state.moved(axis, *step)
                reached = self._similarity(trial)
                if reached > similarity + 1e-6 * abs(similarity):
                    state, similarity = trial, reached
            if similarity <= before:
                break
        return Match(Permutation(state.permutations, state.signs), similarity)

    def _anchor(self, state: _State) -> None:
        """Match axis after axis by the blocks whose other axes have been matched."""
        unknown = dict.fromkeys(self.symmetry.axes)
        while unknown:
            # Values by which a unit of each axis can be told from others.
            told = {axis: self._anchors(axis, unknown) for axis in unknown}
            axis = max(unknown, key=lambda name: sum(told[name].values()))
            step = self._assign(axis, state, told[axis])
            if step is not None:
                state.move(axis, *step)
            del unknown[axis]

    def _anchors(self, axis: str, unknown: Mapping[str, None]) -> dict[int, int]:
        """Blocks that tell units of an axis apart: number, and values for each unit."""
        found = {}
        for number, block in enumerate(self.linear):
            dims = block.dims(axis)
            others = {whole.axis for whole in block.wholes} - {axis, None}
            if len(dims) == 1 and not others & unknown.keys():
                found[number] = block.value.numel() // self.symmetry.axes[axis]
        return found

    def _assign(
        self, axis: str, state: _State, numbers: Sequence[int] | Mapping[int, int]
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
        _, order = linear_sum_assignment(total.numpy(), maximize=True)
        place = torch.as_tensor(order)
        flips = {
            name: torch.where(gain.gather(1, place[:, None])[:, 0] < 0, -1, 1)
            for name, gain in signed.items()
        }
        return place, flips

    def _similarity(self, state: _State) -> float:
        total = sum(
            float((block.value * value).sum())
            for block, value in zip(self.linear, state.values, strict=True)
        )
        if self.quadratic is not None:
            total += sum(
                float((block.value * value.square()).sum())
                for block, value in zip(self.quadratic, state.values, strict=True)
            )
        return total


def _products(reference: Tensor, sample: Tensor, dim: int) -> Tensor:
    """The inner products of all slices along a dimension, ``[n, n]``."""
    rows = reference.movedim(dim, 0).flatten(1) if reference.dim() > 1 else reference[:, None]
    columns = sample.movedim(dim, 0).flatten(1) if sample.dim() > 1 else sample[:, None]
    return rows @ columns.T


class _State:
    """A sample as it is rearranged so far."""

    def __init__(self, symmetry: Symmetry, sample: Sequence[Block]) -> None:
        self.symmetry, self.wholes = symmetry, [block.wholes for block in sample]
        self.values = [block.value for block in sample]
        self.permutations = {name: torch.arange(size) for name, size in symmetry.axes.items()}
        self.signs = {
            name: torch.ones(symmetry.axes[axis], dtype=torch.long)
            for name, axis in symmetry.signs.items()
        }

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
    value = value.index_select(dim, order)
    if whole.sign is not None and whole.sign in flips:
        shape = [1] * value.dim()
        shape[dim] = -1
        value = value * flips[whole.sign].to(value).reshape(shape)
    return value
