# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Codebooks in files: exact, small, and refused with a clear error where something is wrong."""

import hashlib
import json
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_groupprior import Layout
from pyro_groupprior.comparison import WeightMoments
from pyro_groupprior.sharing import load_codebook, make_codebook, save_codebook
from pyro_groupprior.sharing.container import FIXED, MAGIC, read_container, write_container

LAYOUT = Layout(
    [("a", torch.Size([20, 30])), ("b", torch.Size([20])), ("c", torch.Size([4, 3, 2, 2]))],
    {"a": ("tied",)},
)


def codebook(seed=0, keep_share=0.5, **options):
    generator = torch.Generator().manual_seed(seed)
    size = LAYOUT.num_weights
    mean, sd = torch.randn(size, generator=generator), torch.rand(size, generator=generator) + 0.1
    keep = torch.rand(size, generator=generator) < keep_share
    return make_codebook(LAYOUT, WeightMoments(mean, sd), 6, keep=keep, **options)


def assert_same(one, other):
    assert torch.equal(one.index[one.kept], other.index[other.kept]) or len(one.outliers.places)
    assert one.tables == other.tables
    for first, second in zip(one.moments(), other.moments(), strict=True):
        assert torch.equal(first, second)
    for first, second in zip(one.blend, other.blend, strict=True):
        assert torch.equal(first, second)
    assert [(e.name, e.shape, e.aliases) for e in other.layout] == [
        (e.name, e.shape, e.aliases) for e in one.layout
    ]


@given(
    st.integers(0, 5),
    st.sampled_from([0.0, 0.03, 0.5, 1.0]),
    st.sampled_from([{}, {"blend": 0.3, "outliers": 0.1}, {"scope": "global", "blend": 1.0}]),
)
def test_come_back(tmp_path_factory, seed, keep_share, options):
    book = codebook(seed, keep_share, **options)
    path = tmp_path_factory.mktemp("files") / "book"
    sizes = save_codebook(path, book)
    assert sum(sizes.values()) == path.stat().st_size
    again, dense = load_codebook(path)
    assert_same(book, again)
    assert dense == {}


def test_dense_tensors_come_back(tmp_path):
    dense = {
        "running_mean": torch.randn(3),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "double": torch.randn(2, 2, dtype=torch.double),
    }
    save_codebook(tmp_path / "book", codebook(), dense)
    _, found = load_codebook(tmp_path / "book")
    assert found.keys() == dense.keys()
    for name, value in dense.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


def test_half_precision(tmp_path):
    book = codebook()
    one = save_codebook(tmp_path / "one", book)
    half = save_codebook(tmp_path / "half", book, dtype=torch.float16)
    assert half["entries"] < one["entries"]
    again, _ = load_codebook(tmp_path / "half")
    torch.testing.assert_close(again.moments()[0], book.moments()[0], rtol=2e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r"dtype: expected torch\.float32"):
        save_codebook(tmp_path / "other", book, dtype=torch.float64)
    numbers = book.loc, book.scale * 1e-9, book.outliers.loc, book.outliers.scale
    with pytest.raises(ValueError, match="dtype: scale has numbers too large or too small"):
        save_codebook(tmp_path / "other", book.with_numbers(*numbers), dtype=torch.float16)
    assert not (tmp_path / "other").exists()


def test_pruned_weights_cost_next_to_nothing(tmp_path):
    layout = Layout([("w", torch.Size([300, 1000]))])
    keep = torch.zeros(300, 1000, dtype=torch.bool)
    keep[:30, :100] = True  # whole rows and columns are empty
    moments = WeightMoments(torch.randn(300_000), torch.ones(300_000))
    book = make_codebook(layout, moments, 2, keep=keep.flatten())
    sizes = save_codebook(tmp_path / "book", book)
    assert sizes["pruned"] < 400
    assert sizes["index"] <= 3000 / 8 + 8


@given(st.data())
def test_every_flipped_bit_is_told(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("files") / "book"
    save_codebook(path, codebook())
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"path: .*(damaged|no file of a shared)"):
        load_codebook(path)


@given(st.floats(0, 0.999))
def test_a_cut_file_is_told(tmp_path_factory, share):
    path = tmp_path_factory.mktemp("files") / "book"
    save_codebook(path, codebook())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"path: .*(damaged|no file of a shared)"):
        load_codebook(path)


def test_refuses_what_is_not_there_or_of_another_version(tmp_path):
    with pytest.raises(FileNotFoundError, match="path: there is no file"):
        load_codebook(tmp_path / "none")
    save_codebook(tmp_path / "book", codebook())
    body = bytearray((tmp_path / "book").read_bytes()[:-16])
    body[4] = 9
    (tmp_path / "book").write_bytes(body + hashlib.sha256(body).digest()[:16])
    with pytest.raises(ValueError, match="has version 9, this release reads 1"):
        load_codebook(tmp_path / "book")


def rewritten(path, change):
    """Change the notes of a file, with a checksum that fits."""
    notes, arrays, _ = read_container(path)
    change(notes, arrays)
    write_container(path, notes, arrays)


@pytest.mark.parametrize(
    "change",
    [
        lambda notes, arrays: notes["layout"][0].__setitem__(1, [2**40, 2**20]),
        lambda notes, arrays: notes["layout"][0].__setitem__(1, [-5, 2]),
        lambda notes, arrays: notes["layout"][0].__setitem__(1, [20, 31]),
        lambda notes, arrays: notes["layout"][0].__setitem__(1, "many"),
        lambda notes, arrays: notes["histograms"][0].__setitem__(0, 10**18),
        lambda notes, arrays: notes["histograms"].__setitem__(0, [0, 0]),
        lambda notes, arrays: notes["histograms"].__setitem__(0, [1] * 10**5),
        lambda notes, arrays: notes["tables"].__setitem__(0, [0, 10**9]),
        lambda notes, arrays: notes["tables"].__setitem__(0, [1, 2]),
        lambda notes, arrays: notes.pop("tables"),
        lambda notes, arrays: arrays.pop("loc"),
        lambda notes, arrays: arrays.pop("coded"),
        lambda notes, arrays: arrays.__setitem__("loc", arrays["loc"] * np.float32(np.nan)),
        lambda notes, arrays: arrays.__setitem__("scale", -arrays["scale"]),
    ],
)
def test_refuses_files_that_lie_without_a_large_allocation(tmp_path, change):
    path = tmp_path / "book"
    save_codebook(path, codebook())
    rewritten(path, change)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"path: .* is damaged or malicious"):
        load_codebook(path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "listed", [[["x", "<f4", [2**40]]], [["x", "<f4", [-1]]], [["x", "O", [1]]], [["x"]], 5]
)
def test_refuses_containers_that_lie(tmp_path, listed):
    header = zlib.compress(json.dumps([{}, listed]).encode())
    body = FIXED.pack(MAGIC, 1, len(header)) + header + bytes(8)
    (tmp_path / "book").write_bytes(body + hashlib.sha256(body).digest()[:16])
    with pytest.raises(ValueError, match="is damaged or malicious"):
        read_container(tmp_path / "book")


def test_refuses_a_header_that_swells(tmp_path):
    header = zlib.compress(b"[" * 2**26, 9)
    body = FIXED.pack(MAGIC, 1, len(header)) + header
    (tmp_path / "book").write_bytes(body + hashlib.sha256(body).digest()[:16])
    with pytest.raises(ValueError, match="too long"):
        read_container(tmp_path / "book")


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    save_codebook(tmp_path / "book", codebook())
    before = (tmp_path / "book").read_bytes()

    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        save_codebook(tmp_path / "book", codebook(1))
    assert (tmp_path / "book").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["book"]
