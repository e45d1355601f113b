# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Points gathered in cells, against the points themselves, cell by cell."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose

from pyro_groupprior.clustering import cells as module
from pyro_groupprior.clustering.cells import Grid, single_cells, top_of

finite = st.floats(-1e3, 1e3, width=32)
clouds = st.integers(1, 60).flatmap(lambda n: arrays(np.float64, (n, 2), elements=finite))
shapes = st.tuples(st.integers(1, 9), st.integers(1, 5))


def blob(size=5000, dtype=np.float64, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_t(3, (size, 2)) * [1.0, 0.3] + [0.5, -1.0]).astype(dtype)


def members_of(cells) -> np.ndarray:
    """The number of each point's cell."""
    return cells.spread(np.arange(len(cells.counts)))


def total_moments(counts, means, variances):
    """Of all points, by the law of total variance."""
    middle = np.average(means, 0, counts)
    return middle, np.average(variances + (means - middle) ** 2, 0, counts)


@given(clouds, shapes)
def test_cells_keep_the_moments_of_their_points(points, shape):
    cells = Grid(points, shape).cells(points)
    members = members_of(cells)
    assert members.shape == (len(points),) and len(cells.counts) <= shape[0] * shape[1]
    assert sorted(set(members)) == list(range(len(cells.counts)))
    for cell, count in enumerate(cells.counts):
        own = points[members == cell]
        assert count == len(own)
        assert_allclose(cells.means[cell], own.mean(0), atol=1e-9)
        assert_allclose(cells.variances[cell], own.var(0), atol=1e-6)


@given(clouds, st.integers(1, 9))
def test_cells_are_intervals(points, bins):
    """Along a column no cell begins before the last one has ended."""
    for shape, column in (((bins, 1), 0), ((1, bins), 1)):
        cells = Grid(points, shape).cells(points)
        owned = [points[members_of(cells) == cell, column] for cell in range(len(cells.counts))]
        for one, other in pairwise(owned):
            assert one.max() <= other.min()


@given(clouds, shapes, st.integers(1, 20))
def test_coarser_keeps_the_moments_of_all(points, shape, size):
    cells = Grid(points, shape).cells(points)
    rough = cells.coarser(size)
    assert len(rough.counts) <= min(size, len(cells.counts))
    assert rough.counts.sum() == len(points)
    middle, variance = total_moments(rough.counts, rough.means, rough.variances)
    assert_allclose(middle, points.mean(0), atol=1e-9)
    assert_allclose(variance, points.var(0), atol=1e-6)


def test_coarser_puts_neighbours_together():
    points = blob(20_000)
    rough = Grid(points, (256, 64)).cells(points).coarser(500)
    within = np.average(rough.variances, 0, rough.counts)
    assert len(rough.counts) > 300 and (within < [0.1, 0.3] * points.var(0)).all()


@pytest.mark.parametrize("constant", [False, True])
def test_coarser_joins_no_cells_across_a_gap(constant):
    rng = np.random.default_rng(0)
    first = np.repeat([-3.0, 0.0, 5.0], 1000) + 0.1 * rng.standard_normal(3000)
    second = np.zeros(3000) if constant else rng.standard_normal(3000)
    rough = single_cells(np.stack([first, second], 1)).coarser(1000)
    assert rough.variances[:, 0].max() < 0.1**2


@given(clouds, shapes, st.integers(1, 4), st.randoms(use_true_random=False))
def test_table_and_spread(points, shape, num_labels, random):
    labels = np.array([random.randrange(num_labels) for _ in points])
    for cells in (Grid(points, shape).cells(points), single_cells(points)):
        members = members_of(cells)
        expected = np.zeros((labels.max() + 1, len(cells.counts)))
        np.add.at(expected, (labels, members), 1)
        assert_allclose(cells.table(labels).toarray(), expected)
        values = np.arange(3.0 * len(cells.counts)).reshape(-1, 3)
        assert_allclose(cells.spread(values), values[members])


def test_single_cells():
    points = blob(7, np.float32)
    cells = single_cells(points)
    assert_allclose(cells.means, points)
    assert cells.means.dtype == np.float64 and cells.members is None
    assert (cells.counts == 1).all() and not cells.variances.any()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pieces_make_no_difference(monkeypatch, order, dtype):
    points = np.asarray(blob(dtype=dtype), order=order)
    kept = points.copy()
    whole = Grid(points, (32, 8)).cells(points)
    monkeypatch.setattr(module, "CHUNK", 37)
    pieces = Grid(points, (32, 8)).cells(points)
    assert (members_of(whole) == members_of(pieces)).all()
    assert_allclose(whole.counts, pieces.counts)
    assert_allclose(whole.means, pieces.means, rtol=1e-4, atol=1e-5)
    assert_allclose(whole.variances, pieces.variances, rtol=1e-3, atol=1e-5)
    assert (points == kept).all()


@pytest.mark.parametrize("offset", [10.0, 1000.0, -1000.0])
def test_single_precision_far_from_zero(offset):
    """Where the difference of two large squares would be nothing but rounding."""
    points = (blob() + offset).astype(np.float32)
    cells = Grid(points, (64, 16)).cells(points)
    members = members_of(cells)
    for cell in np.argsort(-cells.counts)[:20]:
        own = points[members == cell].astype(np.float64)
        assert_allclose(cells.means[cell], own.mean(0), rtol=1e-6)
        assert_allclose(cells.variances[cell], own.var(0), rtol=0.01, atol=1e-5)


def test_points_beyond_the_borders_go_to_the_outermost_cells():
    inner = np.stack([np.linspace(-1, 1, 200), np.linspace(0, 1, 200)], 1)
    far = np.array([[-50.0, -9.0], [1e6, 7.0]])
    cells = Grid(inner, (5, 4)).cells(np.concatenate([inner, far]))
    members = members_of(cells)
    assert members[200] == members[0] == 0
    assert members[201] == members[199] == len(cells.counts) - 1


def test_equal_points_make_one_cell():
    points = np.full((9, 2), 3.25)
    cells = Grid(points, (16, 16)).cells(points)
    assert cells.counts.tolist() == [9] and cells.means.tolist() == [[3.25, 3.25]]
    assert not cells.variances.any()


def test_a_few_far_points_leave_the_middle_its_cells():
    points = blob(2000)
    points[0] = 1e6
    cells = Grid(points, (128, 1)).cells(points)
    assert len(np.unique(members_of(cells))) > 20


@given(clouds, st.integers(1, 6), st.integers(1, 7))
def test_top_of_keeps_the_largest_shares(points, groups, k):
    rng = np.random.default_rng(len(points))
    cells = Grid(points, (3, 3)).cells(points)
    shares = rng.dirichlet(np.ones(groups), len(cells.counts))
    index, kept = top_of(cells, shares, k)
    assert index.dtype == np.int32 and kept.dtype == np.float32
    assert index.shape == kept.shape == (len(points), min(k, groups))
    for own, row, part in zip(shares[members_of(cells)], index, kept):
        largest = np.sort(own)[::-1][:k]
        assert_allclose(own[row], largest)
        assert_allclose(part, largest / largest.sum(), rtol=1e-5)
