# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""From tensors with named dimensions to datasets."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from importlib.metadata import version
from typing import Any

import numpy as np
import pyro
import xarray as xr
from torch import Tensor

SAMPLE_DIMS = ("chain", "draw")

#: A dataset in the making: dimensions and values by name.
Variables = dict[str, tuple[tuple[str, ...], np.ndarray]]


def as_array(value: Tensor) -> np.ndarray:
    """The tensor's values on the CPU."""
    return value.detach().cpu().numpy()


def chained(value: Tensor, num_chains: int) -> np.ndarray:
    """Draws of chains one after the other, ``[S, ...]``, as ``[chains, draws, ...]``."""
    return as_array(value.unflatten(0, (num_chains, -1)))


def plain_name(name: str) -> str:
    """A name that netCDF allows."""
    return name.replace("/", "_")


def row_dims(value: Tensor) -> tuple[str, ...]:
    """Dimensions of observations: rows, then whatever an observation consists of."""
    behind = value.dim() - 1
    outputs = ("output",) if behind == 1 else tuple(f"output_{i}" for i in range(behind))
    return ("row", *outputs) if value.dim() else ()


def selected(name: str, include: tuple[str, ...] | None) -> bool:
    """Whether a variable is asked for: patterns such as ``"0.*"``; None for all."""
    return include is None or any(fnmatchcase(name, pattern) for pattern in include)


def dataset(variables: Mapping[str, Any], first_draw: int = 0, **attrs: str) -> xr.Dataset:
    """With a counting coordinate for every dimension, which ArviZ labels its rows by."""
    found = xr.Dataset(
        dict(variables),
        attrs={
            "inference_library": "pyro",
            "inference_library_version": pyro.__version__,
            "creation_library": "pyro_groupprior",
            "creation_library_version": version("pyro_groupprior"),
            **attrs,
        },
    )
    starts = {"draw": first_draw}
    return found.assign_coords(
        {
            dim: np.arange(size) + starts.get(str(dim), 0)
            for dim, size in found.sizes.items()
            if dim not in found.coords
        }
    )
