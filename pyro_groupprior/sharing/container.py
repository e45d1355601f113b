# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""
A small binary file of JSON data and arrays, with a checksum: where a kilobyte matters, safetensors'
header is long. Reading it runs no code, and allocates no more than the file is long.

Layout: ``PGPS``, version (uint16), length of the header (uint32), header (JSON, by zlib), the
arrays one after the other (little-endian), the first 16 bytes of the SHA-256 of all before.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..storage import replacing

MAGIC, VERSION = b"PGPS", 1
FIXED, CHECKSUM = struct.Struct("<4sHI"), 16
MOST_HEADER = 2**24  # bytes of JSON, after decompression
DTYPES = {name: np.dtype(name) for name in ("<f2", "<f4", "<f8", "<u4", "<i8", "<i4", "|u1", "|b1")}


def write_container(path: str | Path, notes: Any, arrays: Mapping[str, np.ndarray]) -> int:
    """
    Write a file, atomically.

    :param notes: whatever JSON can hold.
    :param arrays: by name, in the order of the file.
    :return: the bytes of the header.
    :raises TypeError: if an array has a dtype that is none of :data:`DTYPES`.
    :raises OSError: if the disk is full or the folder is not there.
    """
    content, length = container_content(notes, arrays)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(content)
    return length


def container_content(notes: Any, arrays: Mapping[str, np.ndarray]) -> tuple[bytes, int]:
    """
    What :func:`write_container` writes.

    :return: the file, and the length of its header.
    :raises TypeError: if an array has a dtype that is none of :data:`DTYPES`.
    """
    parts, listed = [], []
    for name, array in arrays.items():
        array = np.asarray(array, order="C")
        dtype = array.dtype.newbyteorder("<").str
        if dtype not in DTYPES:
            raise TypeError(f"{name}: expected one of {list(DTYPES)}, got {dtype}")
        listed.append([name, dtype, list(array.shape)])
        parts.append(array.astype(dtype).tobytes())
    header = zlib.compress(json.dumps([notes, listed], separators=(",", ":")).encode(), 9)
    body = b"".join([FIXED.pack(MAGIC, VERSION, len(header)), header, *parts])
    return body + hashlib.sha256(body).digest()[:CHECKSUM], FIXED.size + len(header)


def read_container(path: str | Path) -> tuple[Any, dict[str, np.ndarray], int]:
    """
    Read what :func:`write_container` has written.

    :return: the JSON data, the arrays, and the length of the file in bytes.
    :raises FileNotFoundError: if there is no such file.
    :raises ValueError: if it is cut short, changed, none of these files or of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: there is no file {path}")
    content = path.read_bytes()
    if len(content) < FIXED.size + CHECKSUM or content[:4] != MAGIC:
        raise ValueError(f"path: {path} is no file of a shared posterior")
    body = content[:-CHECKSUM]
    if hashlib.sha256(body).digest()[:CHECKSUM] != content[-CHECKSUM:]:
        raise ValueError(f"path: {path} is damaged: its checksum does not fit its content")
    _, version, length = FIXED.unpack(body[: FIXED.size])
    if version != VERSION:
        raise ValueError(f"path: {path} has version {version}, this release reads {VERSION}")
    try:
        notes, listed = _header(body[FIXED.size : FIXED.size + length])
        arrays, start = {}, FIXED.size + length
        for name, dtype, shape in listed:
            kind, sizes = DTYPES[dtype], [_size(size) for size in shape]
            stop = start + kind.itemsize * _product(sizes)
            if stop > len(body):
                raise ValueError(f"{name} is said to be longer than the file")
            arrays[str(name)] = np.frombuffer(body[start:stop], kind).reshape(sizes)
            start = stop
    except (ValueError, KeyError, TypeError, zlib.error, RecursionError) as error:
        raise ValueError(f"path: {path} is damaged or malicious ({error})") from error
    return notes, arrays, len(content)


def _header(compressed: bytes) -> tuple[Any, list[Any]]:
    inflate = zlib.decompressobj()
    text = inflate.decompress(compressed, MOST_HEADER)
    if not inflate.eof:
        raise ValueError("its header is cut short or too long")
    notes, listed = json.loads(text)
    return notes, listed


def _size(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**48:
        raise ValueError(f"a size of {value!r}")
    return value


def _product(sizes: list[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total
