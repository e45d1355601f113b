# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Shared posteriors in files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .codebook import Codebook
from .container import CHECKSUM, container_content, read_container, write_container
from .packing import pack, unpack

DENSE = "dense."


def save_codebook(
    path: str | Path,
    codebook: Codebook,
    dense: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, int]:
    """
    Save a codebook in about as many bytes as its information: entries as they are, everything that
    is said of single weights by a range coder. Pruned weights cost what it takes to say which, with
    an eye to rows and columns that are empty or full.

    Example::

        >>> import tempfile
        >>> from pyro_groupprior.comparison import WeightMoments
        >>> from pyro_groupprior.sharing import load_codebook, make_codebook, save_codebook
        >>> moments = WeightMoments(torch.randn(1000), torch.full((1000,), 0.3))
        >>> codebook = make_codebook(Layout([("w", torch.Size([1000]))]), moments, 4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sizes = save_codebook(folder + "/posterior", codebook)
        ...     again, _ = load_codebook(folder + "/posterior")
        >>> torch.equal(again.moments()[0], codebook.moments()[0]), sizes["index"] <= 252
        (True, True)

    :param path: the file, which is replaced as a whole.
    :param Codebook codebook: what to save.
    :param dense: other tensors by name, which are saved as they are, such as the statistics of norm
        layers.
    :param dtype: of the entries' and the outliers' numbers: ``torch.float32`` or
        ``torch.float16``.
    :return: the bytes of the parts: ``header``, ``entries``, ``pruned``, ``index``, ``blend``,
        ``outliers``, ``dense`` and ``checksum``. Together they are the file.
    :raises ImportError: if the package constriction is not there.
    :raises ValueError: if ``dtype`` is another, or a number does not fit in it.
    :raises TypeError: if a dense tensor has a dtype that cannot be saved.
    """
    notes, arrays, sizes = pack(codebook, _kind(dtype))
    for name in ("loc", "scale", "outlier_loc", "outlier_scale"):
        numbers = arrays.get(name, np.zeros(0))
        lost = name.endswith("scale") and bool(((numbers == 0) & (_wide(codebook, name) > 0)).any())
        if lost or not np.isfinite(numbers).all():
            raise ValueError(f"dtype: {name} has numbers too large or too small for {dtype}")
    for name, value in (dense or {}).items():
        arrays[DENSE + name] = value.detach().cpu().numpy()
    header = write_container(path, notes, arrays)
    nbytes = {name: array.nbytes for name, array in arrays.items()}
    sizes["header"] = header
    sizes["entries"] = sum(nbytes.get(name, 0) for name in ("unit", "loc", "scale"))
    sizes["outliers"] += sum(nbytes.get(name, 0) for name in ("outlier_loc", "outlier_scale"))
    sizes["blend"] += nbytes.get("alpha", 0)
    sizes["dense"] = sum(size for name, size in nbytes.items() if name.startswith(DENSE))
    sizes["checksum"] = CHECKSUM
    return sizes


def content_size(codebook: Codebook, dtype: torch.dtype) -> int:
    """The bytes of a file that holds nothing but the codebook."""
    notes, arrays, _ = pack(codebook, _kind(dtype))
    return len(container_content(notes, arrays)[0])


def load_codebook(path: str | Path) -> tuple[Codebook, dict[str, Tensor]]:
    """
    Load what :func:`save_codebook` has saved. The file may come from anyone: no code in it is run,
    and memory goes to no more than 4,096 weights for each of its bytes.

    :return: the codebook, on the CPU, and the dense tensors by name.
    :raises FileNotFoundError: if there is no such file.
    :raises ImportError: if the package constriction is not there.
    :raises ValueError: if it is damaged, of a newer version, or no such file.
    """
    notes, arrays, num_bytes = read_container(path)
    dense = {k: v for k, v in arrays.items() if k.startswith(DENSE)}
    try:
        codebook = unpack(notes, {k: v for k, v in arrays.items() if k not in dense}, num_bytes)
    except _WRONG as error:
        raise ValueError(f"path: {path} is damaged or malicious ({error})") from error
    found = {k.removeprefix(DENSE): torch.as_tensor(v.copy()) for k, v in dense.items()}
    return codebook, found


#: What comes of data that are not what they say.
_WRONG: tuple[type[Exception], ...] = (
    ValueError, TypeError, KeyError, IndexError, AssertionError, OverflowError, RuntimeError,
)  # fmt: skip


def _kind(dtype: torch.dtype) -> str:
    kinds = {torch.float32: "<f4", torch.float16: "<f2"}
    if dtype not in kinds:
        raise ValueError(f"dtype: expected torch.float32 or torch.float16, got {dtype}")
    return kinds[dtype]


def _wide(codebook: Codebook, name: str) -> Any:
    if name == "outlier_scale":
        return codebook.outliers.scale.cpu().numpy()
    return codebook.scale.cpu().numpy()
