# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Stochastic-gradient MCMC against a posterior that is known exactly."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior.mcmc import TemperatureWarning, run_sgmcmc
from tests.mcmc.known import SHORT, exact, linear, small_net

OPTIONS = SHORT | {"batch_size": 5, "warmup_steps": 60, "thin": 2}


@pytest.mark.parametrize(("batch_size", "widest"), [(20, 2.0), (20, 5.0), (200, 2.0)])
def test_moments_of_a_conjugate_regression(batch_size, widest):
    torch.manual_seed(1)
    x = torch.randn(200, 4) * torch.tensor([1.0, 1.0, 1.0, widest])
    y = x @ torch.tensor([1.0, -1.0, 0.5, 0.1]) + 0.7 * torch.randn(200)
    result = run_sgmcmc(
        functools.partial(linear, num_data=200),
        x,
        y,
        batch_size=batch_size,
        num_samples=300,
        warmup_steps=1500,
        num_chains=64,
        memory=20,
        ascent_steps=300,
        thin=10,
        progress=False,
    )
    mean, covariance = exact(x, y)
    draws = result.get_samples()["beta"]
    sd = covariance.diagonal().sqrt()
    # Chains are independent: their means tell how sure their mean is.
    means = result.samples["beta"].mean(1)
    assert ((means.mean(0) - mean).abs() < 4 * means.std(0) / len(means) ** 0.5 + 0.02 * sd).all()
    torch.testing.assert_close(draws.std(0), sd, rtol=0.1, atol=0.0)
    found = torch.corrcoef(draws.T)
    # No room is made for what batches bring to pairs of coefficients.
    most = 0.1 if batch_size == 200 else 0.2
    torch.testing.assert_close(found, covariance / sd / sd[:, None], rtol=0.0, atol=most)
    assert float(result.temperature.mean()) == pytest.approx(1.0, abs=0.05)
    assert (result.step_size > 0).all()


def test_groups_and_classes_are_sampled_too():
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    model = pgp.BayesianModule(net, pgp.likelihoods.Categorical(), num_data=12, grouping="column")
    result = run_sgmcmc(model, torch.randn(12, 2), torch.randint(3, (12,)), **OPTIONS)
    assert result.samples["weights_scale"].shape == (3, 4, model.assignment.num_groups)


def test_bad_data():
    with pytest.raises(ValueError, match=r"num_data: expected .*num_data=12.* got 60"):
        run_sgmcmc(small_net(60), torch.zeros(12, 2), torch.zeros(12, 1), **OPTIONS)
    with pytest.raises(ValueError, match=r"num_data: expected .*num_data=12.* got None"):
        run_sgmcmc(small_net(None), torch.zeros(12, 2), torch.zeros(12, 1), **OPTIONS)
    with pytest.raises(ValueError, match=r"args: expected tensors of as many rows each, got \[11"):
        run_sgmcmc(small_net(), torch.zeros(12, 2), torch.zeros(11, 1), **OPTIONS)


@pytest.mark.parametrize("seed", range(3))
def test_every_target_is_looked_at(seed):
    model = pgp.BayesianModule(nn.Linear(2, 1), pgp.likelihoods.Bernoulli(), num_data=60)
    y = torch.zeros(60, 1)
    y[37] = 7.0
    with pytest.raises(ValueError, match="zeros and ones"):
        run_sgmcmc(model, torch.zeros(60, 2), y, seed=seed, **OPTIONS)


def test_latents_of_single_rows_are_refused():
    def model(x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x[:, 0], 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    with pytest.raises(ValueError, match=r"latents for all rows, but 'z' .* \(5,\) .* \(1,\)"):
        run_sgmcmc(model, torch.zeros(12, 2), torch.zeros(12), **OPTIONS)


def test_chains_that_run_hot_are_told():
    x = torch.randn(12, 2)
    start = {name: value[:, -1] for name, value in _samples(x).items()}
    start["weights"] = start["weights"] + 30.0  # high up, whence they fall
    options = OPTIONS | {
        "ascent_steps": 0,
        "warmup_steps": 0,
        "num_samples": 40,
        "thin": 10,
        "batch_size": 12,
    }
    with pytest.warns(TemperatureWarning, match="times the posterior's temperature"):
        run_sgmcmc(small_net(), x, x[:, :1], start=start, **options)


def _samples(x):
    return run_sgmcmc(small_net(), x, x[:, :1], **OPTIONS).samples
