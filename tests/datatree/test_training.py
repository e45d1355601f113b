# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The history of training goes into a tree, into a file, and comes back."""

import functools
import json

import pandas as pd
import pytest
import torch
import xarray as xr
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior import datatree
from pyro_groupprior.svi import EpochRecord, History, PhaseRecord

EPOCHS = [EpochRecord(n, 10 * n, n // 2, 3.5 / n, 0.01, min(1.0, n / 3)) for n in range(1, 6)]
PHASES = [
    PhaseRecord(
        "weights", 1, 2, 20, 0.25, 3, (4.0, 2.0, 2.0), (0.0, 1.5, -1.0), (1.0, 0.5, 2.0),
        0.7, 3.25, True, None, (0, 1, -1), ((0, 0, 4.0), (0, 2, 2.0), (1, 1, 2.0)),
    ),
    PhaseRecord(
        "other", 2, 4, 40, 0.0, 1, (8.0,), (0.5,), (1.25,), 1.0, 0.0, False, -2.5, (0,),
        ((0, 0, 8.0),),
    ),
]  # fmt: skip


def tree_of(training):
    model = pgp.BayesianModule(nn.Linear(2, 1), loc=0.0, scale=1.0)
    return pgp.to_datatree(model, {"weights": torch.zeros(4, 3)}, training=training)


@pytest.mark.parametrize(
    "history", [History(EPOCHS, PHASES), History(EPOCHS), History([], PHASES[:1])]
)
def test_history_comes_back(history, tmp_path):
    tree = tree_of(history)
    assert datatree.history_of(tree) == history
    tree.to_netcdf(tmp_path / "tree.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "tree.nc", engine="h5netcdf") as stored:
        found = datatree.history_of(stored)
    assert found == history
    assert json.dumps(found.to_dict()) == json.dumps(history.to_dict())  # plain numbers


def test_records_by_name():
    tree = tree_of(History(EPOCHS, PHASES))
    assert tree["epochs"]["loss"].sel(epoch=4).item() == 3.5 / 4
    phases = tree["phases"].to_dataset()
    assert phases["site"].values.tolist() == ["weights", "other"]
    assert phases["scale"].dims == ("regroup", "group")
    assert phases["size"].values[1].tolist()[0] == 8.0 and phases["size"].isnull().sum() == 2
    assert phases["flow_regroup"].values.tolist() == [0, 0, 0, 1]


def test_run_with_a_monitor(tmp_path):
    x, y = torch.randn(30, 3), torch.randn(30, 1)
    model = pgp.BayesianModule(
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)),
        pgp.likelihoods.Normal(),
        num_data=30,
        grouping="layer",
    )
    monitor = pgp.CollapseMonitor(epochs=2)
    svi = pgp.PhasedSVI(
        model,
        pgp.AutoMeanField,
        functools.partial(torch.optim.Adam, lr=0.01),
        regroup=pgp.Regroup(pgp.Naive(3), epochs=3),
        callbacks=[monitor],
    )
    svi.run([(x, y)], 8, progress=False)
    tree = pgp.to_datatree(model, svi.guide, x, y, 10, training=svi)
    tree.to_netcdf(tmp_path / "tree.nc", engine="netcdf4")
    with xr.open_datatree(tmp_path / "tree.nc", engine="netcdf4") as stored:
        assert datatree.history_of(stored) == svi.history
        frame = datatree.collapse_frame_of(stored)
    expected = monitor.to_frame()
    expected["groups"] = expected["groups"].map(lambda groups: ", ".join(map(str, groups)))
    pd.testing.assert_frame_equal(frame, expected, check_dtype=False)


def test_nothing_to_read():
    model = pgp.BayesianModule(nn.Linear(2, 1), loc=0.0, scale=1.0)
    tree = pgp.to_datatree(model, {"weights": torch.zeros(4, 3)})
    for read in (datatree.history_of, datatree.collapse_frame_of):
        with pytest.raises(ValueError, match="training=svi"):
            read(tree)
        with pytest.raises(TypeError, match=r"tree: expected an xarray\.DataTree, got int"):
            read(3)
    assert "epochs" not in tree_of(History()).children
