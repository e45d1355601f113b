# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Trees of models that are no nets, against a conjugate posterior and Pyro's own traces."""

import arviz
import numpy as np
import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

import pyro_groupprior as pgp

GROUPS = pgp.AssignmentBuffer(pgp.Assignment(torch.arange(6) % 2))


def regression(x, y=None):
    """Grouped coefficients, a level for each of three schools, and one noise."""
    beta = pgp.group_prior("beta", GROUPS, base_scale=0.5)
    with pyro.plate("school", 3):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
    noise = pyro.sample("noise", dist.HalfNormal(1.0))
    with pyro.plate("pupil", len(x)):
        mean = x @ beta + level[torch.arange(len(x)) % 3]
        pyro.sample("score", dist.Normal(mean, noise), obs=y)


@pytest.fixture
def fitted():
    x, y = torch.randn(12, 6), torch.randn(12)
    guide = pgp.AutoMeanField(regression)
    guide.setup(x, y)
    return guide, x, y


def test_names_of_sites_and_plates(fitted):
    guide, x, y = fitted
    tree = pgp.to_datatree(regression, guide, x, y, 8, new_x=x[:4], num_chains=2, prior=True)
    assert {name: v.dims[2:] for name, v in tree["posterior"].data_vars.items()} == {
        "beta_loc": ("beta_groups",),
        "beta_scale": ("beta_groups",),
        "beta": ("beta_dim_0",),
        "level": ("school",),
        "noise": (),
    }
    assert tree["posterior_predictive"]["score"].dims == ("chain", "draw", "pupil")
    assert tree["log_likelihood"]["score"].shape == (2, 4, 12)
    assert tree["predictions"]["score"].shape == (2, 4, 4)
    assert tree["prior_predictive"]["score"].shape == (2, 4, 12)
    assert set(tree["prior"].data_vars) == set(tree["posterior"].data_vars)
    assert np.array_equal(tree["observed_data"]["score"], y)
    constant = tree["constant_data"]
    assert np.array_equal(constant["beta_assignment"], torch.arange(6) % 2)
    assert np.allclose(constant["beta_base_scale"], 0.5)
    assert np.array_equal(constant["beta_group_size"], [3, 3])


def test_densities_are_those_of_traces(fitted, monkeypatch):
    guide, x, y = fitted
    draws = guide.draws(5)
    monkeypatch.setattr(guide, "draws", lambda num_draws: draws)
    tree = pgp.to_datatree(regression, guide, x, y, 5)
    for number in range(5):
        values = {name: value[number] for name, value in draws.items()}
        with poutine.block():
            parts = [
                poutine.trace(poutine.condition(part, data=values)).get_trace(x, y)
                for part in (regression, guide)
            ]
        rows = parts[0].nodes["score"]["fn"].log_prob(y)
        assert np.allclose(tree["log_likelihood"]["score"][0, number], rows, atol=1e-5)
        for name, trace in zip(("lp", "log_q"), parts, strict=True):
            expected = trace.log_prob_sum().detach()
            assert np.allclose(tree["sample_stats"][name][0, number], expected, rtol=1e-5)


def test_missing_observations_do_not_count():
    seen = torch.tensor([True, False, True, True])

    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 4), poutine.mask(mask=seen):
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    y = torch.randn(4)
    tree = pgp.to_datatree(lambda x, y=None: model(y), {"z": torch.zeros(2)}, torch.zeros(4), y)
    expected = torch.where(seen, dist.Normal(0.0, 1.0).log_prob(y), 0.0)
    assert np.allclose(tree["log_likelihood"]["y"][0], expected)


def test_pyros_guides_and_chains():
    def coin(y=None):
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        with pyro.plate("tosses", 20):
            pyro.sample("y", dist.Bernoulli(p), obs=y)

    def model(x, y=None):
        return coin(y)

    y = (torch.arange(20) % 4 == 0).float()
    x = torch.zeros(20)
    options = {"num_samples": 500, "warmup_steps": 200, "num_chains": 2, "progress": False}
    result = pgp.mcmc.run_mcmc(model, x, y, **options)
    tree = pgp.to_datatree(model, result, x, y)
    summary = arviz.summary(arviz.from_datatree(tree), round_to="none")
    exact = torch.distributions.Beta(7.0, 17.0)
    assert summary.loc["p", "mean"] == pytest.approx(float(exact.mean), abs=0.02)
    assert summary.loc["p", "sd"] == pytest.approx(float(exact.stddev), rel=0.15)
    assert tree["sample_stats"]["lp"].shape == (2, 500)
    guide = AutoNormal(model)
    guide(x, y)
    tree = pgp.to_datatree(model, guide, x, y, 30)
    assert tree["posterior"]["p"].shape == (1, 30) and "sample_stats" not in tree.children
