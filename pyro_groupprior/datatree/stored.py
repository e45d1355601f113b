# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Trees of nets whose draws do not fit into memory, written piece by piece."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..svi import History, PhasedSVI
from .arrays import dataset
from .tree import TreeSource


def write_datatree(
    path: str | Path,
    model: Callable[..., Any],
    posterior: Any,
    x: Any = None,
    y: Tensor | None = None,
    num_draws: int = 500,
    *,
    new_x: Any = None,
    num_chains: int = 1,
    prior: bool = False,
    include: Sequence[str] | None = None,
    training: PhasedSVI | History | None = None,
    at_once: int | None = None,
) -> None:
    """
    What :func:`to_datatree` gives, as a Zarr store written some draws at a time; only these are in
    memory. ``xarray.open_datatree(path, engine="zarr")`` reads of it what is asked for.

    Example::

        >>> import tempfile
        >>> import xarray as xr
        >>> model = BayesianModule(nn.Linear(3, 2), likelihoods.Normal())
        >>> guide = AutoMeanField(model)
        >>> guide.setup(torch.randn(10, 3), torch.randn(10, 2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_datatree(f"{folder}/posterior.zarr", model, guide, num_draws=20, at_once=8)
        ...     with xr.open_datatree(f"{folder}/posterior.zarr", engine="zarr") as tree:
        ...         tree["posterior"]["weight"].shape
        (1, 20, 2, 3)

    :param path: a folder that is made; it appears when it is whole.
    :param int at_once: how many draws of each chain to work on, and to keep in one chunk of the
        store; default: as many as fit into a gibibyte.
    :raises FileExistsError: if there is something at the path.
    :raises ImportError: if the package zarr is missing.
    :raises ValueError: as :func:`to_datatree`, or if ``at_once`` is not positive.
    """
    if at_once is not None and at_once < 1:
        raise ValueError(f"at_once: expected a positive number, got {at_once}")
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"path: there is something at {path}")
    try:
        import zarr
    except ImportError as error:
        needed = "write_datatree needs zarr: pip install 'pyro_groupprior[zarr]'"
        raise ImportError(needed) from error
    source = TreeSource(
        model, posterior, x, y, num_draws, new_x, num_chains, prior, include, training
    )
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    # Format 2 has a place for consolidated metadata, which xarray looks for; format 3 has none yet.
    options: dict[str, Any] = {"consolidated": False, "mode": "a", "zarr_format": 2}
    try:
        for first, groups in source.blocks(at_once):
            for name, variables in groups.items():
                new: dict[str, Any] = {"append_dim": "draw"} if first else {}
                dataset(variables, first).to_zarr(part, group=name, **options, **new)
        for name, constant in source.constants().items():
            constant.to_zarr(part, group=name, **options)
        zarr.consolidate_metadata(str(part))
        part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
