# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The posterior found by default, against the exact one of a linear regression."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior import AutoMeanField, BayesianModule, Regroup, fit, likelihoods
from pyro_groupprior.fitting import _batches
from pyro_groupprior.mcmc import run_hmc
from tests.svi.runs import Planned

COEFFICIENTS = torch.tensor([[1.0], [-2.0], [0.3]])
NOISE = 0.5


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=generator)
    return x, x @ COEFFICIENTS + NOISE * torch.randn(60, 1, generator=generator)


@pytest.fixture(autouse=True)
def short_chains(monkeypatch):
    options = {"num_samples": 100, "warmup_steps": 50, "num_chains": 4, "num_steps": 5}
    monkeypatch.setattr("pyro_groupprior.fitting.run_hmc", functools.partial(run_hmc, **options))


def linear():
    return BayesianModule(
        nn.Linear(3, 1, bias=False), likelihoods.Normal(noise=NOISE), num_data=60, loc=0.0, scale=1
    )


def exact(x, y):
    precision = x.T @ x / NOISE**2 + torch.eye(3) * 3
    return torch.linalg.solve(precision, x.T @ y / NOISE**2)[:, 0], precision


def test_small_models_are_sampled(data):
    draws = fit(linear(), *data, progress=False)
    mean, precision = exact(*data)
    covariance = precision.inverse()
    weights = draws["weights"]
    assert weights.shape == (400, 3)
    assert ((weights.mean(0) - mean).abs() < 0.25 * covariance.diagonal().sqrt()).all()
    torch.testing.assert_close(torch.cov(weights.T), covariance, rtol=0.3, atol=1e-3)


@pytest.mark.parametrize("method", ["auto", "svi"])
def test_large_ones_get_a_guide(data, method, monkeypatch):
    monkeypatch.setattr("pyro_groupprior.fitting.LARGE", 179)
    guide = fit(linear(), *data, method=method, progress=False)
    assert isinstance(guide, AutoMeanField) and guide.local_reparam
    mean, precision = exact(*data)
    found, sd = guide.moments("weights")
    assert ((found - mean).abs() < 0.25 * sd).all()
    torch.testing.assert_close(sd, precision.diagonal().rsqrt(), rtol=0.15, atol=0.0)


def test_chains_go_on_from_the_groups_that_were_found(data):
    model = BayesianModule(
        nn.Linear(3, 1, bias=False), likelihoods.Normal(noise=NOISE), num_data=60
    )
    regroup = Regroup(Planned(torch.tensor([0, 1, 0])), phases=1)
    draws = fit(model, *data, regroup=regroup, progress=False)
    assert draws["weights_scale"].shape == (400, 2)
    assert model.assignment.index.tolist() == [0, 1, 0]


def test_a_seed_gives_the_same_and_leaves_the_process_alone(data):
    model = linear()
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    options = {"method": "svi", "seed": 5, "progress": False}
    one, two = (fit(model, *data, **options) for _ in range(2))
    assert torch.equal(one.moments("weights")[0], two.moments("weights")[0])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_many_rows_come_in_batches():
    assert len(_batches(torch.zeros(2048, 1), torch.zeros(2048))) == 1
    loader = _batches(torch.arange(2049.0), torch.arange(2049.0))
    sizes = [len(x) for x, _ in loader]
    assert sizes == [256] * 8 + [1]
    assert sorted(torch.cat([x for x, _ in loader]).tolist()) == list(range(2049))


def test_bad_arguments(data):
    with pytest.raises(TypeError, match="model: expected a BayesianModule, got function"):
        fit(lambda x, y: None, *data)
    with pytest.raises(ValueError, match="method: expected one of"):
        fit(linear(), *data, method="nuts")
    with pytest.raises(ValueError, match="x, y: expected as many rows, got 60 and 59"):
        fit(linear(), data[0], data[1][:59])
    with pytest.raises(ValueError, match="NaN or inf"):
        fit(linear(), data[0] / 0.0, data[1], progress=False)
    assert pgp.fit is fit
