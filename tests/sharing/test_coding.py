# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The range coder gives back what it was given, in about as many bits as the entropy."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pyro_groupprior.sharing.coding import Decoder, Encoder


@given(arrays(np.int64, st.integers(0, 300), elements=st.integers(0, 40)), st.integers(0, 5))
def test_symbols_come_back(values, more):
    counts = np.bincount(values, minlength=41 + more)
    encoder = Encoder()
    encoder.symbols(values, counts)
    assert np.array_equal(Decoder(encoder.words()).symbols(len(values), counts), values)


@given(arrays(bool, st.tuples(st.integers(0, 12), st.integers(1, 12))))
def test_masks_come_back(values):
    encoder = Encoder()
    encoder.mask(values)
    share = np.count_nonzero(values) / max(values.size, 1)
    assert np.array_equal(Decoder(encoder.words()).mask(values.shape, share), values)


@given(st.lists(st.integers(0, 2**31 - 1), max_size=20))
def test_numbers_come_back(values):
    encoder = Encoder()
    encoder.numbers(np.array(values, np.int64))
    assert Decoder(encoder.words()).numbers(len(values)).tolist() == values


def test_different_things_one_after_the_other():
    rng = np.random.default_rng(0)
    symbols, mask, bits = rng.integers(5, size=50), rng.random((8, 9)) < 0.2, rng.random(30) < 0.5
    counts = np.bincount(symbols, minlength=5)
    encoder = Encoder()
    encoder.symbols(symbols, counts)
    encoder.mask(mask)
    encoder.bits(bits, np.full(30, 0.3))
    encoder.numbers(np.array([7]))
    decoder = Decoder(encoder.words())
    assert np.array_equal(decoder.symbols(50, counts), symbols)
    assert np.array_equal(decoder.mask((8, 9), np.count_nonzero(mask) / 72), mask)
    assert np.array_equal(decoder.bits(np.full(30, 0.3)), bits)
    assert decoder.numbers(1).tolist() == [7]


def test_bytes_are_near_the_entropy():
    rng = np.random.default_rng(0)
    shares = np.array([0.6, 0.25, 0.1, 0.05])
    values = rng.choice(4, p=shares, size=20_000)
    counts = np.bincount(values)
    encoder = Encoder()
    encoder.symbols(values, counts)
    entropy = -(counts * np.log2(counts / counts.sum())).sum()
    assert entropy <= 32 * len(encoder.words()) < 1.001 * entropy + 64


def test_rows_and_columns_that_differ_save_bytes():
    """Against what the rows' and columns' own rates, if they were known, would take."""
    rng = np.random.default_rng(0)
    rates = np.minimum(rng.gamma(0.3, size=(200, 1)) * rng.gamma(0.3, size=300), 0.9)
    mask = rng.random((200, 300)) < rates
    encoder = Encoder()
    encoder.mask(mask)
    bits = 32 * len(encoder.words())
    share = mask.mean()
    plain = -mask.size * (share * np.log2(share) + (1 - share) * np.log2(1 - share))
    known = -np.log2(np.where(mask, rates, 1 - rates)).sum()
    assert bits < 0.75 * plain
    assert bits < 1.35 * known


def test_masks_that_are_even_cost_no_more_than_their_entropy():
    """Columns that are all alike need not be told apart, however few rows there are."""
    mask = np.random.default_rng(0).random((40, 500)) < 0.05
    encoder = Encoder()
    encoder.mask(mask)
    share = mask.mean()
    plain = -mask.size * (share * np.log2(share) + (1 - share) * np.log2(1 - share))
    # Each of the rows says besides which power of 2 it is nearest to.
    assert 32 * len(encoder.words()) < 1.04 * plain + 40


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(ImportError, match=r"pyro_groupprior\[sharing\]"):
        Encoder()
