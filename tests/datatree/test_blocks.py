# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Draws a few at a time: the same tree, in memory and in a Zarr store."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior.datatree import blocks


@pytest.fixture
def net():
    model = pgp.BayesianModule(
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)),
        pgp.likelihoods.Normal(noise=0.3),
    )
    x, y = torch.randn(9, 3), torch.randn(9, 1)
    draws = {
        "weights": torch.randn(24, model.layout.num_weights),
        "weights_loc": torch.randn(24, model.assignment.num_groups),
        "weights_scale": torch.rand(24, model.assignment.num_groups) + 0.5,
    }
    return model, draws, x, y


SURE = ("posterior", "log_likelihood", "constant_data", "observed_data")  # the rest is drawn anew


def assert_same(one, other):
    assert set(one.children) == set(other.children)
    for name in one.children:
        if name in SURE:
            xr.testing.assert_allclose(one[name].to_dataset(), other[name].to_dataset(), rtol=1e-5)
        else:
            assert one[name].to_dataset().sizes == other[name].to_dataset().sizes
            for coordinate, values in one[name].coords.items():
                assert np.array_equal(values, other[name][coordinate])


@pytest.mark.parametrize("num_chains", [1, 3])
def test_in_blocks_or_at_once(net, num_chains, monkeypatch):
    model, draws, x, y = net
    options = {"new_x": x[:2], "num_chains": num_chains, "prior": True}
    whole = pgp.to_datatree(model, draws, x, y, **options)

    class FiveAtOnce(blocks.Draws):
        def __init__(self, *args):
            super().__init__(*args)
            self.at_once = 5

    monkeypatch.setattr("pyro_groupprior.datatree.tree.Draws", FiveAtOnce)
    assert_same(pgp.to_datatree(model, draws, x, y, **options), whole)


@pytest.mark.parametrize("at_once", [None, 1, 5, 100])
def test_store_holds_the_same(net, at_once, tmp_path):
    model, draws, x, y = net
    options = {"new_x": x[:2], "num_chains": 2, "prior": True}
    path = tmp_path / "folder" / "posterior.zarr"
    pgp.write_datatree(path, model, draws, x, y, at_once=at_once, **options)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    with xr.open_datatree(path, engine="zarr") as stored:
        assert_same(stored.load(), pgp.to_datatree(model, draws, x, y, **options))
        chunks = stored["posterior"]["0.weight"].encoding["chunks"]
    assert chunks[1] == min(at_once or 12, 12)


def test_blocks_by_memory():
    draws = blocks.Draws(object(), 600, 2, (), 2**25)  # 4 copies of 2 chains' draws: a gibibyte
    assert draws.at_once == 1 and draws.length == 300
    assert blocks.Draws(object(), 600, 1, (), 2**24).at_once == 4


def test_of_a_guide_draws_differ_from_block_to_block(net, tmp_path):
    model, _, x, y = net
    guide = pgp.AutoMeanField(model)
    guide.setup(x, y)
    pgp.write_datatree(tmp_path / "z", model, guide, x, y, num_draws=400, at_once=7)
    mean, sd = guide.moments("weights")
    with xr.open_datatree(tmp_path / "z", engine="zarr") as stored:
        values = torch.tensor(stored["posterior"]["0.weight"].values).reshape(400, -1)
        assert stored["sample_stats"]["lp"].shape == (1, 400)
    assert len(values.unique(dim=0)) == 400
    assert ((values.mean(0) - mean[:12]).abs() < 5 * sd[:12] / 20).all()


def test_only_what_is_asked_for(net):
    model, draws, x, y = net
    tree = pgp.to_datatree(model, draws, x, y, include=["0.*", "weights_scale"], prior=True)
    assert set(tree["posterior"].data_vars) == {"0.weight", "0.bias", "weights_scale"}
    assert set(tree["prior"].data_vars) == {"0.weight", "0.bias", "weights_scale"}
    none = pgp.to_datatree(model, draws, x, y, include=[])
    assert not none["posterior"].data_vars
    assert np.array_equal(none["log_likelihood"]["obs"], tree["log_likelihood"]["obs"])


def test_refusals_leave_nothing_behind(net, tmp_path):
    model, draws, x, y = net
    (tmp_path / "there").write_text("")
    with pytest.raises(FileExistsError, match="there"):
        pgp.write_datatree(tmp_path / "there", model, draws)
    with pytest.raises(ValueError, match="at_once: expected a positive number, got 0"):
        pgp.write_datatree(tmp_path / "new", model, draws, at_once=0)
    with pytest.raises(ValueError, match="y: expected the shape"):
        pgp.write_datatree(tmp_path / "new", model, draws, x, y[:3])
    assert [entry.name for entry in tmp_path.iterdir()] == ["there"]
