# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Files: whole or not at all, refused when damaged, never run as code."""

import io
import json
import os
import pickle
import struct

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_groupprior import load_draws, save_draws, storage
from pyro_groupprior.storage import read_file, write_file

TENSORS = {
    "float": torch.randn(3, 4),
    "double": torch.randn(5, dtype=torch.float64),
    "half": torch.randn(2).bfloat16(),
    "long": torch.arange(6).reshape(2, 3),
    "int": torch.tensor([-1, 7], dtype=torch.int32),
    "bytes": torch.arange(200, dtype=torch.uint8),
    "flag": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 3),
    "special": torch.tensor([float("nan"), float("inf"), -0.0]),
}
METADATA = {"numbers": [0.1, 1e-300, 3], "text": "größe", "none": None, "nested": {"a": [True]}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "file"
    write_file(path, "thing", TENSORS, METADATA)
    return path.read_bytes()


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged") / "file"


def test_round_trip_bit_by_bit(tmp_path):
    write_file(tmp_path / "file", "thing", TENSORS, METADATA)
    tensors, metadata = read_file(str(tmp_path / "file"), "thing")
    assert metadata == METADATA
    assert set(tensors) == set(TENSORS)
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype and tensors[name].shape == value.shape
        if value.numel():
            assert torch.equal(_bytes(tensors[name]), _bytes(value))


def _bytes(value):
    return value.reshape(-1).view(torch.uint8)


def test_views_and_shared_memory(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    write_file(tmp_path / "file", "thing", {"all": base, "turned": base.T, "row": base[1]}, {})
    tensors, _ = read_file(tmp_path / "file", "thing")
    assert torch.equal(tensors["turned"], base.T) and torch.equal(tensors["row"], base[1])


def test_needs_no_pickle(tmp_path, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("pickled")

    for module, name in (
        (pickle, "dumps"),
        (pickle, "loads"),
        (pickle, "Pickler"),
        (pickle, "Unpickler"),
        (torch, "save"),
        (torch, "load"),
    ):
        monkeypatch.setattr(module, name, forbidden)
    save_draws(tmp_path / "file", {"a": torch.zeros(2)})
    assert list(load_draws(tmp_path / "file")) == ["a"]


def test_a_pickle_is_refused_unread(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    buffer = io.BytesIO()
    torch.save({"a": Bomb()}, buffer)
    (tmp_path / "file").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="no safetensors file"):
        load_draws(tmp_path / "file")
    assert not (tmp_path / "exploded").exists()


@given(st.data())
@settings(max_examples=120)
def test_cut_short_anywhere(whole, damaged, data):
    length = data.draw(st.integers(0, len(whole) - 1))
    damaged.write_bytes(whole[:length])
    with pytest.raises(ValueError, match=r"damaged|not written by"):
        read_file(damaged, "thing")


@given(st.data())
@settings(max_examples=250)
def test_flipped_bits_anywhere(whole, damaged, data):
    places = data.draw(st.sets(st.integers(0, 8 * len(whole) - 1), min_size=1, max_size=4))
    content = bytearray(whole)
    for place in places:
        content[place // 8] ^= 1 << place % 8
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match="path: "):
        read_file(damaged, "thing")


@given(st.binary(max_size=300), st.integers(0, 3000))
@settings(max_examples=100)
def test_rubbish_put_in_or_over(whole, damaged, rubbish, at):
    for content in (rubbish, whole + rubbish + b"x", whole[:at] + b"x" + rubbish + whole[at:]):
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match="path: "):
            read_file(damaged, "thing")


def test_every_bit_of_the_header_matters(whole, damaged):
    """The flips of chance seldom hit the few hundred bytes that decide how the rest is read."""
    (length,) = struct.unpack("<Q", whole[:8])
    for place in range(0, 8 * (8 + length), 11):
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match="path: "):
            read_file(damaged, "thing")


def test_swapped_values_are_noticed(tmp_path):
    """Sums over the file as a whole would not see it."""
    path = tmp_path / "file"
    write_file(path, "thing", {"a": torch.ones(2), "b": torch.zeros(2)}, {})
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    head, body = path.read_bytes()[: 8 + length], path.read_bytes()[8 + length :]
    path.write_bytes(head + body[8:] + body[:8])
    with pytest.raises(ValueError, match="checksum"):
        read_file(path, "thing")


def test_foreign_kinds_and_versions(tmp_path, monkeypatch):
    foreign = tmp_path / "foreign"
    safetensors.torch.save_file({"a": torch.zeros(2)}, foreign)
    with pytest.raises(ValueError, match="not written by pyro_groupprior"):
        load_draws(foreign)
    write_file(tmp_path / "other", "checkpoint", {"a": torch.zeros(2)}, {})
    with pytest.raises(ValueError, match=r"kind 'draws', .* is 'checkpoint'"):
        load_draws(tmp_path / "other")
    monkeypatch.setattr(storage, "VERSION", 99)
    save_draws(tmp_path / "newer", {"a": torch.zeros(2)})
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format version 99, this release reads 1"):
        load_draws(tmp_path / "newer")


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_draws(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_draws(tmp_path)
    with pytest.raises(OSError, match="nowhere"):
        save_draws(tmp_path / "nowhere" / "file", {"a": torch.zeros(2)})
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        save_draws(tmp_path / "folder", {"a": torch.zeros(2)})
    assert [p.name for p in tmp_path.rglob("*")] == ["folder"]


@pytest.mark.parametrize("failing", ["save_file", "replace", "fsync"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_failure_while_writing_leaves_the_old_file(tmp_path, monkeypatch, failing, error):
    path = tmp_path / "file"
    save_draws(path, {"a": torch.zeros(2)})
    before = path.read_bytes()
    real = storage.save_file

    def fail(*args, **kwargs):
        if failing == "save_file":
            real(*args, **kwargs)  # written in part at least
        raise error

    monkeypatch.setattr(storage if failing == "save_file" else os, failing, fail)
    with pytest.raises(type(error)):
        save_draws(path, {"a": torch.ones(5)})
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == before


def test_what_json_cannot_hold_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        write_file(tmp_path / "file", "thing", {}, {"a": object()})
    assert list(tmp_path.iterdir()) == []


def test_rewriting_replaces_and_leaves_nothing_behind(tmp_path):
    for value in range(3):
        save_draws(tmp_path / "file", {"a": torch.full((4,), float(value))})
        assert [p.name for p in tmp_path.iterdir()] == ["file"]
        assert load_draws(tmp_path / "file")["a"].tolist() == [value] * 4


def test_a_file_in_use_may_be_replaced(tmp_path):
    path = tmp_path / "file"
    save_draws(path, {"a": torch.zeros(1000)})
    held = load_draws(path)["a"]
    save_draws(path, {"a": torch.ones(1000)})
    assert not held.any()


def test_readable_by_others_as_the_umask_says(tmp_path):
    (tmp_path / "plain").touch()
    save_draws(tmp_path / "file", {"a": torch.zeros(2)})
    modes = {(tmp_path / name).stat().st_mode & 0o777 for name in ("plain", "file")}
    assert len(modes) == 1


def test_metadata_is_plain_json(tmp_path):
    path = tmp_path / "file"
    write_file(path, "thing", {"a": torch.zeros(1)}, METADATA)
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    header = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    assert json.loads(header["metadata"]) == METADATA and header["version"] == "1"


@pytest.mark.parametrize("draws", [{}, {"a": torch.zeros(2), "b": torch.zeros(3)}])
def test_draws_have_to_be_as_many(draws, tmp_path):
    with pytest.raises(ValueError, match="draws"):
        save_draws(tmp_path / "file", draws)
