# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the value type of groupings and of its buffer."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_groupprior import Assignment

HARD = Assignment(torch.tensor([0, 2, 1, 2]), num_groups=4)
SOFT = Assignment(
    torch.tensor([[0, 1], [2, 0], [1, 1], [2, 1]]),
    responsibilities=torch.tensor([[0.75, 0.25], [1.0, 0.0], [0.5, 0.5], [0.5, 0.5]]),
)


@st.composite
def assignments(draw, num_weights=None, soft=None):
    """Any assignment; slots of a soft one may name a group twice, as after merging groups."""
    num_weights = num_weights or draw(st.integers(1, 8))
    num_groups = draw(st.integers(1, 5))
    slots = draw(st.integers(1, 4))
    indices = st.integers(0, num_groups - 1)
    if not (draw(st.booleans()) if soft is None else soft):
        index = draw(st.lists(indices, min_size=num_weights, max_size=num_weights))
        return Assignment(torch.tensor(index), num_groups)
    size = num_weights * slots
    index = draw(st.lists(indices, min_size=size, max_size=size))
    # Small integers make ties and zeros common.
    shares = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    shares = torch.tensor(shares, dtype=torch.double).reshape(num_weights, slots)
    shares[shares.sum(1) == 0] = 1.0
    shares = shares / shares.sum(1, keepdim=True)
    return Assignment(torch.tensor(index).reshape(num_weights, slots), num_groups, shares)


@st.composite
def pairs(draw):
    first = draw(assignments())
    return first, draw(assignments(num_weights=first.num_weights))


def dense_by_hand(assignment):
    """Responsibilities as a numpy matrix, one entry at a time."""
    full = np.zeros((assignment.num_weights, assignment.num_groups))
    index = assignment.index.reshape(assignment.num_weights, -1)
    for row, slot in np.ndindex(*index.shape):
        share = assignment.responsibilities[row, slot] if assignment.is_soft else 1.0
        full[row, index[row, slot]] += float(share)
    return full


@given(assignments())
def test_sizes_and_dense_rows_agree_with_a_count_by_hand(assignment):
    truth = dense_by_hand(assignment)
    np.testing.assert_allclose(assignment.dense(), truth, atol=1e-12)
    np.testing.assert_allclose(assignment.dense().sum(1), 1.0, atol=1e-6)
    sizes = assignment.sizes()
    assert sizes.shape == (assignment.num_groups,) and sizes.dtype == torch.double
    np.testing.assert_allclose(sizes, truth.sum(0), atol=1e-9)
    assert sizes.sum().item() == pytest.approx(assignment.num_weights)


@given(pairs())
def test_churn_is_the_mean_total_variation_distance(pair):
    first, second = pair
    width = max(first.num_groups, second.num_groups)
    full = [
        np.pad(dense_by_hand(one), ((0, 0), (0, width - one.num_groups))) for one in (first, second)
    ]
    expected = 0.5 * np.abs(full[0] - full[1]).sum(1).mean()
    assert first.churn(second) == pytest.approx(expected, abs=1e-6)
    assert second.churn(first) == pytest.approx(first.churn(second), abs=1e-6)
    assert 0 <= first.churn(second) <= 1 + 1e-6
    assert first.churn(first) == pytest.approx(0.0, abs=1e-6)


@given(assignments())
def test_hard_takes_the_most_probable_group(assignment):
    hard = assignment.hard()
    dense = assignment.dense()
    assert not hard.is_soft and hard.num_groups == assignment.num_groups
    # Ties go to the lowest group; torch.argmax leaves them open, numpy takes the first.
    assert hard.index.tolist() == dense.numpy().argmax(1).tolist()
    assert hard.hard() is hard


@given(assignments(), st.randoms(use_true_random=False))
def test_relabelling_there_and_back_gives_the_same_value(assignment, random):
    labels = list(range(assignment.num_groups))
    random.shuffle(labels)
    labels = torch.tensor(labels)
    there = assignment.relabel(labels, assignment.num_groups)
    assert torch.equal(there.sizes()[labels], assignment.sizes())
    assert there.relabel(labels.argsort(), assignment.num_groups) == assignment


def test_merging_groups_adds_their_shares():
    shares = torch.tensor([[0.3, 0.4, 0.3]])
    merged = Assignment(torch.tensor([[0, 1, 2]]), responsibilities=shares).relabel(
        torch.tensor([0, 1, 0])
    )
    assert merged.num_groups == 2
    torch.testing.assert_close(merged.dense(), torch.tensor([[0.6, 0.4]]))
    assert merged.hard().index.tolist() == [0]


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 1000), st.data())
def test_from_dense_keeps_the_largest_entries(num_weights, num_groups, seed, data):
    top_k = data.draw(st.integers(1, num_groups))
    dense = np.random.default_rng(seed).dirichlet(np.ones(num_groups), size=num_weights)
    expected = np.where(dense >= np.sort(dense, 1)[:, [-top_k]], dense, 0.0)
    expected /= expected.sum(1, keepdims=True)
    assignment = Assignment.from_dense(dense, top_k)
    assert assignment.index.shape == (num_weights, top_k)
    assert assignment.num_groups == num_groups
    np.testing.assert_allclose(assignment.dense(), expected, atol=1e-12)


@given(assignments(), assignments())
def test_equality_is_by_value(first, second):
    rebuilt = Assignment(first.index.long(), first.num_groups, first.responsibilities)
    assert rebuilt == first
    parts = [
        (one.num_groups, one.index.tolist(), one.is_soft and one.responsibilities.tolist())
        for one in (first, second)
    ]
    assert (first == second) == (parts[0] == parts[1])


def test_equality_with_other_types_and_hash():
    assert HARD != [0, 2, 1, 2]
    assert Assignment(torch.tensor([0, 1])) != Assignment(torch.tensor([0, 1]), num_groups=3)
    assert Assignment(HARD.index, 4).relabel(torch.arange(4), 5) != HARD
    with pytest.raises(TypeError, match="unhashable"):
        hash(HARD)


def test_writing_to_the_callers_tensors_changes_nothing():
    index = torch.tensor([[0, 1], [1, 0]], dtype=torch.int32)
    shares = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    labels = torch.tensor([1, 0])
    assignment = Assignment(index, responsibilities=shares)
    relabelled = assignment.relabel(labels)
    before = copy.deepcopy((assignment.dense(), relabelled.dense()))
    index.zero_(), shares.fill_(9.0), labels.zero_()
    assert torch.equal(assignment.dense(), before[0])
    assert torch.equal(relabelled.dense(), before[1])
    with pytest.raises(AttributeError):
        assignment.index = index


def test_description():
    assert repr(HARD) == "Assignment(hard, num_weights=4, num_groups=4)"
    assert repr(SOFT) == "Assignment(soft, top 2, num_weights=4, num_groups=3)"
    assert HARD.index.dtype == torch.int32 and HARD.responsibilities is None


@pytest.mark.parametrize("assignment", [HARD, SOFT])
def test_to_moves_all_parts(assignment):
    assert assignment.to("cpu") is assignment
    moved = assignment.to("meta")
    assert moved.device.type == moved.index.device.type == "meta"
    assert moved.num_groups == assignment.num_groups
    assert not moved.is_soft or moved.responsibilities.device.type == "meta"


SHARES = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
SLOTS = torch.tensor([[0, 1], [1, 0]])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.tensor([0, -1]),), ValueError, r"index: expected values in \[0, 1\), got -1"),
        ((torch.tensor([0, 3]), 3), ValueError, r"index: expected values in \[0, 3\), got 3"),
        ((torch.tensor([0, 0]), 0), ValueError, r"index: expected values in \[0, 0\)"),
        ((torch.tensor([0.0, 1.0]),), TypeError, "index: expected an integer tensor.*float32"),
        ((torch.tensor([True]),), TypeError, "index: expected an integer tensor.*bool"),
        ((torch.tensor([1j]),), TypeError, "index: expected an integer tensor.*complex"),
        ((torch.tensor(0),), ValueError, r"index: expected shape \[W\]"),
        ((SLOTS,), ValueError, r"index: expected shape \[W\]"),
        ((torch.tensor([], dtype=torch.long),), ValueError, "index: expected at least one"),
        ((torch.tensor([0, 1]), 2, SHARES), ValueError, r"index: expected shape \[W, k\]"),
        ((SLOTS, 2, SHARES[:1]), ValueError, "responsibilities: expected the shape of index"),
        ((SLOTS, 2, SHARES[:, :1]), ValueError, "responsibilities: expected the shape of index"),
        ((SLOTS, 2, SLOTS), TypeError, "responsibilities: expected a floating-point tensor"),
        ((SLOTS, 2, SHARES + 1e-3), ValueError, "responsibilities: .*sum to 1, got 1.002 in row"),
        ((SLOTS, 2, SHARES * torch.nan), ValueError, "responsibilities: .*negative or NaN"),
        ((SLOTS, 2, torch.tensor([[1.5, -0.5]] * 2)), ValueError, "responsibilities: .*negative"),
        ((SLOTS, 2, SHARES + torch.inf), ValueError, "responsibilities: .*sum to 1, got inf"),
    ],
)
def test_bad_parts_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Assignment(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((SHARES[0],), ValueError, r"responsibilities: expected shape \[W, G\]"),
        ((SHARES, 0), ValueError, r"top_k: expected a value in \[1, 2\], got 0"),
        ((SHARES, 3), ValueError, r"top_k: expected a value in \[1, 2\], got 3"),
        ((SHARES * 0.9,), ValueError, "responsibilities: expected rows that sum to 1"),
        ((-SHARES,), ValueError, "responsibilities: expected non-negative"),
        ((SLOTS,), TypeError, "responsibilities: expected a floating-point tensor"),
    ],
)
def test_from_dense_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        Assignment.from_dense(*arguments)


def test_methods_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="other: expected 4 weights, got 2"):
        HARD.churn(Assignment(torch.tensor([0, 1])))
    with pytest.raises(ValueError, match=r"labels: expected shape \[4\]"):
        HARD.relabel(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"labels: expected values in \[0, 1\)"):
        HARD.relabel(torch.tensor([0, -1, 0, 0]))
    with pytest.raises(TypeError, match="labels: expected an integer"):
        HARD.relabel(torch.tensor([0.0, 1.0, 0.0, 0.0]))


@pytest.mark.parametrize("num_groups", [2.5, 3.0, "3", torch.tensor(3.0)])
def test_a_number_of_groups_is_an_integer(num_groups):
    with pytest.raises(TypeError, match="num_groups: expected an integer, got"):
        Assignment(torch.tensor([0, 1, 2]), num_groups=num_groups)


@pytest.mark.parametrize("num_groups", [3, np.int64(3), torch.tensor(3)])
def test_integers_of_other_libraries_are_numbers_of_groups(num_groups):
    found = Assignment(torch.tensor([0, 1, 2]), num_groups=num_groups).num_groups
    assert type(found) is int and found == 3
