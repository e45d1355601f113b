# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Log-densities of a guide's draws, and the prior's draws, against Pyro's own traces."""

import arviz
import numpy as np
import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from scipy import stats
from torch import nn

import pyro_groupprior as pgp

GUIDES = {
    "mean_field": pgp.AutoMeanField,
    "full_rank": pgp.AutoFullRank,
    "low_rank": pgp.AutoLowRank,
    "block": pgp.AutoBlockNormal,
}
LIKELIHOODS = {
    "normal": (pgp.likelihoods.Normal(), 1),
    "several": (pgp.likelihoods.Normal(), 2),
    "student_t": (pgp.likelihoods.StudentT(), 1),
    "labels": (pgp.likelihoods.Categorical(), 3),
}


def problem(likelihood="normal", **options):
    """A model, one row of data for each of 12 observations, and a few of them."""
    kind, outputs = LIKELIHOODS[likelihood]
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, outputs))
    model = pgp.BayesianModule(net, kind, **options)
    x = torch.randn(12, 2)
    y = torch.arange(12) % 3 if likelihood == "labels" else torch.randn(12, outputs)
    return model, x, y


def by_traces(model, guide, draws, x, y):
    """What Pyro says of each draw in turn."""
    found = []
    for number in range(len(next(iter(draws.values())))):
        values = {name: value[number] for name, value in draws.items()}
        with poutine.block():
            pair = [
                poutine.trace(poutine.condition(part, data=values)).get_trace(x, y).log_prob_sum()
                for part in (model, guide)
            ]
        found.append(torch.stack(pair))
    return torch.stack(found).T.detach()


@pytest.mark.parametrize("kind", GUIDES)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_log_densities_are_those_of_traces(kind, likelihood, monkeypatch):
    model, x, y = problem(likelihood)
    guide = GUIDES[kind](model)
    guide.setup(x, y)
    draws = guide.draws(6)
    monkeypatch.setattr(guide, "draws", lambda num_draws: draws)
    tree = pgp.to_datatree(model, guide, x, y, num_draws=6)
    log_p, log_q = by_traces(model, guide, draws, x, y)
    assert np.allclose(tree["sample_stats"]["lp"][0], log_p, rtol=1e-4, atol=1e-3)
    assert np.allclose(tree["sample_stats"]["log_q"][0], log_q, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("options", [{"centered": False}, {"grouping": "layer", "loc": 0.0}])
def test_log_densities_of_other_priors(options, monkeypatch):
    model, x, y = problem(**options)
    guide = pgp.AutoMeanField(model)
    guide.setup(x, y)
    draws = guide.draws(6)
    monkeypatch.setattr(guide, "draws", lambda num_draws: draws)
    found = pgp.to_datatree(model, guide, x, y, num_draws=6, num_chains=2)["sample_stats"]
    log_p, log_q = by_traces(model, guide, draws, x, y)
    assert np.allclose(found["lp"].values.reshape(-1), log_p, rtol=1e-4, atol=1e-3)
    assert np.allclose(found["log_q"].values.reshape(-1), log_q, rtol=1e-4, atol=1e-3)


def test_densities_of_draws_that_do_not_fit():
    model, x, y = problem()
    guide = pgp.AutoMeanField(model)
    with pytest.raises(RuntimeError, match="no parameters yet"):
        guide.log_prob({})
    guide.setup(x, y)
    draws = guide.draws(3)
    with pytest.raises(ValueError, match="'noise' is missing"):
        guide.log_prob({name: value for name, value in draws.items() if name != "noise"})
    with pytest.raises(ValueError, match=r"draws\['weights'\]: expected shape \(3, 13\)"):
        guide.log_prob(draws | {"weights": torch.zeros(3, 12)})


def conjugate(widen):
    """A linear model with a normal posterior, and a guide whose deviations are off by a factor."""
    x = torch.randn(40, 2)
    y = x @ torch.tensor([[1.0], [-2.0]]) + 0.5 * torch.randn(40, 1)
    net = nn.Linear(2, 1, bias=False)
    model = pgp.BayesianModule(
        net, pgp.likelihoods.Normal(noise=0.5), loc=0.0, scale=1.0, base_scale=1.0
    )
    covariance = torch.linalg.inv(x.T @ x / 0.25 + torch.eye(2))
    mean = covariance @ x.T @ y[:, 0] / 0.25
    guide = pgp.AutoFullRank(model)
    draws = torch.randn(4000, 2) @ torch.linalg.cholesky(covariance).T
    guide.fit_draws({"weights": mean + widen * (draws - draws.mean(0))}, x, y)
    return model, guide, x, y


def test_smoothed_importance_sampling_judges_guides():
    # Of a normal guide with deviations c times too small, ratios have a tail of shape 1 - c^2.
    for widen, low, high in ((1.0, -1.0, 0.3), (0.4, 0.64, 1.04)):
        model, guide, x, y = conjugate(widen)
        found = pgp.to_datatree(model, guide, x, y, num_draws=5000)["sample_stats"]
        weights = (found["lp"] - found["log_q"]).values.reshape(-1)
        assert low < float(arviz.psislw(weights)[1]) < high


def test_prior_draws_have_the_priors_moments():
    model = pgp.BayesianModule(
        nn.Linear(3, 1, bias=False),
        pgp.likelihoods.Normal(noise=dist.HalfNormal(2.0)),
        grouping="all",
        loc=dist.Normal(1.0, 0.5),
        scale=dist.Uniform(1.0, 2.0),
        base_scale=2.0,
    )
    x = torch.eye(3)
    draws = {"weights": torch.zeros(4000, 3), "noise": torch.ones(4000)}
    draws |= {"weights_loc": torch.zeros(4000, 1), "weights_scale": torch.ones(4000, 1)}
    tree = pgp.to_datatree(model, draws, x, prior=True, num_chains=4)
    prior = tree["prior"].to_dataset()
    assert {n: v.dims for n, v in prior.items()} == {
        n: v.dims for n, v in tree["posterior"].to_dataset().items()
    }
    flat = {name: value.values.reshape(4000, -1) for name, value in prior.items()}
    for name, law in (
        ("weights_loc", stats.norm(1.0, 0.5)),
        ("weights_scale", stats.uniform(1.0, 1.0)),
        ("noise", stats.halfnorm(scale=2.0)),
    ):
        assert stats.kstest(flat[name][:, 0], law.cdf).pvalue > 1e-3
    # E w = 2 E loc; Var w = 4 (Var loc + E scale^2).
    sd = 2 * np.sqrt(0.25 + 7 / 3)
    assert np.allclose(flat["weight"].mean(0), 2.0, atol=5 * sd / np.sqrt(4000))
    assert np.allclose(flat["weight"].std(0), sd, rtol=0.1)
    # The outputs for unit vectors are the weights: what is left is noise.
    rest = tree["prior_predictive"]["obs"].values.reshape(4000, 3) - flat["weight"]
    assert stats.kstest((rest / flat["noise"])[:, 0], stats.norm.cdf).pvalue > 1e-3


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_prior_draws_of_other_likelihoods_and_priors(likelihood):
    for options in ({}, {"centered": False}, {"scale": pgp.Learned(0.5)}):
        model, x, y = problem(likelihood, **options)
        with pyro.poutine.block():
            model(x, y)  # makes learned points
        guide = pgp.AutoMeanField(model)
        guide.setup(x, y)
        tree = pgp.to_datatree(model, guide, x, y, num_draws=7, prior=True)
        for one, other in (("prior", "posterior"), ("prior_predictive", "posterior_predictive")):
            first, second = tree[one].to_dataset(), tree[other].to_dataset()
            assert {k: v.shape for k, v in first.items()} == {k: v.shape for k, v in second.items()}
