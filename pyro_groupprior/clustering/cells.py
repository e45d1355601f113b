# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Many points as few: a two-dimensional histogram that keeps its cells' moments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array
from scipy.stats import rankdata
from torch import Tensor

# Points at a time: they stay in a processor's cache, and torch does not split so few over threads,
# which on a busy machine takes far longer than the work itself.
CHUNK = 2**15


@dataclass(frozen=True)
class Cells:
    """
    Points gathered in ``C`` cells, float64.

    :param counts: points in each cell, shape ``[C]``.
    :param means: of both columns over each cell's points, shape ``[C, 2]``.
    :param variances: likewise.
    :param members: the place of each point's cell in the grid, int32, shape ``[n]``; None if each
        point is its own cell.
    :param numbers: the number of the cell at each place; many places are empty.
    """

    counts: np.ndarray
    means: np.ndarray
    variances: np.ndarray
    members: Tensor | None = None
    numbers: np.ndarray | None = None

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Values of cells as values of points, shape ``[n, ...]``."""
        if self.members is None or self.numbers is None:
            return values
        # By place rather than by number: there are far fewer places than points.
        placed = torch.from_numpy(values[self.numbers])
        return placed.index_select(0, self.members).numpy()

    def coarser(self, size: int) -> Cells:
        """
        At most ``size`` cells, neighbours by the first column's means within slices of the second
        being put together, moments kept; ``members`` are not.
        """
        if len(self.counts) <= size:
            return self
        first, second = self.means.T
        slices = max(int(size**0.5 / 4), 1) if second.min() < second.max() else 1
        across = _even_parts(second, slices)
        label = np.empty(len(first), dtype=np.int64)
        for number in range(slices):
            rows = np.flatnonzero(across == number)
            label[rows] = number * size + _even_parts(first[rows], size // slices)
        order = np.argsort(label, kind="stable")
        starts = np.flatnonzero(np.diff(label[order], prepend=-1))
        weights = self.counts[order, None]
        counts = np.add.reduceat(weights, starts)
        means = np.add.reduceat(weights * self.means[order], starts) / counts
        squares = self.variances[order] + self.means[order] ** 2
        squares = np.add.reduceat(weights * squares, starts) / counts
        variances = (squares - means**2).clip(min=0)
        return Cells(counts[:, 0], means, variances)

    def table(self, labels: np.ndarray) -> csr_array:
        """
        How many points of each label lie in each cell: shape ``[number of labels, C]``.

        :param labels: integers from 0, one for each point.
        """
        members = self.spread(np.arange(len(self.counts)))
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
        some = points[:: max(1, len(points) // 100_000)]
        self.unit = max(float(np.median(np.abs(some[:, 0]))), 1e-30)
        self.centre = np.median(some, 0).astype(np.float64)
        self.shape = shape
        low, high = np.full(2, np.inf), np.full(2, -np.inf)
        for _, columns in _chunks(points, CHUNK):
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
        for rows, columns in _chunks(points, CHUNK):
            members[rows] = self._cell(*columns)
        counts, sums, squares = np.zeros(size), np.zeros((2, size)), np.zeros((2, size))
        for rows, columns in _chunks(points, 16 * CHUNK):  # each makes a table of all cells
            counts += torch.bincount(members[rows], minlength=size).numpy()
            for column, values in enumerate(columns):
                # Far from zero, squares in single precision would drown a cell's own variance.
                values = values - self.centre[column]
                sums[column] += torch.bincount(members[rows], values, size).numpy()
                squares[column] += torch.bincount(members[rows], values.square_(), size).numpy()
        occupied = np.flatnonzero(counts)
        number = np.zeros(size, dtype=np.int32)
        number[occupied] = np.arange(len(occupied))
        counts, sums, squares = counts[occupied], sums[:, occupied], squares[:, occupied]
        means = sums / counts
        variances = (squares / counts - means**2).clip(min=0)
        means += self.centre[:, None]
        return Cells(counts, means.T.copy(), variances.T.copy(), members, number)

    def _cell(self, first: Tensor, second: Tensor) -> Tensor:
        along = torch.asinh(first / self.unit)
        along = along.sub_(self.low[0]).mul_(self.per_unit[0]).clamp_(0, self.shape[0] - 1)
        across = second - self.low[1]
        across = across.mul_(self.per_unit[1]).clamp_(0, self.shape[1] - 1)
        return along.int().mul_(self.shape[1]).add_(across.int())


def single_cells(points: np.ndarray) -> Cells:
    """Every point as a cell of its own."""
    points = np.asarray(points, dtype=np.float64)
    return Cells(np.ones(len(points)), points, np.zeros_like(points))


def top_of(cells: Cells, shares: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` largest shares of each cell's points, renormalised."""
    index = np.argsort(-shares, axis=1, kind="stable")[:, :k]
    kept = np.take_along_axis(shares, index, 1)
    kept /= kept.sum(1, keepdims=True)
    return cells.spread(index.astype(np.int32)), cells.spread(kept.astype(np.float32))


def _even_parts(values: np.ndarray, number: int) -> np.ndarray:
    """
    Part of each value, from 0 to ``number - 1``. Parts are even halfway in rank, so that none holds
    too many, and halfway in size, so that none spans the gap between two groups.
    """
    if len(values) == 0:
        return np.zeros(0, dtype=np.int64)
    size = np.arcsinh(values / max(float(np.median(np.abs(values))), 1e-30))
    size -= size.min()
    place = rankdata(values, "min") / len(values) + size / max(float(size.max()), 1e-30)
    return np.clip(place / 2 * number, 0, number - 1).astype(np.int64)


def _chunks(points: np.ndarray, size: int) -> Iterator[tuple[slice, tuple[Tensor, Tensor]]]:
    """Some rows at a time, and both columns of them; views, where a column lies in one piece."""
    for start in range(0, len(points), size):
        rows = slice(start, start + size)
        first, second = (np.ascontiguousarray(column) for column in points[rows].T)
        yield rows, (torch.from_numpy(first), torch.from_numpy(second))
