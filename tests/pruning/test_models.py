# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Smaller models, against the whole one with what was taken out at zero."""

import pyro
import pytest
import torch
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior.pruning import prune_draws, prune_model, shrink_draws, shrink_model
from pyro_groupprior.pruning.models import kept_weights
from pyro_groupprior.symmetry import posterior_symmetry

X, Y = torch.randn(9, 3), torch.randn(9, 1)


@pytest.mark.parametrize("options", [{}, {"centered": False}, {"grouping": "layer"}])
def test_draws_of_the_smaller_model(options: dict) -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
    model = pgp.BayesianModule(net, pgp.likelihoods.Normal(), num_data=9, **options)
    symmetry = posterior_symmetry(model, X)
    kept = {"0": torch.tensor([1, 4]), "2": torch.tensor([0, 1, 3])}
    small = shrink_model(model, symmetry, kept, X)
    assert small.layout.num_weights == (3 + 1) * 2 + (2 + 1) * 3 + 4
    draws = pyro.infer.Predictive(model, num_samples=6)(X)  # of the prior
    site = "weights" if options.get("centered", True) else "weights_decentered"
    draws = {k: v for k, v in draws.items() if k != "obs"}
    if site != "weights":
        draws.pop("weights")
    few = shrink_draws(model, draws, symmetry, kept)
    mask = torch.zeros(model.layout.num_weights, dtype=torch.bool)
    mask[kept_weights(model.layout, symmetry, kept)] = True
    whole = pgp.predict(model, prune_draws(model, draws, mask), X)
    torch.testing.assert_close(pgp.predict(small, few, X).outputs, whole.outputs)
    guide = pgp.AutoMeanField(small)
    svi = pgp.PhasedSVI(small, guide)
    svi.run([(X, Y)], epochs=2, progress=False)  # it can be trained on
    assert guide.moments(site)[0].shape == (small.layout.num_weights,)


def test_priors_stay_as_they_are() -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1))
    model = pgp.BayesianModule(net, pgp.likelihoods.Normal(), scale=torch.rand(9) + 0.5)
    symmetry = posterior_symmetry(model, X, prior=False)
    kept = {"0": torch.tensor([3, 0])}
    small = shrink_model(prune_model(model, torch.arange(26) % 2 > 0), symmetry, kept, X)
    index = kept_weights(model.layout, symmetry, kept)
    assert torch.equal(small.assignment.index, model.assignment.index[index])
    assert small.assignment.num_groups == model.assignment.num_groups
    assert torch.equal(small.base_scale, model.base_scale[index])
    assert torch.equal(small.mask, (torch.arange(26) % 2 > 0)[index])
    assert index[:3].tolist() == [9, 10, 11]  # unit 3 comes first now
