# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Codebooks as few bytes, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..layout import Layout
from .codebook import LEVELS, Blend, Codebook, Outliers
from .coding import Decoder, Encoder

MOST_PER_BYTE = 4096  # weights: a small file is not to ask for a large memory


def pack(codebook: Codebook, dtype: str) -> tuple[Any, dict[str, np.ndarray], dict[str, int]]:
    """
    What :func:`unpack` needs.

    :param str dtype: of means and deviations, such as ``"<f4"``.
    :return: JSON data, arrays, and the bytes of the parts of the coded stream.
    """
    index, kept = codebook.index.cpu().numpy(), codebook.kept.cpu().numpy()
    layout, (places, second, alpha) = codebook.layout, (v.cpu().numpy() for v in codebook.blend)
    outliers = codebook.outliers.places.cpu().numpy()
    encoder, sizes, before = Encoder(), {}, 0
    own = np.zeros(len(index), bool)
    own[outliers] = True
    between = np.zeros(len(index), bool)
    between[places] = True
    histograms: list[list[int]] = []

    def done(part: str) -> None:
        nonlocal before
        total = 4 * len(encoder.words())
        sizes[part], before = total - before, total

    if not kept.all():
        for entry in layout:
            matrix = _matrix(kept[entry.slice], entry.shape)
            encoder.numbers(np.array([np.count_nonzero(matrix)]))
            if 0 < np.count_nonzero(matrix) < matrix.size:
                encoder.mask(matrix)
    done("pruned")
    _mask(encoder, own[kept])
    done("outliers")
    shared = kept & ~own
    for entry, (first, last) in zip(layout, codebook.tables, strict=True):
        label = index[entry.slice][shared[entry.slice]] - first
        counts = np.bincount(label, minlength=last - first)
        histograms.append(counts.tolist())
        encoder.symbols(label, counts)
    done("index")
    _mask(encoder, between[shared])
    for entry, (first, last) in zip(layout, codebook.tables, strict=True):
        inside = (places >= entry.start) & (places < entry.stop)
        encoder.symbols(second[inside] - first, np.ones(last - first))
    levels = np.round(alpha * LEVELS)
    exact = bool(np.allclose(levels / LEVELS, alpha, atol=1e-6))
    if exact:
        encoder.symbols(levels.astype(np.int64), np.ones(LEVELS + 1))
    done("blend")
    notes = {
        "layout": [[e.name, list(e.shape), list(e.aliases)] for e in layout],
        "tables": [list(table) for table in codebook.tables],
        "histograms": histograms,
        "pruned": not bool(kept.all()),
        "exact": exact,
    }
    arrays = {
        "unit": _numbers(codebook.unit, "<f4"),
        "loc": _numbers(codebook.loc, dtype),
        "scale": _numbers(codebook.scale, dtype),
        "outlier_loc": _numbers(codebook.outliers.loc, dtype),
        "outlier_scale": _numbers(codebook.outliers.scale, dtype),
        "coded": encoder.words(),
    }
    if not exact:
        arrays["alpha"] = alpha.astype("<f4")
    return notes, {name: array for name, array in arrays.items() if array.size}, sizes


def bits_a_weight(codebook: Codebook) -> dict[str, float]:
    """
    How many bits a file takes for a weight of each tensor, by name: what says which are pruned,
    which entry each has, what is blended, and the outliers' numbers; not the entries.

    Example::

        >>> from pyro_groupprior.comparison import WeightMoments
        >>> from pyro_groupprior.sharing import bits_a_weight, make_codebook
        >>> moments = WeightMoments(torch.randn(4096), torch.full((4096,), 0.3))
        >>> bits = bits_a_weight(make_codebook(Layout([("w", torch.Size([4096]))]), moments, 4))
        >>> 1.0 < bits["w"] < 2.1
        True

    :raises ImportError: if the package constriction is not there.
    """
    found = {}
    for entry in codebook.layout:
        one = codebook.select(entry.name)
        _, _, sizes = pack(one, "<f4")
        own = 64 * len(one.outliers.places)
        found[entry.name] = (8 * sum(sizes.values()) + own) / max(entry.size, 1)
    return found


def unpack(notes: Any, arrays: dict[str, np.ndarray], num_bytes: int) -> Codebook:
    """
    The codebook that :func:`pack` was given.

    :param int num_bytes: of the file.
    :raises ValueError: if there is something wrong with them.
    """
    empty = np.zeros(0, np.float32)
    layout = Layout(
        [(str(name), torch.Size(shape)) for name, shape, _ in notes["layout"]],
        {name: tuple(aliases) for name, _, aliases in notes["layout"]},
    )
    if not layout.num_weights <= MOST_PER_BYTE * num_bytes:
        raise ValueError(f"{layout.num_weights} weights in {num_bytes} bytes")
    tables = tuple((int(first), int(last)) for first, last in notes["tables"])
    for (first, last), counts in zip(tables, notes["histograms"], strict=True):
        if not 0 <= first <= last <= len(arrays["loc"]) or len(counts) != last - first:
            raise ValueError(f"a table from {first} to {last}, with {len(counts)} counts")
    decoder = Decoder(arrays.get("coded", np.zeros(0, np.uint32)))
    kept = np.ones(layout.num_weights, bool)
    if notes["pruned"]:
        for entry in layout:
            shape = _matrix_shape(entry.shape)
            (number,) = decoder.numbers(1)
            if number in (0, entry.size):
                kept[entry.slice] = number > 0
            else:
                kept[entry.slice] = decoder.mask(shape, number / entry.size).reshape(-1)
    own = np.zeros_like(kept)
    own[kept] = _read_mask(decoder, int(kept.sum()))
    index, shared = np.zeros(len(kept), np.int32), kept & ~own
    for entry, (first, _), counts in zip(layout, tables, notes["histograms"], strict=True):
        here = shared[entry.slice]
        if sum(counts) != here.sum() or min(counts, default=0) < 0:
            raise ValueError(f"counts that make {sum(counts)}, for {here.sum()} weights")
        index[entry.slice][kept[entry.slice]] = first  # of an outlier it says nothing
        index[entry.slice][here] += decoder.symbols(int(here.sum()), np.array(counts))
    between = np.zeros_like(kept)
    between[shared] = _read_mask(decoder, int(shared.sum()))
    second = np.concatenate(
        [
            decoder.symbols(int(between[e.slice].sum()), np.ones(last - first)) + first
            for e, (first, last) in zip(layout, tables, strict=True)
        ]
        or [np.zeros(0)]
    )
    number = int(between.sum())
    if notes["exact"]:
        alpha = decoder.symbols(number, np.ones(LEVELS + 1)) / np.float32(LEVELS)
    else:
        alpha = arrays.get("alpha", empty)
    outlier = (_tensor(arrays.get(f"outlier_{name}", empty)) for name in ("loc", "scale"))
    return Codebook(
        layout,
        _tensor(arrays["unit"]),
        _tensor(arrays["loc"]),
        _tensor(arrays["scale"]),
        torch.as_tensor(index),
        Blend(_places(between), torch.as_tensor(second.astype(np.int32)), _tensor(alpha)),
        Outliers(_places(own), *outlier),
        tables,
    )


def _mask(encoder: Encoder, values: np.ndarray) -> None:
    number = np.count_nonzero(values)
    encoder.numbers(np.array([number]))
    if 0 < number < len(values):
        encoder.bits(values, np.full(len(values), number / len(values)))


def _read_mask(decoder: Decoder, size: int) -> np.ndarray:
    (number,) = decoder.numbers(1)
    if not 0 < number < size:
        return np.full(size, number > 0)
    return decoder.bits(np.full(size, number / size))


def _matrix_shape(shape: torch.Size) -> tuple[int, int]:
    rows = shape[0] if len(shape) > 1 else 1
    return rows, shape.numel() // max(rows, 1)


def _matrix(values: np.ndarray, shape: torch.Size) -> np.ndarray:
    return values.reshape(_matrix_shape(shape))


def _numbers(values: Tensor, dtype: str) -> np.ndarray:
    return values.detach().cpu().double().numpy().astype(dtype)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.as_tensor(values.astype(np.float32))


def _places(values: np.ndarray) -> Tensor:
    return torch.as_tensor(values.nonzero()[0].astype(np.int64))
