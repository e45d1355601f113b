# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The posterior found by default, against the exact one of a linear regression."""

import functools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior import AutoMeanField, BayesianModule, Regroup, fit, likelihoods
from pyro_groupprior.fitting import _batches, _by_size, _digest, _has_points
from pyro_groupprior.mcmc import run_hmc, run_sgmcmc
from pyro_groupprior.svi import Checkpoint
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
    options = {"warmup_steps": 1500, "ascent_steps": 300, "thin": 30}
    short = functools.partial(run_sgmcmc, **options)
    monkeypatch.setattr("pyro_groupprior.fitting.run_sgmcmc", short)


def linear(noise=NOISE, net=None, **prior):
    prior = {"loc": 0.0, "scale": 1.0} | prior
    net = nn.Linear(3, 1, bias=False) if net is None else net
    return BayesianModule(net, likelihoods.Normal(noise=noise), num_data=60, **prior)


def exact(x, y):
    precision = x.T @ x / NOISE**2 + torch.eye(3) * 3
    return torch.linalg.solve(precision, x.T @ y / NOISE**2)[:, 0], precision


def test_small_models_are_sampled(data):
    draws = fit(linear(), *data, progress=False)
    mean, precision = exact(*data)
    covariance = precision.inverse()
    weights = draws["weights"]
    assert weights.shape == (400, 3)
    assert torch.equal(draws.samples["weights"].flatten(0, 1), weights)
    assert set(draws) == {"weights"} and len(draws) == 1
    assert (draws.accept_prob > 0.5).all()
    assert ((weights.mean(0) - mean).abs() < 0.25 * covariance.diagonal().sqrt()).all()
    torch.testing.assert_close(torch.cov(weights.T), covariance, rtol=0.3, atol=1e-3)


def test_larger_ones_take_minibatches(data, monkeypatch):
    monkeypatch.setattr("pyro_groupprior.fitting.MOST_FOR_HMC", 359)  # 60 rows, 3 weights
    monkeypatch.setattr("pyro_groupprior.fitting.BATCH", 20)
    draws = fit(linear(), *data, progress=False)
    mean, precision = exact(*data)
    sd = precision.inverse().diagonal().sqrt()
    assert draws["weights"].shape == (800, 3)
    assert ((draws["weights"].mean(0) - mean).abs() < 0.3 * sd).all()
    torch.testing.assert_close(draws["weights"].std(0), sd, rtol=0.2, atol=0.0)


@pytest.mark.parametrize("method", ["auto", "svi"])
def test_large_ones_get_a_guide(data, method, monkeypatch):
    monkeypatch.setattr("pyro_groupprior.fitting.MOST_FOR_HMC", 359)
    monkeypatch.setattr("pyro_groupprior.fitting.MOST_FOR_SGMCMC", 1535)  # 256 rows
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


@pytest.mark.parametrize("method", ["hmc", "sgmcmc"])
def test_learned_points_are_learned_before_chains_run(data, method):
    """Chains leave them where they are."""
    pyro.clear_param_store()
    model = linear(noise=pgp.Learned(3.0))
    draws = fit(model, *data, method=method, progress=False)
    assert pyro.param("noise").item() == pytest.approx(NOISE, rel=0.2)
    sd = exact(*data)[1].inverse().diagonal().sqrt()
    torch.testing.assert_close(draws["weights"].std(0), sd, rtol=0.3, atol=0.0)
    assert not _has_points(linear()) and _has_points(linear(scale=pgp.Learned(1.0)))


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


def test_an_interrupted_fit_goes_on(data, tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_groupprior.fitting.STEPS_KEPT", 100)
    options = {"method": "svi", "progress": False, "checkpoint": tmp_path / "run"}
    torch.manual_seed(0)
    whole = fit(linear(), *data, method="svi", progress=False)
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "on_epoch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit(linear(), *data, **options)
    torch.manual_seed(1)
    model = linear()  # from other weights
    resumed = fit(model, *data, **options)
    assert torch.equal(resumed.moments("weights")[0], whole.moments("weights")[0])
    again = fit(model, *data, **options)  # nothing is left to do
    assert torch.equal(again.moments("weights")[0], whole.moments("weights")[0])


def test_a_checkpoint_is_that_of_one_call(data, tmp_path):
    options = {"method": "svi", "progress": False, "checkpoint": tmp_path / "run"}
    fit(linear(), *data, **options)
    regroup = Regroup(Planned(torch.tensor([0, 1, 0])), phases=1)
    for other in ({"seed": 7}, {"regroup": regroup}):
        with pytest.raises(ValueError, match="path: the file is that of another run"):
            fit(linear(), *data, **options, **other)
    with pytest.raises(ValueError, match="path: the file is that of another run"):
        fit(linear(), data[0], -data[1], **options)
    for prior in (
        {"grouping": "all"},
        {"scale": dist.HalfCauchy(1.0)},
        {"family": "laplace"},
        {"base_scale": 2.0},
        {"noise": 0.4},
        {"loc": torch.tensor([0.0, 0.0, 0.1])},
    ):
        with pytest.raises(ValueError, match="path: the file is that of another run"):
            fit(linear(**prior), *data, **options)
    net = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Tanh())
    with pytest.raises(ValueError, match="path: the file is that of another run"):
        fit(linear(net=net), *data, **options)


def test_a_checkpoint_is_that_of_one_way_to_regroup():
    def digest(regroup):
        return _digest(linear(), torch.zeros(60, 3), torch.zeros(60, 1), 0, regroup)

    ways = [
        Regroup(strategy, **options)
        for strategy, options in (
            (pgp.Naive(2), {"phases": 2}),
            (pgp.Naive(3), {"phases": 2}),
            (pgp.Naive(2), {"phases": 3}),
            (pgp.Naive(2), {"phases": 2, "accept": "elbo"}),
            (pgp.Cluster(KMeans(2), within="layer"), {"phases": 2}),
            (pgp.DeconvolvedMixture(2), {"phases": 2}),
            (pgp.DeconvolvedMixture(2, zero_mean=True), {"phases": 2}),
        )
    ]
    assert len(set(map(digest, [None, *ways]))) == len(ways) + 1
    assert digest(Regroup(pgp.Naive(2), phases=2)) == digest(ways[0])


@pytest.mark.parametrize("method", ["hmc", "sgmcmc", "svi"])
def test_a_wrong_number_of_rows_is_told(data, method):
    x, y = (value[:59] for value in data)
    with pytest.raises(ValueError, match=r"num_data: expected .*num_data=59.* got 60"):
        fit(linear(), x, y, method=method, progress=False)


def test_weights_that_are_decentred_can_be_trained_too(data):
    model = BayesianModule(
        nn.Linear(3, 1), likelihoods.Normal(noise=NOISE), num_data=60, centered=False
    )
    guide = fit(model, *data, method="svi", progress=False)
    assert not guide.local_reparam


def interrupt(callback, svi):
    if svi.epoch == 250:
        raise KeyboardInterrupt


def test_the_size_of_a_convolution_is_that_of_its_work():
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 26 * 26, 10))
    model = BayesianModule(net, likelihoods.Categorical(), num_data=1000)
    x = torch.zeros(1000, 1, 28, 28)
    # 2 * (9 * 8 * 26 * 26 + 8 * 26 * 26 * 10) = 205,504 a row
    assert _by_size(model, x[:40]) == "hmc"
    assert _by_size(model, x[:50]) == "svi"  # 52.6 million a batch
    assert _by_size(linear(), torch.zeros(2_000_000, 3)) == "sgmcmc"


def test_what_counters_do_not_see_counts_by_its_weights(data):
    model = BayesianModule(nn.Embedding(100, 100), likelihoods.Normal(), num_data=600)
    assert _by_size(model, torch.zeros(500, dtype=torch.long)) == "hmc"
    assert _by_size(model, torch.zeros(501, dtype=torch.long)) == "sgmcmc"


def test_point_parameters_are_learned_before_chains_start(data):
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    model = BayesianModule(net, likelihoods.Normal(), num_data=60)
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    draws = fit(model, *data, progress=False)
    after = [p for p in model.parameters() if p.requires_grad]
    assert draws["weights"].shape[0] == 400
    assert len(before) == 2 and not any(map(torch.equal, before, after))


def test_the_number_of_rows_is_checked_before_anything_is_trained(data):
    model = BayesianModule(nn.Linear(3, 1), likelihoods.Normal(), grouping="layer")
    x, y = (value.repeat(5, 1) for value in data)
    regroup = Regroup(Planned(torch.tensor([0, 1, 0, 0])), phases=1)
    with pytest.raises(ValueError, match="num_data"):
        fit(model, x, y, regroup=regroup, method="sgmcmc", progress=False)
    assert model.assignment.num_groups == 1


def test_many_rows_come_in_batches():
    assert len(_batches(torch.zeros(2048, 1), torch.zeros(2048))) == 1
    loader = _batches(torch.arange(2049.0), torch.arange(2049.0))
    sizes = [len(x) for x, _ in loader]
    assert sizes == [228] * 6 + [227] * 3
    assert sorted(torch.cat([x for x, _ in loader]).tolist()) == list(range(2049))


def test_bad_arguments(data):
    with pytest.raises(TypeError, match="model: expected a BayesianModule, got function"):
        fit(lambda x, y: None, *data)
    with pytest.raises(ValueError, match="method: expected one of"):
        fit(linear(), *data, method="nuts")
    with pytest.raises(ValueError, match="x, y: expected as many rows, and some, got 60 and 59"):
        fit(linear(), data[0], data[1][:59])
    with pytest.raises(ValueError, match="x, y: expected as many rows, and some, got 0 and 0"):
        fit(linear(), data[0][:0], data[1][:0])
    with pytest.raises(ValueError, match="model: expected a BayesianModule with a likelihood"):
        fit(BayesianModule(nn.Linear(3, 1)), *data)
    with pytest.raises(ValueError, match="NaN or inf"):
        fit(linear(), data[0] / 0.0, data[1], progress=False)
    assert pgp.fit is fit
