# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A posterior of many weights in a few shared normals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..layout import Layout

LEVELS = 15  # make_codebook's shares of a blended weight's first entry are multiples of 1 / LEVELS


class Blend(NamedTuple):
    """
    Weights between two entries: with mean ``alpha m_1 + (1 - alpha) m_2``, and deviation likewise.

    :param Tensor places: which weights, increasing, int64, ``[B]``.
    :param Tensor second: their second entry, int32, ``[B]``.
    :param Tensor alpha: the share of the first, between 0 and 1, ``[B]``.
    """

    places: Tensor
    second: Tensor
    alpha: Tensor


class Outliers(NamedTuple):
    """
    Weights with numbers of their own.

    :param Tensor places: which weights, increasing, int64, ``[O]``.
    :param Tensor loc: their means, in units, ``[O]``.
    :param Tensor scale: their standard deviations, positive, ``[O]``.
    """

    places: Tensor
    loc: Tensor
    scale: Tensor


def _no_blend() -> Blend:
    return Blend(*(torch.empty(0, dtype=dtype) for dtype in (torch.long, torch.int32, None)))


def _no_outliers() -> Outliers:
    return Outliers(*(torch.empty(0, dtype=dtype) for dtype in (torch.long, None, None)))


@dataclass(frozen=True, eq=False, repr=False)
class Codebook:
    """
    A normal posterior for each of ``W`` weights, of which most share their mean and standard
    deviation with many others: a weight has the entry that ``index`` names, times the unit of its
    tensor. Weights that share an entry are independent nonetheless, each with its own noise. Some
    are in between two entries (``blend``), some have numbers of their own (``outliers``).

    Example::

        >>> from pyro_groupprior.sharing import Codebook
        >>> codebook = Codebook(
        ...     layout=Layout([("w", torch.Size([4]))]),
        ...     unit=torch.tensor([1.0]),
        ...     loc=torch.tensor([0.0, 2.0]),
        ...     scale=torch.tensor([0.1, 0.2]),
        ...     index=torch.tensor([0, 1, 1, 0], dtype=torch.int32),
        ... )
        >>> codebook.moments()
        (tensor([0., 2., 2., 0.]), tensor([0.1000, 0.2000, 0.2000, 0.1000]))
        >>> codebook.num_numbers
        4

    :param Layout layout: names, shapes and order of the ``T`` tensors that the weights are.
    :param Tensor unit: positive, one for each tensor, ``[T]``.
    :param Tensor loc: means of the entries, in units, ``[K]``.
    :param Tensor scale: their standard deviations, ``[K]``. An entry whose mean and deviation are
        both 0 is that of pruned weights, and stays as it is.
    :param Tensor index: int32, ``[W]``; of an outlier it says nothing.
    :param Blend blend: the weights between two entries; default: none.
    :param Outliers outliers: the weights with numbers of their own; default: none.
    :param tables: for each tensor the first of the entries that its weights have, and the one after
        the last; those of pruned weights aside. Default: all entries, for all.
    :raises TypeError: if an index is no integer.
    :raises ValueError: if shapes do not fit, or numbers are out of range or not finite.
    """

    layout: Layout
    unit: Tensor
    loc: Tensor
    scale: Tensor
    index: Tensor
    blend: Blend = field(default_factory=_no_blend)
    outliers: Outliers = field(default_factory=_no_outliers)
    tables: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        number, device = self.layout.num_weights, self.index.device
        blend = Blend(*(value.to(device) for value in self.blend))  # the defaults are on the CPU
        outliers = Outliers(*(value.to(device) for value in self.outliers))
        object.__setattr__(self, "blend", blend)
        object.__setattr__(self, "outliers", outliers)
        _check_numbers("unit", self.unit, len(self.layout), positive=True)
        _check_numbers("loc", self.loc, len(self.loc))
        _check_numbers("scale", self.scale, len(self.loc))
        if not bool(((self.scale > 0) | ((self.scale == 0) & (self.loc == 0))).all()):
            raise ValueError(
                "scale: expected positive numbers, but for the entry of pruned weights"
            )
        _check_index("index", self.index, number, len(self.loc))
        _check_places("blend.places", blend.places, number)
        _check_index("blend.second", blend.second, len(blend.places), len(self.loc))
        _check_numbers("blend.alpha", blend.alpha, len(blend.places))
        if not bool(((blend.alpha >= 0) & (blend.alpha <= 1)).all()):
            raise ValueError("blend.alpha: expected numbers between 0 and 1")
        _check_places("outliers.places", outliers.places, number)
        _check_numbers("outliers.loc", outliers.loc, len(outliers.places))
        _check_numbers("outliers.scale", outliers.scale, len(outliers.places), positive=True)
        if not self.tables:
            object.__setattr__(self, "tables", ((0, len(self.loc)),) * len(self.layout))
        _check_tables(self)

    @property
    def num_weights(self) -> int:
        """``W``."""
        return len(self.index)

    @property
    def num_entries(self) -> int:
        """``K``."""
        return len(self.loc)

    @property
    def num_numbers(self) -> int:
        """
        How many numbers can be trained: two for each entry, but none for that of pruned weights,
        and two for each outlier.
        """
        return 2 * int((self.scale > 0).sum()) + 2 * len(self.outliers.places)

    @property
    def kept(self) -> Tensor:
        """Which weights are not pruned, bool, ``[W]``."""
        kept = (self.scale > 0)[self.index]
        kept[self.blend.places] = True
        kept[self.outliers.places] = True
        return kept

    def units(self) -> Tensor:
        """The unit of every weight, ``[W]``."""
        return units_of(self.layout, self.unit)

    def gather(self, entries: Tensor, own: Tensor) -> Tensor:
        """
        A number of every weight, in its tensor's unit, from numbers of the entries and of the
        outliers; gradients flow back to both.

        :param Tensor entries: such as means, ``[K]``.
        :param Tensor own: of the outliers, ``[O]``.
        :return: ``[W]``.
        """
        every = entries[self.index]
        places, second, alpha = self.blend
        if len(places):
            mixed = entries[second] + alpha.to(every) * (every[places] - entries[second])
            every = every.index_put((places,), mixed)
        if len(self.outliers.places):
            every = every.index_put((self.outliers.places,), own)
        return every

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every weight, ``[W]`` both; 0 for pruned ones."""
        unit = self.units()
        loc = self.gather(self.loc, self.outliers.loc)
        return unit * loc, unit * self.gather(self.scale, self.outliers.scale)

    def select(self, name: str) -> Codebook:
        """
        That of one tensor, with the same entries.

        :raises KeyError: if there is no such tensor.
        """
        entry = self.layout[name]
        at = self.layout.names.index(name)
        blend, outliers = (
            [value[(part.places >= entry.start) & (part.places < entry.stop)] for value in part]
            for part in (self.blend, self.outliers)
        )
        return replace(
            self,
            layout=Layout([(name, entry.shape)], {name: entry.aliases}),
            unit=self.unit[at : at + 1],
            index=self.index[entry.slice],
            blend=Blend(blend[0] - entry.start, *blend[1:]),
            outliers=Outliers(outliers[0] - entry.start, *outliers[1:]),
            tables=self.tables[at : at + 1],
        )

    def with_numbers(
        self, loc: Tensor, scale: Tensor, outlier_loc: Tensor, outlier_scale: Tensor
    ) -> Codebook:
        """The same weights to the same entries, with other numbers, as after training."""
        loc, scale, *own = (v.detach().clone() for v in (loc, scale, outlier_loc, outlier_scale))
        outliers = Outliers(self.outliers.places, *own)
        return replace(self, loc=loc, scale=scale, outliers=outliers)

    def sizes(self) -> Tensor:
        """
        How many weights have each entry, float64, ``[K]``: a blended one in part each, an outlier
        none.
        """
        sizes = torch.bincount(self.index, minlength=self.num_entries).double()
        own, blend = self.index[self.outliers.places], self.blend
        sizes -= torch.bincount(own, minlength=self.num_entries)
        share = 1 - blend.alpha.double()
        sizes -= torch.bincount(self.index[blend.places], share, self.num_entries)
        return sizes + torch.bincount(blend.second, share, self.num_entries)

    def to(self, device: torch.device | str) -> Codebook:
        """The same on another device; itself, if it is there already."""
        if torch.device(device) == self.index.device:
            return self
        names = ("unit", "loc", "scale", "index")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def __repr__(self) -> str:
        return (
            f"Codebook(num_weights={self.num_weights}, num_entries={self.num_entries}, "
            f"blended={len(self.blend.places)}, outliers={len(self.outliers.places)})"
        )


def units_of(layout: Layout, unit: Tensor) -> Tensor:
    """The unit of every weight, ``[W]``, from those of the tensors, ``[T]``."""
    sizes = torch.tensor([entry.size for entry in layout], device=unit.device)
    return unit.repeat_interleave(sizes)


def _check_tables(codebook: Codebook) -> None:
    if len(codebook.tables) != len(codebook.layout):
        raise ValueError(
            f"tables: expected one for each of {len(codebook.layout)} tensors, got "
            f"{len(codebook.tables)}"
        )
    second = codebook.index.clone()
    second[codebook.blend.places] = codebook.blend.second
    for entry, (first, last) in zip(codebook.layout, codebook.tables, strict=True):
        if not 0 <= first <= last <= codebook.num_entries:
            raise ValueError(f"tables: expected entries in [0, {codebook.num_entries}]")
        for index in (codebook.index[entry.slice], second[entry.slice]):
            own = (index >= first) & (index < last)
            if not bool((own | (codebook.scale[index] == 0)).all()):
                raise ValueError(
                    f"index: expected entries of {entry.name!r} in [{first}, {last}), got others"
                )


def _check_numbers(name: str, value: Tensor, number: int, positive: bool = False) -> None:
    if value.shape != (number,):
        raise ValueError(f"{name}: expected shape [{number}], got {tuple(value.shape)}")
    if not bool(value.isfinite().all()) or (positive and not bool((value > 0).all())):
        raise ValueError(f"{name}: expected finite{' positive' * positive} numbers")


def _check_index(name: str, index: Tensor, number: int, stop: int) -> None:
    if index.dtype != torch.int32:
        raise TypeError(f"{name}: expected int32, got {index.dtype}")
    if index.shape != (number,):
        raise ValueError(f"{name}: expected shape [{number}], got {tuple(index.shape)}")
    if number and not 0 <= int(index.min()) <= int(index.max()) < stop:
        raise ValueError(f"{name}: expected values in [0, {stop})")


def _check_places(name: str, places: Tensor, stop: int) -> None:
    if places.dtype != torch.long or places.dim() != 1:
        raise TypeError(f"{name}: expected a vector of int64, got {places.dtype}")
    ends: Sequence[int] = places[[0, -1]].tolist() if len(places) else (0, 0)
    if not bool((places[1:] > places[:-1]).all()) or not 0 <= ends[0] <= ends[1] < max(stop, 1):
        raise ValueError(f"{name}: expected increasing places in [0, {stop})")
