# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Means and standard deviations of weights, against those of many draws."""

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoLaplaceApproximation
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior.comparison import WeightMoments, weight_moments

X, Y = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(30).long()


def _model(**options: bool) -> pgp.BayesianModule:
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    return pgp.BayesianModule(net, pgp.likelihoods.Categorical(), base_scale=0.5, **options)


def test_guides_and_draws() -> None:
    model = _model()
    guide = pgp.AutoMeanField(model)
    guide.setup(X, Y)
    found = weight_moments(model, guide)
    draws = guide.draws(20_000)
    again = weight_moments(model, draws)
    torch.testing.assert_close(again.mean, found.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(again.sd, found.sd, rtol=0.05, atol=0)
    assert weight_moments(model, found) is found
    chains = {"weights": draws["weights"].unflatten(0, (4, -1))}
    torch.testing.assert_close(weight_moments(model, chains).mean, again.mean)


def test_models_that_are_not_centered() -> None:
    model = _model(centered=False)
    guide = pgp.AutoMeanField(model)
    guide.setup(X, Y)
    draws = guide.draws(4000)
    loc, scale = draws["weights_loc"], draws["weights_scale"]
    index = model.assignment.index
    weights = 0.5 * (loc[:, index] + scale[:, index] * draws["weights_decentered"])
    found = weight_moments(model, draws)
    torch.testing.assert_close(found.mean, weights.mean(0))
    torch.testing.assert_close(found.sd, weights.std(0))
    torch.testing.assert_close(weight_moments(model, guide).mean, found.mean, atol=0.3, rtol=0)


def test_a_point_has_no_standard_deviations() -> None:
    model = pgp.BayesianModule(nn.Linear(2, 1), pgp.likelihoods.Normal(noise=1.0), scale=1.0)
    guide = AutoLaplaceApproximation(model)
    y = X[:, :1]
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(300):
        svi.step(X, y)
    with pytest.raises(TypeError, match=r"got a point of AutoLaplaceApproximation; .*laplace_appr"):
        weight_moments(model, guide)
    normal = guide.laplace_approximation(X, y)
    assert bool((weight_moments(model, normal).sd > 0).all())


def test_bad_input() -> None:
    model = _model()
    with pytest.raises(ValueError, match="posterior: expected two or more draws, got 1"):
        weight_moments(model, {"weights": torch.zeros(1, 17)})
    with pytest.raises(ValueError, match="posterior: expected draws of 'weights', got those of"):
        weight_moments(model, {})
    with pytest.raises(ValueError, match=r"posterior: expected moments \[17\], got \[3\]"):
        weight_moments(model, WeightMoments(torch.zeros(3), torch.ones(3)))
    with pytest.raises(ValueError, match="mean, sd: expected the same shape"):
        WeightMoments(torch.zeros(3), torch.ones(2))
    for sd in (-1.0, torch.nan):
        with pytest.raises(ValueError, match="standard deviations of 0 or more"):
            WeightMoments(torch.zeros(1), torch.tensor([sd]))
