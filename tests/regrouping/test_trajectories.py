# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Snapshots in bounded memory, and correlations of what they hold."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_groupprior.regrouping import trajectories as module
from pyro_groupprior.regrouping.trajectories import (
    Trajectories,
    correlation_matrix,
    pair_correlations,
    standardized,
)


def filled(count: int, width: int = 3, sd: bool = False, **options) -> Trajectories:
    store = Trajectories(**options)
    for i in range(count):
        mean = torch.full((width,), float(i))
        store.append(mean, mean + 0.5 if sd else None, step=10 * i)
    return store


@given(count=st.integers(0, 300), limit=st.integers(4, 40))
def test_spread_evenly_over_all_that_was_offered(count, limit):
    store = filled(count, max_snapshots=limit)
    # The smallest power of two whose multiples below the count fit into an even limit.
    stride = 1
    while len(range(0, count, stride)) > limit - limit % 2:
        stride *= 2
    kept = list(range(0, count, stride))
    assert store.steps == [10 * i for i in kept]
    assert len(store) == len(kept) and store.stride == stride and store.num_offered == count
    assert store.means.tolist() == [[float(i)] * 3 for i in kept]


@given(count=st.integers(0, 100))
def test_skipping_what_is_not_due_changes_nothing(count):
    skipping = Trajectories(max_snapshots=4)
    for i in range(count):
        if skipping.is_due:
            assert skipping.append(torch.full((3,), float(i)), step=10 * i)
        else:
            skipping.skip()
    assert skipping.steps == filled(count, max_snapshots=4).steps


def test_skip_refuses_what_is_due():
    with pytest.raises(RuntimeError, match="due"):
        Trajectories().skip()


def test_standard_deviations_go_along():
    store = filled(11, sd=True, max_snapshots=4)
    assert torch.equal(store.sds, store.means + 0.5)
    assert filled(2).sds is None


def test_default_steps_count_what_was_offered():
    store = Trajectories(max_snapshots=4)
    kept = [store.append(torch.zeros(2)) for _ in range(7)]
    assert kept == [True, True, True, True, True, False, True]
    assert store.steps == [0, 2, 4, 6]


def test_snapshots_are_copies_without_gradient():
    mean = torch.zeros(3, requires_grad=True)
    store = Trajectories()
    store.append(mean)
    with torch.no_grad():
        mean += 1
    assert not store.means.requires_grad and (store.means == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("sd", [False, True])
def test_memory_is_bounded(dtype, sd):
    bound = 40_000
    store = filled(50, width=300, sd=sd, max_memory=bound / 2**30, dtype=dtype)
    each = 300 * (2 if sd else 1) * dtype.itemsize
    assert store.means.dtype == dtype
    assert store.num_bytes <= bound
    # No more than it must: the largest even number of snapshots that fits, or the 32 asked for.
    assert store.num_bytes == each * min(32, bound // each // 2 * 2)
    assert store.means.untyped_storage().nbytes() * (2 if sd else 1) == store.num_bytes


def test_refuses_when_four_do_not_fit():
    store = Trajectories(max_memory=1e-6)
    with pytest.raises(ValueError, match=r"max_memory: 4 snapshots of 100 .*1.49e-06 GiB.*float16"):
        store.append(torch.zeros(100))
    assert len(store) == 0 and store.num_offered == 0


def test_clear_starts_anew_in_the_same_memory():
    store = filled(9, max_snapshots=4)
    before = store.num_bytes, store.means.data_ptr()
    store.clear()
    assert len(store) == 0 and store.stride == 1 and store.means.shape == (0, 3)
    store.append(torch.ones(3), step=7)
    assert store.steps == [7] and (store.num_bytes, store.means.data_ptr()) == before


@given(count=st.integers(0, 60), more=st.integers(0, 30), sd=st.booleans())
def test_goes_on_from_its_state(count, more, sd):
    whole = filled(count + more, sd=sd, max_snapshots=8)
    state = {k: v.clone() for k, v in filled(count, sd=sd, max_snapshots=8).state_dict().items()}
    resumed = filled(5, max_snapshots=8)
    resumed.load_state_dict(state)
    for i in range(count, count + more):
        mean = torch.full((3,), float(i))
        resumed.append(mean, mean + 0.5 if sd else None, step=10 * i)
    assert resumed.steps == whole.steps and resumed.stride == whole.stride
    assert torch.equal(resumed.means, whole.means)
    assert (resumed.sds is None) == (whole.sds is None)


def test_a_smaller_store_thins_what_it_loads():
    small = Trajectories(max_snapshots=4, dtype=torch.float16)
    small.load_state_dict(filled(20, max_snapshots=16).state_dict())
    for i in range(20, 30):
        small.append(torch.full((3,), float(i)), step=10 * i)
    expected = filled(30, max_snapshots=4)
    assert small.steps == expected.steps and small.stride == expected.stride
    assert small.means.dtype == torch.float16 and torch.equal(small.means.float(), expected.means)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.pop("steps"), "entries of a state_dict"),
        (lambda s: s.update(steps=torch.arange(3)), "3 steps"),
        (lambda s: s.update(sds=torch.zeros(5, 2)), "got shapes"),
    ],
)
def test_broken_state_changes_nothing(change, match):
    state = filled(5).state_dict()
    change(state)
    store = filled(2)
    with pytest.raises(ValueError, match=match):
        store.load_state_dict(state)
    assert store.steps == [0, 10]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"max_snapshots": 3}, ValueError, "max_snapshots: expected at least 4, got 3"),
        ({"max_memory": 0.0}, ValueError, "max_memory"),
        ({"dtype": torch.int32}, TypeError, "dtype"),
        ({"dtype": "float32"}, TypeError, "dtype"),
    ],
)
def test_bad_options(options, error, match):
    with pytest.raises(error, match=match):
        Trajectories(**options)


@pytest.mark.parametrize(
    ("mean", "sd", "match"),
    [
        (torch.zeros(4), None, r"mean: expected shape \[3\], got \[4\]"),
        (torch.zeros(3, 1), None, r"mean: expected shape \[3\], got \[3, 1\]"),
        (torch.zeros(3), torch.zeros(2), r"sd: expected shape \[3\]"),
        (torch.zeros(3), torch.zeros(3), "sd: expected none"),
        (torch.full((3,), float("nan")), None, "mean: expected numbers that are finite"),
        (torch.full((3,), 1e5), None, "float16"),
    ],
)
def test_bad_snapshots_change_nothing(mean, sd, match):
    store = filled(2, dtype=torch.float16)
    with pytest.raises(ValueError, match=match):
        store.append(mean, sd)
    assert store.steps == [0, 10] and store.num_offered == 2


def test_first_snapshot_must_be_a_vector():
    for bad in (torch.zeros(2, 2), torch.zeros(()), torch.zeros(0)):
        with pytest.raises(ValueError, match="mean: expected shape"):
            Trajectories().append(bad)
    with pytest.raises(ValueError, match="sd: expected as with"):
        filled(2, sd=True).append(torch.zeros(3))


def walks(steps: int, width: int, dtype=torch.float64) -> torch.Tensor:
    scale = 10.0 ** torch.linspace(-6, 3, width, dtype=torch.float64)
    values = torch.randn(steps, width, dtype=torch.float64).cumsum(0) * scale
    return (values + 3 * scale * torch.randn(width, dtype=torch.float64)).to(dtype)


@pytest.fixture(params=[7, 2**18], ids=["pieces", "whole"])
def chunk(request, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", request.param)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("shape", [(2, 4), (12, 30), (200, 5)])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_correlations_are_those_of_numpy(shape, dtype, tol):
    values = walks(*shape, dtype)
    expected = np.corrcoef(values.double().numpy(), rowvar=False)
    np.testing.assert_allclose(correlation_matrix(values), expected, atol=tol)
    rows = standardized(values)
    assert rows.dtype == dtype and rows.shape == (shape[1], shape[0])
    np.testing.assert_allclose(rows @ rows.T, expected, atol=tol)
    np.testing.assert_allclose(rows.sum(1), np.zeros(shape[1]), atol=10 * tol)
    first, second = torch.randint(shape[1], (2, 40))
    pairs = pair_correlations(values, first, second)
    assert pairs.dtype == dtype
    np.testing.assert_allclose(pairs, expected[first, second], atol=tol)


@given(shift=st.floats(-1e3, 1e3), scale=st.floats(1e-3, 1e3), sign=st.sampled_from([-1.0, 1.0]))
def test_shift_and_scale_do_not_matter(shift, scale, sign):
    values = torch.randn(10, 2, dtype=torch.float64)
    moved = torch.stack([values[:, 0] * scale * sign + shift, values[:, 1]], 1)
    zero, one = torch.tensor([0]), torch.tensor([1])
    before, after = (pair_correlations(v, zero, one) for v in (values, moved))
    torch.testing.assert_close(after, sign * before, atol=1e-8, rtol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e8, 1 / 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_weights_that_never_move_correlate_with_nothing(value, dtype):
    value = min(value, torch.finfo(dtype).max)
    values = torch.randn(7, 3).to(dtype)
    values[:, 1] = value
    assert (standardized(values)[1] == 0).all()
    matrix = correlation_matrix(values)
    assert matrix[1].tolist() == [0, 1, 0] and matrix[:, 1].tolist() == [0, 1, 0]
    index = torch.tensor([0, 1])
    assert pair_correlations(values, index, index).tolist() == pytest.approx([1, 0], abs=1e-6)


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e30])
def test_extreme_sizes(size):
    values = torch.randn(6, 4).double()
    expected = np.corrcoef(values, rowvar=False)
    scaled = (values * size).double()
    np.testing.assert_allclose(correlation_matrix(scaled), expected, atol=1e-6)


def test_small_moves_of_large_weights_are_seen():
    moves = torch.randn(30, 6, dtype=torch.float64).mul(64).round() / 2**16
    values = 100 + moves  # exact in float32
    expected = np.corrcoef(values, rowvar=False)
    np.testing.assert_allclose(correlation_matrix(values.float()), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_results_of_low_precision_are_float32(dtype):
    values = walks(9, 4).mul(100).clamp(-1e4, 1e4).to(dtype)
    values[0] += torch.arange(4).to(dtype)
    assert standardized(values).dtype == torch.float32
    index = torch.tensor([1])
    assert pair_correlations(values, index, index).dtype == torch.float32


def test_matrix_is_for_small_nets():
    values = torch.randn(3, 11)
    with pytest.raises(ValueError, match=r"max_weights=10 .*got 11"):
        correlation_matrix(values, max_weights=10)
    assert correlation_matrix(values, max_weights=11).shape == (11, 11)


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.zeros(1, 3), torch.zeros(2, 2, 3)])
def test_bad_trajectories(bad):
    index = torch.tensor([0])
    for use in (standardized, correlation_matrix, lambda t: pair_correlations(t, index, index)):
        with pytest.raises(ValueError, match=r"trajectories: expected shape \[T, W\]"):
            use(bad)


def test_values_and_pairs_are_checked():
    index = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="first, second"):
        pair_correlations(torch.randn(3, 4), index, index[:1])
    with pytest.raises(IndexError):
        pair_correlations(torch.randn(3, 4), index, index + 3)
    with pytest.raises(ValueError, match="finite"):
        standardized(torch.full((3, 4), float("inf")))
