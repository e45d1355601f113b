# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""How alike groupings are, against scikit-learn; soft assignments in pieces, against matrices."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import contingency_matrix

from pyro_groupprior import Assignment, adjusted_rand_index, assignment_cost
from pyro_groupprior import assignment as module
from pyro_groupprior.regrouping import contingency
from pyro_groupprior.regrouping.agreement import _sum_xlogx, rand_index_of

labels = st.integers(1, 30).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 4), min_size=n, max_size=n)] * 2)
)


@st.composite
def soft_assignments(draw, size=None, groups=None, slots=None):
    """At random; a weight's slots may name the same group, and may be empty."""
    size = draw(st.integers(1, 12)) if size is None else size
    groups = draw(st.integers(1, 5)) if groups is None else groups
    slots = draw(st.integers(1, 4)) if slots is None else slots
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    shares = torch.rand(size, slots, generator=rng, dtype=torch.float64) + 1e-9
    shares[:, 1:] *= torch.rand(size, slots - 1, generator=rng) > 0.3
    index = torch.randint(0, groups, (size, slots), generator=rng)
    return Assignment(index, groups, shares / shares.sum(1, keepdim=True))


@st.composite
def pairs_of_soft(draw):
    size, groups = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    return draw(soft_assignments(size, groups)), draw(soft_assignments(size, groups))


@given(labels)
def test_adjusted_rand_index_is_scikit_learns(pair):
    one, two = (Assignment(torch.tensor(side), 5) for side in pair)
    expected = adjusted_rand_score(*pair)
    assert adjusted_rand_index(one, two) == pytest.approx(expected, abs=1e-12)
    assert adjusted_rand_index(two, one) == pytest.approx(expected, abs=1e-12)


@given(labels, st.permutations(list(range(5))))
def test_names_of_the_groups_are_moot(pair, names):
    one, two = (Assignment(torch.tensor(side), 5) for side in pair)
    renamed = two.relabel(torch.tensor(names))
    assert adjusted_rand_index(one, renamed) == pytest.approx(adjusted_rand_index(one, two))
    assert adjusted_rand_index(two, renamed) == 1.0
    assert assignment_cost(renamed) == pytest.approx(assignment_cost(two))


@given(labels)
def test_contingency_is_scikit_learns(pair):
    one, two = (Assignment(torch.tensor(side), 5) for side in pair)
    counts = contingency(one, two)
    assert counts.dtype == torch.int64 and counts.shape == (5, 5)
    used = counts[counts.sum(1) > 0][:, counts.sum(0) > 0]
    np.testing.assert_array_equal(used, contingency_matrix(*pair))
    assert rand_index_of(counts) == adjusted_rand_index(one, two)


@given(pairs_of_soft())
def test_soft_groupings_go_by_their_most_probable_groups(pair):
    one, two = pair
    top = [side.dense().argmax(1).numpy() for side in pair]
    assert adjusted_rand_index(one, two) == pytest.approx(adjusted_rand_score(*top), abs=1e-12)


def test_other_weights_are_refused():
    one, two = Assignment(torch.zeros(3, dtype=torch.long)), Assignment(torch.tensor([0]))
    for function in (contingency, adjusted_rand_index):
        with pytest.raises(ValueError, match="second: expected 3 weights, got 1"):
            function(one, two)


@given(labels)
def test_cost_of_hard_groups_is_their_entropy(pair):
    shares = np.bincount(pair[0]) / len(pair[0])
    expected = len(pair[0]) * stats.entropy(shares)
    assert assignment_cost(Assignment(torch.tensor(pair[0]), 7)) == pytest.approx(expected)


def test_cost_in_closed_form():
    assert assignment_cost(Assignment(torch.zeros(9, dtype=torch.long))) == 0
    assert assignment_cost(Assignment(torch.arange(8))) == pytest.approx(8 * math.log(8))
    even = Assignment(torch.tensor([[0, 1]] * 6), 2, torch.full((6, 2), 0.5))
    assert assignment_cost(even) == pytest.approx(0, abs=1e-6)


@given(st.integers(1, 10), st.integers(2, 5), st.integers(0, 10**6))
def test_cost_of_soft_groups_is_a_divergence(size, groups, seed):
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(groups, 0.5), size)
    expected = sum(stats.entropy(row, shares.mean(0)) for row in shares)
    soft = Assignment.from_dense(torch.tensor(shares))
    assert assignment_cost(soft) == pytest.approx(expected, abs=1e-6)
    assert assignment_cost(soft) >= -1e-9


def test_cost_in_pieces():
    values = torch.rand(1000)
    assert _sum_xlogx(values, 7) == pytest.approx(_sum_xlogx(values))


@given(soft_assignments(), st.sampled_from([1, 3, 2**18]))
def test_sizes_and_hard_in_pieces(assignment, chunk):
    dense = assignment.dense()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        sizes, hard = assignment.sizes(), assignment.hard()
    torch.testing.assert_close(sizes, dense.sum(0).double())
    best = dense.gather(1, hard.index.long().unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(best, dense.amax(1))
    assert hard.num_groups == assignment.num_groups and not hard.is_soft


@given(pairs_of_soft(), st.sampled_from([1, 3, 2**18]))
def test_churn_is_the_distance_of_the_matrices(pair, chunk):
    one, two = pair
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        found = [one.churn(two), two.churn(one), one.churn(two.hard()), one.churn(one)]
    expected = (one.dense() - two.dense()).abs().sum(1).mean().item() / 2
    against = (one.dense() - two.hard().dense()).abs().sum(1).mean().item() / 2
    assert found == pytest.approx([expected, expected, against, 0.0], abs=1e-6)


@given(soft_assignments(groups=4), st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_relabel_moves_the_columns(assignment, names):
    """Also where groups are merged, so that slots come to name the same one."""
    found = assignment.relabel(torch.tensor(names), 4)
    expected = torch.zeros_like(assignment.dense())
    for group, name in enumerate(names):
        expected[:, name] += assignment.dense()[:, group]
    torch.testing.assert_close(found.dense(), expected)
    torch.testing.assert_close(found.sizes(), expected.sum(0).double())
    best = expected.gather(1, found.hard().index.long().unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(best, expected.amax(1))
