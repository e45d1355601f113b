# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Pruning while a posterior is trained."""

from functools import partial

import pyro
import pytest
import torch
from torch import nn

from pyro_groupprior import AutoMeanField, BayesianModule, Checkpoint, PhasedSVI, likelihoods
from pyro_groupprior.pruning import GradualPruning
from pyro_groupprior.svi import Callback

TRUE = torch.tensor([3.0, 0.0, -2.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0])


class Masks(Callback):
    def __init__(self):
        self.seen = []

    def on_epoch(self, svi):
        self.seen.append(svi.model.mask.clone())


def regression(**kwargs):
    pyro.set_rng_seed(0)
    x = torch.randn(200, 10)
    y = x @ TRUE[:, None] + 0.1 * torch.randn(200, 1)
    model = BayesianModule(
        nn.Linear(10, 1, bias=False), likelihoods.Normal(), num_data=200, grouping="layer"
    )
    pruning = GradualPruning(model, **kwargs)
    masks = Masks()
    optim = partial(torch.optim.Adam, lr=0.05)
    svi = PhasedSVI(model, AutoMeanField, optim, warmup=10, callbacks=[pruning, masks])
    return svi, masks, [(x[:100], y[:100]), (x[100:], y[100:])] * 10


def test_the_weights_that_matter_stay():
    svi, masks, loader = regression(share=0.3, steps=80, start=200, every=20)
    svi.run(loader, epochs=18, progress=False)
    assert torch.equal(svi.model.mask, TRUE != 0)
    # An epoch has 20 steps: (1 - t)^3 of seven, on top of three, rounded.
    shares = [0.3 + 0.7 * (1 - t / 4) ** 3 for t in range(5)]
    expected = [10] * 10 + [round(10 * share) for share in shares[1:]] + [3] * 4
    assert [int(mask.sum()) for mask in masks.seen] == expected
    # None comes back.
    for before, after in zip(masks.seen, masks.seen[1:], strict=False):
        assert not bool((after & ~before).any())
    mean, _ = svi.guide.moments("weights")
    assert svi.groups["weights"].mask is svi.model.mask
    torch.testing.assert_close(mean[TRUE != 0], TRUE[TRUE != 0], atol=0.05, rtol=0.0)


def test_pruned_weights_do_not_come_back_where_the_prior_is_far_from_zero():
    svi, masks, loader = regression(share=0.3, steps=120)
    svi.model.prior_loc, svi.model.prior_scale = 5.0, 0.01
    svi.run(loader, epochs=6, progress=False)
    for before, after in zip(masks.seen, masks.seen[1:], strict=False):
        assert not bool((after & ~before).any())


def test_a_run_that_was_cut_off_goes_on_exactly(tmp_path):
    whole, _, loader = regression(share=0.3, steps=77, start=20, every=7)
    whole.run(loader, epochs=7, progress=False)
    cut, _, loader = regression(share=0.3, steps=77, start=20, every=7)
    cut.callbacks.append(Checkpoint(tmp_path / "run"))
    cut.run(loader, epochs=3, progress=False)
    again, _, loader = regression(share=0.3, steps=77, start=20, every=7)
    again.load(tmp_path / "run", *loader[0])
    again.run(loader, epochs=4, progress=False)
    assert torch.equal(again.model.mask, whole.model.mask)
    for one, other in zip(again.guide.moments("weights"), whole.guide.moments("weights")):
        assert torch.equal(one, other)


def test_what_is_refused():
    model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal())
    with pytest.raises(TypeError, match="model: expected a BayesianModule, got Linear"):
        GradualPruning(nn.Linear(2, 1), 0.5, 2)
    for name, value in (
        ("share", 0.0),
        ("share", 1.5),
        ("steps", 0),
        ("every", 0),
        ("start", -1),
        ("rule", "x"),
    ):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            GradualPruning(model, **({"share": 0.5, "steps": 2} | {name: value}))
    assert model.mask is None


def test_another_model_is_refused_and_one_weight_stays():
    svi, _, loader = regression(share=0.01, steps=20)
    svi.run(loader, epochs=2, progress=False)
    assert int(svi.model.mask.sum()) == 1
    other, _, _ = regression(share=0.3, steps=20)
    other.callbacks[0] = svi.callbacks[0]
    with pytest.raises(ValueError, match="model: expected the one that is trained"):
        other.run(loader, epochs=1, progress=False)
    assert other.step_count == 0
