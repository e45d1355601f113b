# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""From a posterior to one that is shared."""

import pyro
import pytest
import torch
from pyro.distributions import LogNormal
from torch import nn

from pyro_groupprior import AutoMeanField, BayesianModule, Learned, PhasedSVI, likelihoods
from pyro_groupprior.comparison import weight_moments
from pyro_groupprior.sharing import make_codebook, share_posterior


def trained(**options):
    pyro.set_rng_seed(0)
    x = torch.randn(100, 12)
    y = x @ torch.tensor([2.0, -2.0, 0.0]).repeat(4)[:, None] + 0.3 * torch.randn(100, 1)
    net = nn.Sequential(nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 1))
    model = BayesianModule(net, likelihoods.Normal(), num_data=100, grouping="layer", **options)
    guide = AutoMeanField(model)
    PhasedSVI(model, guide, warmup=0).run([(x, y)] * 50, epochs=3, progress=False)
    return model, guide, x, y


@pytest.mark.parametrize("kind", ["guide", "draws"])
def test_weights_are_the_codebooks_and_all_else_is_where_it_was(kind):
    model, guide, x, y = trained()
    posterior = guide if kind == "guide" else guide.draws(4000)
    shared_model, shared = share_posterior(model, posterior, 5, blend=0.1)
    shared.setup(x, y)
    book = make_codebook(model.layout, weight_moments(model, posterior), 5, blend=0.1)
    for found, expected in zip(shared.moments("weights"), book.moments(), strict=True):
        torch.testing.assert_close(found, expected)
    medians = guide.median()
    assert set(medians) == set(shared.median()) >= {"weights_loc", "weights_scale", "noise"}
    for name, value in medians.items():
        if name != "weights":
            error = 0.05 if kind == "draws" else 1e-5
            torch.testing.assert_close(shared.median()[name], value, rtol=error, atol=error)
    assert shared_model is not model
    assert shared_model.assignment.num_groups == model.assignment.num_groups == 2


@pytest.mark.parametrize(
    ("options", "priors"),
    [({}, 3), ({"loc": 0.0}, 3), ({"loc": torch.zeros(2), "scale": torch.ones(2)}, 3)],
)
def test_what_is_pruned_stays_so_in_a_group_of_its_own(options, priors):
    model, guide, x, y = trained(**options)
    mask = torch.arange(model.layout.num_weights) % 3 > 0
    model.mask = mask
    shared_model, shared = share_posterior(model, guide, 5, local_reparam=True)
    shared.setup(x, y)
    assert torch.equal(shared_model.mask, mask)
    assert torch.equal(shared.codebook().kept, mask)
    assert shared_model.assignment.num_groups == priors
    assert bool((shared_model.assignment.index[~mask] == 2).all())
    assert model.assignment.num_groups == 2
    svi = PhasedSVI(shared_model, shared, warmup=0)
    svi.run([(x, y)] * 30, epochs=2, progress=False)
    assert svi.history.epochs[-1].loss < svi.history.epochs[0].loss


def test_what_is_refused():
    model, guide, _, _ = trained()
    with pytest.raises(TypeError, match="model: expected a BayesianModule, got Linear"):
        share_posterior(nn.Linear(2, 1), guide)
    with pytest.raises(ValueError, match="posterior: expected draws of 'weights'"):
        share_posterior(model, {"noise": torch.ones(5)})
    for name, prior in (("loc", Learned(0.0)), ("scale", LogNormal(torch.zeros(2), 1.0))):
        other, posterior, _, _ = trained(**{name: prior})
        other.mask = torch.arange(other.layout.num_weights) > 3
        with pytest.raises(
            ValueError, match=f"model: its prior's {name} has a value for each group"
        ):
            share_posterior(other, posterior)
    with pytest.raises(TypeError, match="num_entries: expected a number or a clusterer"):
        share_posterior(model, guide, "many")


def test_what_is_kept_is_so_within_the_mask():
    model, guide, _, _ = trained()
    mask = torch.arange(model.layout.num_weights) % 2 > 0
    keep = torch.arange(model.layout.num_weights) != 1
    model.mask = mask
    shared_model, _ = share_posterior(model, guide, 4, keep=keep)
    assert torch.equal(shared_model.mask, mask & keep)


def test_chains_are_draws():
    model, guide, x, y = trained()
    draws = guide.draws(400)
    chains = {name: value.unflatten(0, (4, 100)) for name, value in draws.items()}
    found = []
    for posterior in (draws, chains):
        _, shared = share_posterior(model, posterior, 4)
        shared.setup(x, y)
        found.append(shared.median())
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value)
