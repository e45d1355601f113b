# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The history of a run as datasets, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ..collapse import CollapseMonitor
from ..svi import EpochRecord, History, PhasedSVI, PhaseRecord
from .arrays import dataset

if TYPE_CHECKING:
    import pandas as pd

_BY_GROUP = {"sizes": "size", "locs": "loc", "scales": "scale", "sources": "source"}
_APART = ("name", "flows", "gain", *_BY_GROUP)


def training_groups(training: PhasedSVI | History) -> dict[str, xr.Dataset]:
    """
    Datasets ``epochs`` and ``phases``, and ``collapse`` of an engine with a
    :class:`~pyro_groupprior.CollapseMonitor` among its callbacks, as far as there are records.

    :raises TypeError: if it is neither an engine nor a history.
    """
    if not isinstance(training, (PhasedSVI, History)):
        raise TypeError(
            f"training: expected a PhasedSVI or its History, got {type(training).__name__}"
        )
    history = training if isinstance(training, History) else training.history
    found = {}
    if history.epochs:
        found["epochs"] = _epochs(history.epochs)
    if history.phases:
        found["phases"] = _phases(history.phases)
    if isinstance(training, PhasedSVI):
        for callback in training.callbacks:
            if isinstance(callback, CollapseMonitor) and callback.records:
                found["collapse"] = _collapse(callback.to_frame())
    return found


def history_of(tree: xr.DataTree) -> History:
    """
    The history in a tree that :func:`to_datatree` has made with ``training``.

    Example::

        >>> model = BayesianModule(nn.Linear(3, 1), likelihoods.Normal(), num_data=10)
        >>> Adam = functools.partial(torch.optim.Adam, lr=0.01)
        >>> svi = PhasedSVI(model, AutoMeanField, Adam)
        >>> history = svi.run([(torch.randn(10, 3), torch.randn(10, 1))], 2, progress=False)
        >>> datatree.history_of(to_datatree(model, svi.guide, training=svi)) == history
        True

    :raises TypeError: if it is no tree.
    :raises ValueError: if it has no history.
    """
    _check_tree(tree)
    if not {"epochs", "phases"} & set(tree.children):
        raise ValueError("tree: has no history; make it by to_datatree(..., training=svi)")
    epochs, phases = [], []
    if "epochs" in tree.children:
        data = tree["epochs"].to_dataset()
        for number in range(data.sizes["epoch"]):
            row = data.isel(epoch=number)
            values = {column.name: row[column.name].item() for column in fields(EpochRecord)}
            epochs.append(EpochRecord(**values))
    if "phases" in tree.children:
        data = tree["phases"].to_dataset()
        phases = [_phase(data, number) for number in range(data.sizes["regroup"])]
    return History(epochs, phases)


def collapse_frame_of(tree: xr.DataTree) -> pd.DataFrame:
    """
    The table of a :class:`~pyro_groupprior.collapse.CollapseMonitor` in a tree, as its
    ``to_frame`` gives it; the groups of a part are a text there.

    Example::

        >>> model = BayesianModule(nn.Linear(3, 1), likelihoods.Normal(), num_data=10)
        >>> Adam = functools.partial(torch.optim.Adam, lr=0.01)
        >>> svi = PhasedSVI(model, AutoMeanField, Adam, callbacks=[CollapseMonitor(epochs=1)])
        >>> _ = svi.run([(torch.randn(10, 3), torch.randn(10, 1))], 2, progress=False)
        >>> frame = datatree.collapse_frame_of(to_datatree(model, svi.guide, training=svi))
        >>> list(frame["kind"].unique())
        ['layer', 'group']

    :raises TypeError: if it is no tree.
    :raises ValueError: if it has no such table.
    """
    _check_tree(tree)
    if "collapse" not in tree.children:
        raise ValueError("tree: no checks for collapse; make it by to_datatree(..., training=svi)")
    frame = tree["collapse"].to_dataset().to_dataframe()
    return frame.reset_index(drop=True)


def _check_tree(tree: xr.DataTree) -> None:
    if not isinstance(tree, xr.DataTree):
        raise TypeError(f"tree: expected an xarray.DataTree, got {type(tree).__name__}")


def _epochs(records: Sequence[EpochRecord]) -> xr.Dataset:
    columns = {
        column.name: np.array([getattr(record, column.name) for record in records])
        for column in fields(EpochRecord)
    }
    numbers = columns.pop("epoch")
    found = dataset({name: (("epoch",), values) for name, values in columns.items()})
    return found.assign_coords(epoch=numbers)


def _phases(records: Sequence[PhaseRecord]) -> xr.Dataset:
    widest = max(record.num_groups for record in records)
    variables: dict[str, Any] = {"site": (("regroup",), np.array([r.name for r in records]))}
    for column in fields(PhaseRecord):
        if column.name not in _APART:
            values = np.array([getattr(record, column.name) for record in records])
            variables[column.name] = (("regroup",), values)
    gains = [math.nan if record.gain is None else record.gain for record in records]
    variables["gain"] = (("regroup",), np.array(gains))
    for name, label in _BY_GROUP.items():
        table = np.full((len(records), widest), -1 if name == "sources" else math.nan)
        for row, record in zip(table, records, strict=True):
            row[: len(getattr(record, name))] = getattr(record, name)
        values = table.astype(np.int64) if name == "sources" else table
        variables[label] = (("regroup", "group"), values)
    flows = [(n, *flow) for n, record in enumerate(records) for flow in record.flows]
    table = np.array(flows, dtype=np.float64).reshape(-1, 4)
    for place, name in enumerate(("regroup", "from", "to")):
        variables[f"flow_{name}"] = (("flow",), table[:, place].astype(np.int64))
    variables["flow_weights"] = (("flow",), table[:, 3])
    return dataset(variables)


def _phase(data: xr.Dataset, number: int) -> PhaseRecord:
    row = data.isel(regroup=number)
    groups = int(row["num_groups"])
    values: dict[str, Any] = {
        column.name: row[column.name].item()
        for column in fields(PhaseRecord)
        if column.name not in _APART
    }
    for name, label in _BY_GROUP.items():
        values[name] = tuple(row[label].values[:groups].tolist())
    gain = float(row["gain"])
    flows = data.isel(flow=np.flatnonzero(data["flow_regroup"].values == number))
    parts = [flows[f"flow_{name}"].values.tolist() for name in ("from", "to", "weights")]
    return PhaseRecord(
        name=str(row["site"].item()),
        gain=None if math.isnan(gain) else gain,
        flows=tuple(zip(*parts, strict=True)),
        **values,
    )


def _collapse(frame: pd.DataFrame) -> xr.Dataset:
    columns: dict[str, Any] = {}
    for name in frame:
        values = frame[name]
        if name == "groups":
            values = values.map(lambda groups: ", ".join(map(str, groups)))
        text = values.dtype.kind not in "fiub"
        columns[str(name)] = (("check",), np.array(values.tolist()) if text else values.to_numpy())
    return dataset(columns)
