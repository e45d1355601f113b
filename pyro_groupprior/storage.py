# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Files that are written whole or not at all, checked when read, and never run as code."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "pyro_groupprior"
VERSION = 1


def write_file(
    path: str | Path, kind: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """
    Write tensors and JSON data to one safetensors file, with a checksum over both. An existing
    file is replaced atomically: after a failure it is still there as it was.

    :param str kind: what the file holds; a reader asks for the same.
    :param tensors: by name.
    :param metadata: whatever JSON can hold.
    :raises TypeError: if the metadata cannot be written as JSON.
    :raises OSError: if the disk is full or the folder is not there.
    """
    path = Path(path)
    packed = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    body = json.dumps(metadata, sort_keys=True, allow_nan=True)
    header = {"format": FORMAT, "version": str(VERSION), "kind": kind, "metadata": body}
    header["sha256"] = _digest(packed, header)
    with replacing(path) as temporary:
        # Tensors that share memory are refused by the format: give each its own.
        save_file({n: t.clone() for n, t in packed.items()}, temporary, metadata=header)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """
    A file to write to, which then takes the place of another, as a whole; after a failure that is
    still there as it was.

    :param path: the file to replace; there need be none.
    :raises OSError: if the disk is full or the folder is not there.
    """
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    temporary.touch(exist_ok=False)
    mode = temporary.stat().st_mode  # as the user's umask says; safetensors makes it private
    try:
        yield temporary
        temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_file(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """
    Read what :func:`write_file` has written, on the CPU.

    :param str kind: what the file must hold.
    :return: tensors by name, and the JSON data.
    :raises FileNotFoundError: if there is no such file.
    :raises ValueError: if it is cut short, changed, of another kind or of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, struct.error) as error:
        raise ValueError(f"path: {path} is damaged or no safetensors file ({error})") from error
    if header.get("format") != FORMAT:
        raise ValueError(f"path: {path} was not written by {FORMAT}")
    checksum = header.pop("sha256", None)
    if checksum != _digest(tensors, header):
        raise ValueError(f"path: {path} is damaged: its checksum does not fit its content")
    if header["version"] != str(VERSION):
        raise ValueError(
            f"path: {path} has format version {header['version']}, this release reads {VERSION}"
        )
    if header["kind"] != kind:
        raise ValueError(f"path: expected a file of kind {kind!r}, {path} is {header['kind']!r}")
    return tensors, json.loads(header["metadata"])


def save_draws(path: str | Path, draws: Mapping[str, Tensor]) -> None:
    """
    Save posterior draws, for example ``mcmc.get_samples()``.

    :param draws: by site, each of shape ``[S, *site]``.
    :raises ValueError: if there are none, or the numbers of draws differ.
    """
    if not draws or len({len(value) for value in draws.values()}) != 1:
        raise ValueError("draws: expected tensors with the same number of draws each")
    write_file(path, "draws", draws, {})


def load_draws(path: str | Path) -> dict[str, Tensor]:
    """
    Load what :func:`save_draws` has saved.

    :raises ValueError: if the file is damaged or holds something else.
    """
    return read_file(path, "draws")[0]


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(header), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
