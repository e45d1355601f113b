# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Batches of any nesting: checked for NaN, and moved to where a model is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def check_batch(value: Any, where: str = "batch") -> None:
    """
    Refuse NaN and inf in a batch: they would poison every parameter at once.

    :raises ValueError: naming the tensor and its first bad element.
    """
    if isinstance(value, Tensor):
        # One sum is several times faster than a look at each element; only if it is not finite
        # (which an overflow can cause too) look closer.
        if not value.is_floating_point() or value.sum().isfinite():
            return
        finite = value.isfinite()
        if not bool(finite.all()):
            position = (~finite).nonzero()[0].tolist()
            raise ValueError(
                f"{where}: expected finite numbers, got {int((~finite).sum())} NaN or inf, "
                f"the first at {position}"
            )
    elif isinstance(value, Mapping):
        for key, item in value.items():
            check_batch(item, f"{where}[{key!r}]")
    elif isinstance(value, (tuple, list)):
        for number, item in enumerate(value):
            check_batch(item, f"{where}[{number}]")


def move_batch(value: Any, device: torch.device | None) -> Any:
    """
    Tensors, in any nesting of lists, tuples and dictionaries, on another device; None: where they
    are.
    """
    if device is None:
        return value
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), value)


def longest(values: Iterable[Any]) -> int:
    """Rows of the longest tensor, 0 where there is none."""
    return max((len(v) for v in values if isinstance(v, Tensor) and v.dim()), default=0)


def take_rows(value: Any, rows: Tensor) -> Any:
    """Rows of tensors, in any nesting of lists, tuples and dictionaries."""
    return map_tensors(lambda tensor: tensor[rows] if tensor.dim() else tensor, value)


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A function of every tensor, in any nesting of lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(function, item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [map_tensors(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors, in any nesting of lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, tuple, list)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(item)


def count_rows(value: Any, where: str = "batch") -> int:
    """
    How many rows all tensors have, in any nesting of lists, tuples and dictionaries.

    :raises ValueError: if there is none, or they differ.
    """
    found = sorted({len(tensor) for tensor in tensors_in(value) if tensor.dim()})
    if len(found) != 1:
        raise ValueError(f"{where}: expected tensors of as many rows each, got {found} rows")
    return found[0]


def device_of(model: Any) -> torch.device | None:
    """Where a model's tensors are; None for a plain function."""
    tensors = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    return tensors[0].device if tensors else None
