# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Mergers keep moments, and stop where they are told to."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_groupprior import Layout
from pyro_groupprior.sharing import (
    Blend,
    Codebook,
    merge_codebook,
    merge_to_size,
    merge_while,
    save_codebook,
)


def random_codebook(seed, num_entries=9, num_weights=200):
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(num_entries, (num_weights,), generator=generator).int()
    loc = torch.randn(num_entries, generator=generator, dtype=torch.double)
    scale = torch.rand(num_entries, generator=generator, dtype=torch.double) + 0.01
    layout = Layout([("w", torch.Size([num_weights]))])
    return Codebook(layout, torch.ones(1), loc, scale, index)


def total_moments(book):
    loc, scale = book.moments()
    return loc.mean(), (scale.square() + (loc - loc.mean()).square()).mean()


@given(st.integers(0, 99), st.integers(1, 9))
def test_mean_and_variance_of_any_weight_stay(seed, num_entries):
    book = random_codebook(seed)
    merged = merge_codebook(book, num_entries=num_entries)
    assert merged.num_entries == num_entries
    torch.testing.assert_close(total_moments(merged), total_moments(book))
    # Weights that were together still are.
    for entry in range(book.num_entries):
        assert len(merged.index[book.index == entry].unique()) <= 1


def test_tables_and_pruned_weights_stay_apart():
    layout = Layout([("a", torch.Size([3])), ("b", torch.Size([3]))])
    book = Codebook(
        layout,
        torch.ones(2),
        loc=torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0]),
        scale=torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0]),
        index=torch.tensor([0, 1, 2, 3, 4, 0], dtype=torch.int32),
        tables=((1, 3), (3, 5)),
    )
    merged = merge_codebook(book, max_distance=10.0)
    assert merged.index.tolist() == [0, 1, 1, 2, 2, 0]
    assert merged.tables == ((1, 2), (2, 3))
    assert merged.loc.tolist() == [0.0, 0.5, 0.5]
    assert not bool(merged.kept[[0, 5]].any())


def test_blends_within_one_entry_end():
    book = random_codebook(0)
    places = torch.tensor([3, 5])
    second = (book.index[places] + 1) % 9
    blended = Codebook(
        book.layout, book.unit, book.loc, book.scale, book.index,
        blend=Blend(places, second.int(), torch.tensor([0.5, 0.25])),
    )  # fmt: skip
    assert len(merge_codebook(blended, num_entries=1).blend.places) == 0
    assert len(merge_codebook(blended, num_entries=9).blend.places) == 2


def test_merges_while_something_holds():
    book = random_codebook(1)
    merged = merge_while(book, lambda found: found.num_entries >= 4)
    every = (merge_codebook(book, max_distance=0.002 * step).num_entries for step in range(2000))
    assert merged.num_entries == min(number for number in every if number >= 4)
    assert merge_while(book, lambda found: False) is book


def test_an_entry_far_away_does_not_matter():
    book = random_codebook(0, 16)
    far = torch.cat([book.loc, torch.tensor([5000.0], dtype=torch.double)])
    index = book.index.clone()
    index[0] = 16
    scale = torch.cat([book.scale, book.scale[:1]])
    book = Codebook(book.layout, book.unit, far, scale, index)
    asked = []

    def holds(found):
        asked.append(found.num_entries)
        return found.num_entries >= 14

    merged = merge_while(book, holds)
    assert merged.num_entries == 14
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_merges_as_far_as_a_number_of_bytes_asks_for(tmp_path, dtype):
    book = random_codebook(1, 40, 2000)
    sizes = {}
    for num_bytes in (1500, 1200, 900):
        merged = merge_to_size(book, num_bytes, dtype)
        save_codebook(tmp_path / "book", merged, dtype=dtype)
        sizes[merged.num_entries] = (tmp_path / "book").stat().st_size
        assert sizes[merged.num_entries] <= num_bytes
        more = merge_codebook(book, num_entries=merged.num_entries + 1)
        save_codebook(tmp_path / "more", more, dtype=dtype)
        assert (tmp_path / "more").stat().st_size > num_bytes
    assert len(sizes) == 3
    assert merge_to_size(book, 10**6, dtype) is book
    with pytest.raises(ValueError, match=r"num_bytes: expected at least \d+, got 10"):
        merge_to_size(book, 10, dtype)


def test_refuses_no_criterion():
    with pytest.raises(ValueError, match="max_distance, n_components: expected at least one"):
        merge_codebook(random_codebook(0))


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_pruned_weights_stay_so_wherever_their_entry_is(zero):
    loc, scale = torch.tensor([1.0, 5.0, 5.1]), torch.ones(3)
    loc[zero], scale[zero] = 0.0, 0.0
    layout = Layout([("w", torch.Size([4]))])
    book = Codebook(layout, torch.ones(1), loc, scale, torch.tensor([0, 1, 2, zero]).int())
    merged = merge_codebook(book, max_distance=0.01)
    for found, expected in zip(merged.moments(), book.moments(), strict=True):
        torch.testing.assert_close(found, expected)
    assert torch.equal(merged.kept, book.kept)
