# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Many points as few: a two-dimensional histogram that keeps its cells' moments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array
from torch import Tensor

CHUNK = 2**18  # points at a time: what a processor's cache holds


@dataclass(frozen=True)
class Cells:
    """
    Points gathered in ``C`` cells, float64.

    :param counts: points in each cell, shape ``[C]``.
    :param means: of both columns over each cell's points, shape ``[C, 2]``.
    :param variances: likewise.
    :param members: the cell of each point, int32, shape ``[n]``; None if each is its own.
    """

    counts: np.ndarray
    means: np.ndarray
    variances: np.ndarray
    members: Tensor | None

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Values of cells as values of points, shape ``[n, ...]``."""
        if self.members is None:
            return values
        return torch.from_numpy(values).index_select(0, self.members).numpy()

    def coarser(self, size: int) -> Cells:
        """
        At most ``size`` cells, neighbours in the order of the first column's means within slices
        of the second being put together, moments kept; ``members`` are not.
        """
        if len(self.counts) <= size:
            return self
        slices = max(int(size**0.5 / 4), 1)
        across = np.argsort(np.argsort(self.means[:, 1], kind="stable"), kind="stable")
        order = np.lexsort((self.means[:, 0], across * slices // len(across)))
        starts = np.linspace(0, len(order), size, endpoint=False).astype(int)
        weights = self.counts[order, None]
        counts = np.add.reduceat(weights, starts)
        means = np.add.reduceat(weights * self.means[order], starts) / counts
        squares = self.variances[order] + self.means[order] ** 2
        squares = np.add.reduceat(weights * squares, starts) / counts
        variances = (squares - means**2).clip(min=0)
        return Cells(counts[:, 0], means, variances, None)

    def table(self, labels: np.ndarray) -> csr_array:
        """
        How many points of each label lie in each cell: shape ``[number of labels, C]``.

        :param labels: integers from 0, one for each point.
        """
        members = np.arange(len(labels)) if self.members is None else self.members.numpy()
        shape = (int(labels.max()) + 1, len(self.counts))
        return coo_array((np.ones(len(labels)), (labels, members)), shape).tocsr()


class Grid:
    """
    Where the cells' borders lie: evenly in ``asinh(first / unit)``, that is evenly near zero and
    in proportion far from it, and evenly in the second column.

    :param points: shape ``[n, 2]``, finite; the extent is theirs.
    :param shape: number of cells along each column.
    """

    def __init__(self, points: np.ndarray, shape: tuple[int, int]) -> None:
        # Half of the cells should lie where most points do, whatever a few far ones are like.
        self.unit = max(_middle_deviation(points), 1e-30)
        self.shape = shape
        low, high = np.full(2, np.inf), np.full(2, -np.inf)
        for columns in _chunks(points):
            for number, values in enumerate(columns):
                least, most = torch.aminmax(values)
                low[number] = min(low[number], float(least))
                high[number] = max(high[number], float(most))
        low[0], high[0] = np.arcsinh(np.array([low[0], high[0]]) / self.unit).clip(-6, 6)
        self.low = low
        extent = np.where(high > low, high - low, 1.0)
        # A border falls on no point, or rounding would decide.
        self.per_unit = np.array(shape) / (extent * (1 + 1e-6))

    def cells(self, points: np.ndarray) -> Cells:
        """
        :param points: shape ``[n, 2]``; those beyond the borders go to the outermost cells.
        """
        size = self.shape[0] * self.shape[1]
        members = torch.empty(len(points), dtype=torch.int32)
        counts, sums, squares = np.zeros(size), np.zeros((2, size)), np.zeros((2, size))
        position = 0
        for columns in _chunks(points):
            cell = self._cell(*columns)
            members[position : position + len(cell)] = cell
            position += len(cell)
            counts += torch.bincount(cell, minlength=size).numpy()
            for column, values in enumerate(columns):
                sums[column] += torch.bincount(cell, values, size).numpy()
                squares[column] += torch.bincount(cell, values * values, size).numpy()
        occupied = np.flatnonzero(counts)
        number = np.zeros(size, dtype=np.int32)
        number[occupied] = np.arange(len(occupied))
        counts, sums, squares = counts[occupied], sums[:, occupied], squares[:, occupied]
        means = sums / counts
        variances = (squares / counts - means**2).clip(min=0)
        members = torch.from_numpy(number).index_select(0, members)
        return Cells(counts, means.T.copy(), variances.T.copy(), members)

    def _cell(self, first: Tensor, second: Tensor) -> Tensor:
        along = torch.asinh(first / self.unit)
        along = along.sub_(self.low[0]).mul_(self.per_unit[0]).clamp_(0, self.shape[0] - 1)
        across = second - self.low[1]
        across = across.mul_(self.per_unit[1]).clamp_(0, self.shape[1] - 1)
        return along.int().mul_(self.shape[1]).add_(across.int())


def single_cells(points: np.ndarray) -> Cells:
    """Every point as a cell of its own."""
    points = np.asarray(points, dtype=np.float64)
    return Cells(np.ones(len(points)), points, np.zeros_like(points), None)


def top_of(cells: Cells, shares: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` largest shares of each cell's points, renormalised."""
    index = np.argsort(-shares, axis=1, kind="stable")[:, :k]
    kept = np.take_along_axis(shares, index, 1)
    kept /= kept.sum(1, keepdims=True)
    return cells.spread(index.astype(np.int32)), cells.spread(kept.astype(np.float32))


def _chunks(points: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """Both columns of some points at a time."""
    for start in range(0, len(points), CHUNK):
        part = np.ascontiguousarray(points[start : start + CHUNK].T)
        yield torch.from_numpy(part[0]), torch.from_numpy(part[1])


def _middle_deviation(points: np.ndarray) -> float:
    """Median distance from zero of an even selection of the points' first column."""
    stride = max(1, len(points) // 100_000)
    return float(np.median(np.abs(points[::stride, 0])))
