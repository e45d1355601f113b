# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Guides that are given another codebook while they are trained."""

import itertools
import warnings
from dataclasses import replace
from functools import partial

import pyro
import pytest
import torch
from torch import nn

from pyro_groupprior import AutoMeanField, BayesianModule, CollapseWarning, PhasedSVI, likelihoods
from pyro_groupprior.comparison import WeightMoments
from pyro_groupprior.sharing import (
    AutoShared,
    Codebook,
    MergeEntries,
    Outliers,
    make_codebook,
    merge_codebook,
    share_posterior,
)
from pyro_groupprior.sharing.guide import _sources
from pyro_groupprior.svi import Callback, ConvergenceWarning


def problem():
    pyro.set_rng_seed(0)
    x = torch.randn(80, 12)
    y = x @ torch.tensor([2.0, -2.0, 0.0]).repeat(4)[:, None] + 0.3 * torch.randn(80, 1)
    model = BayesianModule(nn.Linear(12, 1, bias=False), likelihoods.Normal(), num_data=80)
    moments = WeightMoments(torch.linspace(-2, 2, 12), torch.full((12,), 0.2))
    return model, make_codebook(model.layout, moments, 8, outliers=0.1), x, y


def test_entries_merge_between_epochs_and_the_rest_goes_on():
    model, book, x, y = problem()
    guide = AutoShared(model, book)
    seen = []

    class Look(Callback):
        def on_epoch(self, svi):
            site = guide.site("weights").key
            seen.append((guide.codebook(), guide.locs["weights_scale"].detach().clone(), svi.epoch))
            numbers = guide.locs[site]
            assert any(p is numbers for g in svi.optimizer.param_groups for p in g["params"])
            assert svi.optimizer.state[numbers]["exp_avg"].shape == numbers.shape
            assert sum(p is numbers for p in svi.parameters.values()) == 1

    svi = PhasedSVI(model, guide, callbacks=[MergeEntries(num_entries=3, epochs=2), Look()])
    first = book.num_entries
    svi.run([(x, y)] * 20, epochs=5, progress=False)
    assert [found.num_entries for found, _, _ in seen] == [first, 3, 3, 3, 3]
    # All else was trained on from where it was.
    steps = [(a[1] - b[1]).abs().max() for a, b in itertools.pairwise(seen)]
    assert all(0 < float(step) < 1 for step in steps)
    assert svi.history.epochs[-1].loss < svi.history.epochs[0].loss


def test_a_merged_entry_has_the_optimizers_state_of_its_largest_part():
    model = BayesianModule(nn.Linear(7, 1, bias=False), likelihoods.Normal())
    index = torch.tensor([0, 1, 1, 1, 2, 2, 2], dtype=torch.int32)
    loc = torch.tensor([0.0, 0.1, 5.0])
    outliers = Outliers(torch.tensor([6]), torch.tensor([9.0]), torch.ones(1))
    book = Codebook(model.layout, torch.ones(1), loc, torch.ones(3), index, outliers=outliers)
    guide = AutoShared(model, book)
    guide.setup(torch.randn(3, 7), torch.randn(3, 1))
    old = guide.locs["weights"]
    moves = guide.replace_codebook(merge_codebook(book, max_distance=1.0))
    assert moves[0].old is old and moves[0].new is guide.locs["weights"]
    for move in moves:
        # Entries 0 and 1 are one, for which 1 has more weights; the outlier is the last row.
        assert move.source.tolist() == [1, 2, 3]
    torch.testing.assert_close(guide.locs["weights"][2], old[3])


def test_a_codebook_of_another_net_is_refused_and_changes_nothing():
    model, book, x, y = problem()
    guide = AutoShared(model, book)
    guide.setup(x, y)
    before = guide.moments("weights")
    other = BayesianModule(nn.Linear(5, 1), likelihoods.Normal())
    moments = WeightMoments(torch.randn(6), torch.ones(6))
    with pytest.raises(ValueError, match="codebook: expected one for the model's weights"):
        guide.replace_codebook(make_codebook(other.layout, moments, 2))
    for found, expected in zip(guide.moments("weights"), before, strict=True):
        assert torch.equal(found, expected)


def test_what_is_refused():
    model, _, x, y = problem()
    with pytest.raises(ValueError, match="max_distance, num_entries: expected at least one"):
        MergeEntries()
    for options in ({"num_entries": 0}, {"max_distance": -1.0}, {"num_entries": 2, "epochs": 0}):
        with pytest.raises(ValueError, match="expected a positive number"):
            MergeEntries(**options)
    svi = PhasedSVI(model, AutoMeanField, callbacks=[MergeEntries(num_entries=2)])
    with pytest.raises(TypeError, match="guide: expected an AutoShared, got AutoMeanField"):
        svi.run([(x, y)], epochs=1, progress=False)
    assert svi.step_count == 0


def test_a_checkpoint_of_other_shared_weights_is_refused(tmp_path):
    model, book, x, y = problem()
    svi = PhasedSVI(model, AutoShared(model, book))
    svi.run([(x, y)], epochs=1, progress=False)
    svi.save(tmp_path / "run")
    again = PhasedSVI(model, AutoShared(model, book))
    again.load(tmp_path / "run", x, y)
    other = PhasedSVI(model, AutoShared(model, replace(book, index=book.index.flip(0))))
    with pytest.raises(ValueError, match="the file is of another guide"):
        other.load(tmp_path / "run", x, y)


def test_a_collapse_of_shared_weights_is_told():
    pyro.set_rng_seed(0)
    x, y = torch.randn(60, 10), torch.randn(60, 1)
    net = nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    model = BayesianModule(net, likelihoods.Normal(), num_data=60)
    full = AutoMeanField(model, init_scale=1.0)
    full.setup(x, y)
    model, guide = share_posterior(model, full, 8)
    svi = PhasedSVI(model, guide, partial(torch.optim.Adam, lr=0.05), warmup=0)
    with pytest.warns(CollapseWarning), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        svi.run([(x, y)] * 5, epochs=150, progress=False)


def test_numbers_of_many_weights_come_from_the_larger_part():
    layout = BayesianModule(nn.Linear(1000, 100, bias=False), likelihoods.Normal()).layout
    index = (torch.rand(100_000, generator=torch.Generator().manual_seed(0)) < 0.35).int()
    book = Codebook(layout, torch.ones(1), torch.tensor([0.0, 0.1]), torch.ones(2), index)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = {int(_sources(book, merge_codebook(book, 1.0))) for _ in range(20)}
    finally:
        torch.set_num_threads(threads)
    assert found == {0}
