# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Shared posteriors in files, as guides and as modules of torch alone."""

import pyro
import pytest
import torch
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior import BayesianModule, likelihoods
from pyro_groupprior.comparison import weight_moments
from pyro_groupprior.sharing import (
    AutoShared,
    SharedModule,
    load_codebook,
    load_module,
    load_shared,
    make_codebook,
    save_shared,
)


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3)
    )


def problem(seed=0):
    pyro.set_rng_seed(seed)
    x, y = torch.randn(20, 1, 6, 6), torch.randint(3, (20,))
    net = convolutional()
    net(x)  # moves the statistics
    model = BayesianModule(net, likelihoods.Categorical(), num_data=20)
    full = pgp.AutoMeanField(model, init_scale=0.3)
    full.setup(x, y)
    book = make_codebook(model.layout, weight_moments(model, full), 8, blend=0.1, outliers=0.05)
    guide = AutoShared(model, book)
    guide.setup(x, y)
    with torch.no_grad():
        guide.locs["weights"].add_(0.1)
        guide.locs["weights_scale"].add_(0.5)
    return model, guide, x, y


def test_a_module_predicts_as_the_guide(tmp_path):
    model, guide, x, _ = problem()
    save_shared(tmp_path / "book", guide)
    module = load_module(tmp_path / "book", convolutional())
    prediction = pgp.predict(model, guide, x, num_draws=4000)
    outputs = module(x, num_draws=4000).softmax(-1)
    error = 5 * outputs.std(0) / 4000**0.5 * 2**0.5
    assert bool(((outputs.mean(0) - prediction.mean).abs() < error + 1e-4).all())
    # With the means for weights they agree exactly.
    model.eval()
    mean, _ = guide.moments("weights")
    torch.testing.assert_close(module.net(x), model.call_net(mean, x), rtol=1e-4, atol=1e-5)


def test_a_guide_comes_back(tmp_path):
    _, guide, x, y = problem()
    sizes = save_shared(tmp_path / "book", guide)
    assert sum(sizes.values()) == (tmp_path / "book").stat().st_size
    other = BayesianModule(convolutional(), likelihoods.Categorical(), num_data=20)
    again = load_shared(tmp_path / "book", other, x, y)
    for site in ("weights", "weights_loc"):
        torch.testing.assert_close(again.moments(site), guide.moments(site))
    torch.testing.assert_close(again.median()["weights_scale"], guide.median()["weights_scale"])
    torch.testing.assert_close(other.net[1].running_var, guide.model.net[1].running_var)


def test_half_precision_is_of_all_numbers(tmp_path):
    _, guide, x, y = problem()
    full = save_shared(tmp_path / "book", guide)
    half = save_shared(tmp_path / "half", guide, torch.float16)
    (steps,) = (v.numel() for k, v in guide.model.net.named_buffers() if "tracked" in k)
    assert half["dense"] - 8 * steps == (full["dense"] - 8 * steps) / 2
    other = BayesianModule(convolutional(), likelihoods.Categorical(), num_data=20)
    again = load_shared(tmp_path / "half", other, x, y)
    own, theirs = guide.moments("weights"), again.moments("weights")
    torch.testing.assert_close(theirs, own, rtol=2e-3, atol=1e-6)
    norm, found = guide.model.net[1], other.net[1]
    torch.testing.assert_close(found.running_var, norm.running_var, rtol=1e-3, atol=1e-6)
    assert found.running_var.dtype == torch.float32
    norm.running_var.fill_(1e6)
    before = (tmp_path / "half").read_bytes()
    with pytest.raises(ValueError, match=r"dtype: net\.1\.running_var has numbers too large"):
        save_shared(tmp_path / "half", guide, torch.float16)
    assert (tmp_path / "half").read_bytes() == before


def test_nothing_changes_where_a_file_does_not_fit(tmp_path):
    model, guide, x, y = problem()
    save_shared(tmp_path / "book", guide)
    with pytest.raises(ValueError, match="net: expected 'weight' of shape"):
        codebook, _ = load_codebook(tmp_path / "book")
        layout = pgp.Layout([("weight", torch.Size([7]))])
        SharedModule(nn.Linear(3, 1), make_codebook(layout, _moments(7)))
    with pytest.raises(ValueError, match=r"net: expected '0\.weight' of shape"):
        load_module(tmp_path / "book", nn.Linear(3, 1))
    other = BayesianModule(
        convolutional(), likelihoods.Categorical(), num_data=20, grouping="tensor"
    )
    before = other.net[1].running_var.clone()
    with pytest.raises(ValueError, match="is of another model"):
        load_shared(tmp_path / "book", other, x, y)
    assert torch.equal(other.net[1].running_var, before)
    assert codebook.num_weights == model.layout.num_weights
    with pytest.raises(RuntimeError, match="set up"):
        save_shared(tmp_path / "other", AutoShared(model, guide.codebook()))


def _moments(size):
    return pgp.comparison.WeightMoments(torch.randn(size), torch.ones(size))


def test_several_outputs():
    layout = pgp.Layout([("weight", torch.Size([2, 3])), ("bias", torch.Size([2]))])

    class Two(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    module = SharedModule(Two(3, 2), make_codebook(layout, _moments(8)))
    outputs = module(torch.zeros(4, 3), num_draws=3)
    assert len(outputs) == 3
    assert outputs[0][0].shape == (4, 2)
    assert not module.net.training
