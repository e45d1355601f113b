# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Guides whose weights share their numbers."""

import copy
import math
from dataclasses import replace

import pyro
import pytest
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import nn
from torch.distributions import Normal, kl_divergence

import pyro_groupprior as pgp
from pyro_groupprior import BayesianModule, likelihoods
from pyro_groupprior.comparison import WeightMoments
from pyro_groupprior.pruning import prune_model
from pyro_groupprior.sharing import AutoShared, Blend, make_codebook, with_pruned_group


def problem(rows=60, **options):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 12, generator=generator)
    y = x @ torch.tensor([2.0, -2.0, 0.0]).repeat(4)[:, None]
    y = y + 0.3 * torch.randn(rows, 1, generator=generator)
    net = nn.Linear(12, 1)
    model = BayesianModule(net, likelihoods.Normal(noise=0.3), num_data=rows, **options)
    return model, x, y


def codebook_of(model, num_entries=4, **options):
    size = model.layout.num_weights
    mean = torch.tensor([2.0, -2.0, 0.0]).repeat(5)[:size]
    moments = WeightMoments(mean, torch.full((size,), 0.2))
    return make_codebook(model.layout, moments, num_entries, **options)


def test_starts_as_the_codebook():
    model, x, y = problem()
    book = codebook_of(model, blend=0.2, outliers=0.1)
    guide = AutoShared(model, book)
    guide.setup(x, y)
    for found, expected in zip(guide.moments("weights"), book.moments(), strict=True):
        torch.testing.assert_close(found, expected)
    for found, expected in zip(guide.codebook().moments(), book.moments(), strict=True):
        torch.testing.assert_close(found, expected)
    assert guide.median()["weights"].shape == (13,)


def test_labels_reach_the_entries():
    model, x, y = problem(loc=0.0, scale=1.0)
    guide = AutoShared(model, codebook_of(model))
    guide.setup(x, y)
    gradients = []
    for labels in (y, y + 1.0):
        pyro.set_rng_seed(0)
        guide.zero_grad()
        TraceMeanField_ELBO().loss_and_grads(model, guide, x, labels)
        gradients.append(guide.locs["weights"].grad.clone())
    assert not torch.allclose(*gradients)


def test_divergence_counts_every_weight():
    model, x, y = problem(loc=0.0, scale=1.0)
    guide = AutoShared(model, codebook_of(model, 2))
    guide.setup(x, y)
    found = pgp.MeanFieldELBO(num_particles=2000).loss(model, guide, x, y)
    mean, sd = guide.moments("weights")
    inputs = torch.cat([x, torch.ones(60, 1)], 1)
    squares = (y[:, 0] - inputs @ mean).square() + inputs.square() @ sd.square()
    likely = -0.5 * (squares / 0.09 + math.log(2 * math.pi * 0.09)).sum()
    prior = Normal(torch.zeros(13), model.base_scale.expand(13))
    divergence = kl_divergence(Normal(mean, sd), prior).sum()
    assert found == pytest.approx(float(divergence - likely), rel=0.03)


def test_training_finds_shared_values():
    """Three values make up all weights: trained in that form, they are found."""
    model, x, y = problem(rows=200)
    book = codebook_of(model, 3)
    off = replace(book, loc=book.loc + 0.4 * torch.randn(len(book.loc)))
    guide = AutoShared(model, off)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), TraceMeanField_ELBO())
    for _ in range(600):
        svi.step(x, y)
    mean, _ = guide.moments("weights")
    torch.testing.assert_close(
        mean[:12], torch.tensor([2.0, -2.0, 0.0]).repeat(4), atol=0.1, rtol=0
    )
    assert torch.equal(mean[0:12:3], mean[0].expand(4))


def test_fits_by_the_engine():
    model, x, y = problem()
    guide = AutoShared(model, codebook_of(model, 3))
    engine = pgp.PhasedSVI(model, guide, pyro.optim.Adam({"lr": 0.02}))
    losses = [engine.step(x, y) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])


def test_pruned_weights_stay_and_cost_nothing():
    model, x, y = problem()
    keep = torch.arange(13) % 3 < 2
    with pytest.raises(ValueError, match="take prune_model"):
        AutoShared(model, codebook_of(model, keep=keep))
    model = prune_model(model, keep)
    model.groups.assignment = with_pruned_group(model.assignment, keep)
    guide = AutoShared(model, codebook_of(model, keep=keep))
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), TraceMeanField_ELBO())
    for _ in range(50):
        svi.step(x, y)
    book = guide.codebook()
    assert torch.equal(book.kept, keep)
    loc, scale = book.moments()
    assert not bool(loc[~keep].any()) and not bool(scale[~keep].any())
    # In their own group, as wide as their posterior, they cost nothing.
    prior = guide.median()["weights_scale"][-1]
    assert prior == pytest.approx(1.0, abs=0.3)
    entries = guide.num_numbers - sum(
        2 * guide.locs[site.key].numel() for site in guide.sites if site.name != "weights"
    )
    assert entries == book.num_numbers


def test_copies_are_independent():
    model, x, y = problem()
    guide = AutoShared(model, codebook_of(model))
    guide.setup(x, y)
    other = copy.deepcopy(guide)
    with torch.no_grad():
        other.locs["weights"].add_(1.0)
    assert not torch.allclose(other.moments("weights")[0], guide.moments("weights")[0])


def test_files_are_for_the_same_codebook(tmp_path):
    model, x, y = problem()
    book = codebook_of(model)
    guide, again = AutoShared(model, book), AutoShared(model, book)
    guide.setup(x, y)
    with torch.no_grad():
        guide.locs["weights"].add_(1.0)
    pgp.save_guide(tmp_path / "guide", guide)
    pgp.load_guide(tmp_path / "guide", again, x, y)
    torch.testing.assert_close(again.moments("weights"), guide.moments("weights"))
    blend = Blend(torch.tensor([0]), book.index[1:2], torch.tensor([0.5]))
    with pytest.raises(ValueError, match="of another guide"):
        pgp.load_guide(tmp_path / "guide", AutoShared(model, replace(book, blend=blend)), x, y)


def test_refuses():
    model, _, _ = problem()
    book = codebook_of(model)
    other = BayesianModule(nn.Linear(3, 1), likelihoods.Normal())
    with pytest.raises(ValueError, match="codebook: expected one for the model's weights"):
        AutoShared(other, book)
    with pytest.raises(TypeError, match="model: expected a BayesianModule"):
        AutoShared(lambda x: x, book)
    with pytest.raises(ValueError, match="centered=True"):
        AutoShared(problem(centered=False)[0], book)


def test_takes_the_moments_of_draws():
    model, x, y = problem()
    guide = AutoShared(model, codebook_of(model, 3, outliers=0.1))
    guide.setup(x, y)
    draws = guide.draws(4000)
    draws["weights"] = 2 * draws["weights"] + 1
    other = AutoShared(model, guide.codebook())
    other.fit_draws(draws, x, y)
    mean, sd = guide.moments("weights")
    torch.testing.assert_close(other.moments("weights")[0], 2 * mean + 1, atol=0.05, rtol=0)
    torch.testing.assert_close(other.moments("weights")[1], 2 * sd, atol=0.05, rtol=0)
