# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Predictions from every kind of posterior: guides, samplers, files, any parametrisation."""

import functools
import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import MCMC, NUTS, Predictive
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from torch import Tensor, nn

from pyro_groupprior import (
    Assignment,
    AutoLowRank,
    AutoMeanField,
    BayesianModule,
    Learned,
    PhasedSVI,
    init_to_weights,
    likelihoods,
    load_draws,
    predict,
    save_draws,
)

from .predictions import made, mlp

GUIDES = {
    "mean_field": AutoMeanField,
    "local": functools.partial(AutoMeanField, local_reparam=True),
    "low_rank": functools.partial(AutoLowRank, rank=2),
    "normal": functools.partial(AutoNormal, init_loc_fn=init_to_weights),
    "multivariate": functools.partial(AutoMultivariateNormal, init_loc_fn=init_to_weights),
    "delta": functools.partial(AutoDelta, init_loc_fn=init_to_weights),
}


@pytest.mark.parametrize(
    ("name", "centered"),
    # Local noise needs weights that are latent themselves.
    [
        (name, centered)
        for name in GUIDES
        for centered in (True, False)
        if centered or name != "local"
    ],
)
def test_guides_give_the_moments_that_pyros_predictive_finds(name: str, centered: bool) -> None:
    torch.manual_seed(3)
    model = BayesianModule(mlp(), likelihoods.Normal(), centered=centered)
    x, y = torch.randn(7, 3), torch.randn(7, 2)
    guide = GUIDES[name](model)
    svi = PhasedSVI(model, guide, functools.partial(torch.optim.Adam, lr=0.05))
    for _ in range(5):
        svi.step(x, y)
    num = 200
    ours = predict(model, guide, x, num_draws=num)
    assert ours.outputs.shape == (num, 7, 2)
    theirs = Predictive(model, guide=guide, num_samples=num)(x)["obs"].reshape(num, 7, 2)
    sample = ours.sample()
    error = torch.sqrt((sample.var(0) + theirs.var(0)) / num)
    assert float(((sample.mean(0) - theirs.mean(0)) / error).abs().max()) < 4.5
    torch.testing.assert_close(sample.std(0), theirs.std(0), rtol=0.35, atol=0.0)
    if name == "delta":
        assert float(ours.epistemic.max()) < 1e-10


def pyros_outputs(model: BayesianModule, draws: dict[str, Tensor], x: Tensor) -> Tensor:
    """The net's outputs for each draw, by Pyro's own means."""
    with torch.no_grad():
        found = Predictive(model, posterior_samples=draws, return_sites=["_RETURN"])(x)
    return found["_RETURN"]


SOFT = Assignment.from_dense(
    torch.rand(32, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"centered": False},
        {"centered": False, "grouping": SOFT, "family": "laplace"},
        {"centered": False, "loc": 0.0, "scale": Learned(0.5)},
        {"centered": False, "loc": torch.linspace(-0.5, 0.5, 10), "scale": dist.Gamma(2.0, 2.0)},
        {"centered": False, "name": "beta"},
    ],
)
def test_draws_of_any_parametrisation_equal_pyros_predictive(options: dict[str, Any]) -> None:
    model = BayesianModule(mlp(), likelihoods.Normal(), **options)
    x = torch.randn(7, 3)
    trace = poutine.trace(model)
    every = [trace.get_trace(x).iter_stochastic_nodes() for _ in range(6)]
    draws: dict[str, Any] = {}
    for nodes in every:
        for name, node in nodes:
            draws.setdefault(name, []).append(node["value"].detach())
    draws = {name: torch.stack(values) for name, values in draws.items() if name != "obs"}
    prediction = predict(model, draws, x)
    torch.testing.assert_close(prediction.outputs, pyros_outputs(model, draws, x))
    noise = draws["noise"].reshape(-1, 1, 1).expand(6, 7, 2)
    torch.testing.assert_close(prediction.distribution.stddev, noise)


@pytest.mark.parametrize("centered", [True, False])
def test_draws_of_nuts_and_draws_from_a_file(centered: bool, tmp_path: Path) -> None:
    net = nn.Linear(2, 1)
    model = BayesianModule(net, likelihoods.Normal(), centered=centered)
    x, y = torch.randn(20, 2), torch.randn(20, 1)
    mcmc = MCMC(NUTS(model), num_samples=8, warmup_steps=8, disable_progbar=True)
    mcmc.run(x, y)
    draws = mcmc.get_samples()
    prediction = predict(model, draws, x)
    torch.testing.assert_close(prediction.outputs, pyros_outputs(model, draws, x))
    save_draws(tmp_path / "draws", draws)
    assert predict(model, load_draws(tmp_path / "draws"), x).outputs.equal(prediction.outputs)
    by_chain = predict(model, mcmc.get_samples(group_by_chain=True), x)
    assert by_chain.outputs.equal(prediction.outputs)
    # As Predictive leaves them: with dimensions of size one.
    predictive = Predictive(model, posterior_samples=draws, return_sites=["weights"])
    weights = predictive(x)["weights"]
    again = predict(model, {"weights": weights, "noise": draws["noise"]}, x)
    torch.testing.assert_close(again.outputs, prediction.outputs)


@pytest.mark.parametrize("noise", [0.4, Learned(0.4)])
def test_noise_without_draws(noise: Any) -> None:
    model, draws, x = made(likelihoods.Normal(noise=noise))
    prediction = predict(model, {"weights": draws["weights"]}, x)
    torch.testing.assert_close(prediction.aleatoric, torch.full((7, 2), 0.16))


def test_a_guide_that_was_not_trained_can_be_trained_afterwards() -> None:
    for make_guide in (AutoMeanField, AutoNormal):
        pyro.clear_param_store()
        model, _, x = made(likelihoods.Normal())
        guide = make_guide(model)
        assert predict(model, guide, x, num_draws=3).mean.shape == (7, 2)
        svi = PhasedSVI(model, guide, functools.partial(torch.optim.Adam, lr=0.01))
        assert math.isfinite(svi.step(x, torch.randn(7, 2)))
