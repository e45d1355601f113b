# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What runs of HMC and of stochastic-gradient MCMC have in common."""

import functools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior.mcmc import run_hmc, run_sgmcmc
from tests.mcmc.known import SHORT, small_net

RUNS = {
    "hmc": functools.partial(run_hmc, **SHORT, warmup_steps=6, num_steps=3),
    "sgmcmc": functools.partial(run_sgmcmc, **SHORT, warmup_steps=60, batch_size=5, thin=2),
}
both = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)


# Chains as short as these may well be hot.
pytestmark = pytest.mark.filterwarnings("ignore::pyro_groupprior.mcmc.TemperatureWarning")


@both
def test_the_seed_decides_and_nothing_else_moves(run):
    model, x = small_net(), torch.randn(12, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first = run(model, x, x[:, :1], seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.randn(7)
    again = run(model, x, x[:, :1], seed=3)
    other = run(model, x, x[:, :1], seed=4)
    assert torch.equal(first.samples["weights"], again.samples["weights"])
    assert not torch.equal(first.samples["weights"], other.samples["weights"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


@both
def test_starts_from_a_guide_or_from_values(run):
    model, x = small_net(), torch.randn(12, 2)
    guide = pgp.AutoMeanField(model)
    guide.setup(x, x[:, :1])
    first = run(model, x, x[:, :1], start=guide)
    last = {name: value[:, -1] for name, value in first.samples.items()}
    second = run(model, x, x[:, :1], start=last, ascent_steps=None)
    assert second.samples["weights"].shape == (3, 4, model.layout.num_weights)
    assert pgp.predict(model, second.get_samples(), x).mean.shape == (12, 1)


def test_chains_start_from_nets_of_their_own():
    model, x = small_net(), torch.randn(12, 2)
    options = {"ascent_steps": 0, "warmup_steps": 1, "num_samples": 1}
    weights = RUNS["hmc"](model, x, x[:, :1], **options).samples["weights"][:, 0]
    assert (weights[0] - weights[1]).abs().max() > 0.1


@both
def test_point_parameters_stay_and_draws_carry_no_gradient(run):
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
    model, x = pgp.BayesianModule(net, pgp.likelihoods.Normal(), num_data=12), torch.randn(12, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = run(model, x, x[:, :1])
    assert not any(value.requires_grad for value in result.samples.values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


COMMON = [
    ("num_samples", 0, ValueError, "num_samples: expected at least 1, got 0"),
    ("num_samples", 2.5, TypeError, r"num_samples: expected an integer, got 2\.5"),
    ("num_chains", 0, ValueError, "num_chains: expected at least 1"),
    ("ascent_steps", -1, ValueError, "ascent_steps: expected at least 0"),
    ("thin", 0, ValueError, "thin: expected at least 1"),
    ("start", 3, TypeError, "start: expected a guide"),
    ("start", {"weights": torch.zeros(2, 17)}, ValueError, r"start: expected .* \(3, 17\)"),
]
OWN = [
    ("num_steps", 0, ValueError, "num_steps: expected at least 1"),
    ("batch_size", 0, ValueError, "batch_size: expected at least 1"),
    ("memory", 0.5, ValueError, "memory: expected at least 1 and finite, got 0.5"),
    ("memory", torch.inf, ValueError, "memory: expected at least 1 and finite, got inf"),
    ("memory", torch.nan, ValueError, "memory: expected at least 1 and finite, got nan"),
]


@pytest.mark.parametrize(
    ("kind", "name", "value", "error", "match"),
    [(kind, *case) for kind in RUNS for case in COMMON]
    + [
        (kind, "warmup_steps", -1, ValueError, f"warmup_steps: expected at least {least}, got -1")
        for kind, least in (("hmc", 1), ("sgmcmc", 0))
    ]
    + [("hmc" if case[0] == "num_steps" else "sgmcmc", *case) for case in OWN],
)
def test_bad_arguments(kind, name, value, error, match):
    with pytest.raises(error, match=match):
        RUNS[kind](small_net(), torch.zeros(12, 2), torch.zeros(12, 1), **{name: value})


@both
def test_counts_may_be_those_of_numpy(run):
    x = torch.randn(12, 2)
    assert run(small_net(), x, x[:, :1], num_samples=np.int64(2)).samples["noise"].shape[1] == 2


@both
def test_a_start_is_not_left_behind(run, monkeypatch):
    monkeypatch.setattr("pyro_groupprior.mcmc.adaptation.FIRST_STEP", 1e-5)
    model, x = small_net(), torch.randn(12, 2)
    start = {name: value[:, -1] for name, value in run(model, x, x[:, :1]).samples.items()}
    options = {"start": start, "num_samples": 1, "warmup_steps": 1, "ascent_steps": None}
    found = run(model, x, x[:, :1], **options).samples["weights"][:, 0]
    assert (found - start["weights"]).abs().max() < 0.1
    options["ascent_steps"] = 100
    climbed = run(model, x, x[:, :1], **options).samples["weights"][:, 0]
    assert (climbed - start["weights"]).abs().max() > 0.2


@both
def test_a_model_that_mixes_chains_is_refused(run):
    def model(x, y):
        beta = pgp.group_prior("beta", pgp.Assignment(torch.zeros(2, dtype=torch.long)))
        pyro.factor("penalty", -beta.square().sum())
        with pyro.poutine.scale(scale=12 / len(x)), pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal((x * beta).sum(-1), 1.0), obs=y[:, 0])

    with pytest.raises(ValueError, match="model: expected one that allows outer plates"):
        run(model, torch.randn(12, 2), torch.zeros(12, 1))


@both
def test_what_a_net_is_to_know_of_its_data(run):
    with pytest.raises(ValueError, match=r"num_data: expected .*num_data=12.* got 60"):
        run(small_net(60), torch.zeros(12, 2), torch.zeros(12, 1))
    with pytest.raises(ValueError, match="args: expected observations too, got none for 'obs'"):
        run(small_net(), torch.zeros(12, 2))


@both
def test_data_that_are_not_finite_are_told(run):
    with pytest.raises(ValueError, match="NaN"):
        run(small_net(), torch.full((12, 2), torch.nan), torch.zeros(12, 1))
