# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sympy.combinatorics import Permutation as Reference

from pyro_groupprior.symmetry import num_transpositions, random_transpositions


def _swaps(order: list[int]) -> int:
    """Count by sorting: each swap puts one entry where it belongs."""
    order, count = list(order), 0
    for place in range(len(order)):
        while order[place] != place:
            other = order[place]
            order[place], order[other] = order[other], order[place]
            count += 1
    return count


@given(st.integers(1, 40).flatmap(lambda n: st.permutations(range(n))))
def test_as_many_swaps_as_sorting_takes(order: list[int]) -> None:
    assert int(num_transpositions(torch.tensor(order))) == _swaps(order)
    assert _swaps(order) == len(order) - Reference(order).cycles


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_random_ones_are_as_all_permutations(size: int) -> None:
    every = torch.tensor(list(itertools.permutations(range(size))))
    counts = num_transpositions(every).double()
    mean, sd = random_transpositions(size)
    assert mean == pytest.approx(float(counts.mean()))
    assert sd == pytest.approx(float(counts.std(correction=0)), abs=1e-12)


def test_what_is_no_permutation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"permutation: expected each of 0 to 2 once, got \[0, 0"):
        num_transpositions(torch.tensor([0, 0, 2]))
    with pytest.raises(ValueError, match="size: expected a positive number, got 0"):
        random_transpositions(0)
