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
        for chunk in _chunks(points):
            low = np.minimum(low, chunk.amin(0).double().numpy())
            high = np.maximum(high, chunk.amax(0).double().numpy())
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
        for chunk in _chunks(points):
            cell = self._cell(chunk)
            members[position : position + len(chunk)] = cell
            position += len(chunk)
            counts += torch.bincount(cell, minlength=size).numpy()
            for column in range(2):
                values = chunk[:, column].double()
                sums[column] += torch.bincount(cell, values, size).numpy()
                squares[column] += torch.bincount(cell, values.square(), size).numpy()
        occupied = np.flatnonzero(counts)
        number = np.zeros(size, dtype=np.int32)
        number[occupied] = np.arange(len(occupied))
        counts, sums, squares = counts[occupied], sums[:, occupied], squares[:, occupied]
        means = sums / counts
        variances = (squares / counts - means**2).clip(min=0)
        members = torch.from_numpy(number).index_select(0, members)
        return Cells(counts, means.T.copy(), variances.T.copy(), members)

    def _cell(self, chunk: Tensor) -> Tensor:
        along = torch.asinh(chunk[:, 0] / self.unit)
        along = along.sub_(self.low[0]).mul_(self.per_unit[0]).clamp_(0, self.shape[0] - 1)
        across = chunk[:, 1] - self.low[1]
        across = across.mul_(self.per_unit[1]).clamp_(0, self.shape[1] - 1)
        return along.int().mul_(self.shape[1]).add_(across.int())


def top_of(cells: Cells, shares: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` largest shares of each cell's points, renormalised."""
    index = np.argsort(-shares, axis=1, kind="stable")[:, :k]
    kept = np.take_along_axis(shares, index, 1)
    kept /= kept.sum(1, keepdims=True)
    return cells.spread(index.astype(np.int32)), cells.spread(kept.astype(np.float32))


def single_cells(points: np.ndarray) -> Cells:
    """Every point as a cell of its own."""
    points = np.asarray(points, dtype=np.float64)
    return Cells(np.ones(len(points)), points, np.zeros_like(points), None)


def _chunks(points: np.ndarray) -> Iterator[Tensor]:
    for start in range(0, len(points), CHUNK):
        yield torch.from_numpy(np.ascontiguousarray(points[start : start + CHUNK]))


def _middle_deviation(points: np.ndarray) -> float:
    """Median distance from zero of an even selection of the points' first column."""
    stride = max(1, len(points) // 100_000)
    return float(np.median(np.abs(points[::stride, 0])))
