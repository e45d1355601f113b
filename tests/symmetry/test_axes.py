# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

from pyro_groupprior.symmetry.axes import (
    Axis,
    concatenation,
    cut,
    product,
    regroup_factors,
    split,
    unify,
)


def _sizes(axis: Axis) -> list[int]:
    return [leaf.size for leaf in axis.leaves()]


def test_what_is_the_same_is_fixed_together() -> None:
    first, second, third = Axis(4), Axis(4), Axis(4, fixed=True)
    unify(first, second)
    assert first.root is second.root
    assert not first.is_fixed
    unify(second, third)
    assert first.is_fixed


def test_products_are_split_where_others_are() -> None:
    first, second = product([Axis(2), Axis(12)]), product([Axis(6), Axis(4)])
    unify(first, second)
    assert _sizes(first) == _sizes(second) == [2, 3, 4]
    assert list(first.leaves()) == list(second.leaves())


def test_products_that_do_not_fit_are_fixed() -> None:
    first, second = product([Axis(4), Axis(6)]), product([Axis(6), Axis(4)])
    unify(first, second)
    assert first.is_fixed
    assert second.is_fixed


def test_sums_are_cut_where_others_are() -> None:
    first, second = concatenation([Axis(2), Axis(5)]), concatenation([Axis(4), Axis(3)])
    unify(first, second)
    assert _sizes(first) == [2, 2, 3]
    assert list(first.leaves()) == list(second.leaves())


def test_a_sum_of_equal_blocks_is_a_product_with_fixed_order() -> None:
    blocks, rows = Axis(12), Axis(12)
    cut(blocks, [4, 4, 4])
    assert split(rows, 3)
    unify(blocks, rows)
    assert [(leaf.size, leaf.is_fixed) for leaf in rows.leaves()] == [(3, True), (4, False)]
    assert list(blocks.leaves()) == list(rows.leaves())


def test_a_product_that_is_sliced_keeps_what_is_in_its_rows() -> None:
    rows = product([Axis(3), Axis(4)])
    cut(rows, [4, 8])
    assert _sizes(rows) == [4, 4, 4]
    assert len(set(rows.leaves())) == 1
    other = product([Axis(3), Axis(4)])
    cut(other, [5, 7])
    assert other.is_fixed


def test_views_split_and_join() -> None:
    channels, places = Axis(6), Axis(4, fixed=True)
    (flat,) = regroup_factors([channels, places], [24])
    heads, rest = regroup_factors([flat], [2, 12])
    assert _sizes(channels) == [2, 3]
    assert list(heads.leaves()) == [next(channels.leaves())]
    assert [(leaf.size, leaf.is_fixed) for leaf in rest.leaves()] == [(3, False), (4, True)]


def test_views_that_break_up_an_axis_fix_it() -> None:
    channels = Axis(6)
    first, second = regroup_factors([channels, Axis(4)], [4, 6])
    assert first.is_fixed
    assert second.is_fixed
    assert channels.is_fixed


def test_what_is_the_same_everywhere_ties_nothing() -> None:
    first, second, zero = Axis(4), Axis(4), Axis(4, uniform=True)
    unify(first, zero)
    unify(zero, second)
    assert first.root is not second.root
    assert split(zero, 2)
    assert zero.is_uniform
