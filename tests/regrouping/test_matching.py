# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Matching of groups, against all ways of naming them."""

from collections import Counter
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_groupprior import Assignment, match_groups
from pyro_groupprior.regrouping import flows


@st.composite
def two_groupings(draw):
    size = draw(st.integers(1, 12))
    sides = []
    for _ in range(2):
        groups = draw(st.integers(1, 5))
        index = draw(st.lists(st.integers(0, groups - 1), min_size=size, max_size=size))
        sides.append(Assignment(torch.tensor(index), groups))
    return sides


def best_overlap(old: Assignment, new: Assignment) -> int:
    """Most weights that can keep the name of their group, over all ways of naming the groups."""
    count = max(old.num_groups, new.num_groups)
    return max(
        int((torch.tensor(names)[new.index.long()] == old.index).sum())
        for names in permutations(range(count), new.num_groups)
    )


@given(two_groupings())
def test_no_naming_keeps_more_weights(groupings):
    old, new = groupings
    matched, source = match_groups(old, new)
    kept = source[matched.index.long()] == old.index
    assert int(kept.sum()) == best_overlap(old, new)


@given(two_groupings())
def test_result_is_a_renaming_in_order(groupings):
    old, new = groupings
    matched, source = match_groups(old, new)
    pairs = set(zip(new.index.tolist(), matched.index.tolist()))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert matched.num_groups == new.num_groups == len(source)
    assert source.dtype == torch.int64
    continued = source[source >= 0].tolist()
    assert continued == sorted(set(continued))
    assert source.tolist() == continued + [-1] * (len(source) - len(continued))
    for group, name in enumerate(continued):  # none without a weight in common
        assert bool(((matched.index == group) & (old.index == name)).any())


@given(two_groupings())
def test_flows_are_counts_of_pairs(groupings):
    old, new = groupings
    pairs = Counter(zip(old.index.tolist(), new.index.tolist()))
    assert flows(old, new) == tuple((a, b, float(n)) for (a, b), n in sorted(pairs.items()))


@given(two_groupings(), st.randoms(use_true_random=False))
def test_planted_permutation_is_undone(groupings, random):
    index = torch.unique(groupings[0].index, return_inverse=True)[1]  # no empty group
    old = Assignment(index)
    labels = list(range(old.num_groups))
    random.shuffle(labels)
    matched, source = match_groups(old, old.relabel(torch.tensor(labels)))
    assert matched == old
    assert source.tolist() == list(range(old.num_groups))


def test_soft_assignments_keep_their_responsibilities():
    shares = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    new = Assignment(torch.tensor([[2, 0], [2, 1], [0, 2], [0, 1]]), 3, shares)
    old = Assignment(torch.tensor([[0, 1], [0, 1], [1, 0], [1, 0]]), 2, shares)
    matched, source = match_groups(old, new)
    assert source.tolist() == [0, 1, -1]
    assert matched.index.tolist() == [[0, 1], [0, 2], [1, 0], [1, 2]]
    assert torch.equal(matched.responsibilities, shares)


def test_empty_groups_continue_nothing():
    old = Assignment(torch.tensor([0, 0, 3]), 5)
    matched, source = match_groups(old, Assignment(torch.tensor([1, 1, 4]), 5))
    assert source.tolist() == [0, 3, -1, -1, -1]
    assert matched.index.tolist() == [0, 0, 1] and matched.num_groups == 5


def test_other_weights_are_refused():
    with pytest.raises(ValueError, match="new: expected 2 weights, got 3"):
        match_groups(Assignment(torch.tensor([0, 1])), Assignment(torch.tensor([0, 1, 1])))
