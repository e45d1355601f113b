# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Predictions against closed forms, Pyro's own Predictive, and one draw after the other."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor, nn

from pyro_groupprior import (
    BayesianModule,
    Prediction,
    likelihoods,
    predict,
)

from .nn.nets import LastState, SelfAttention, transformer
from .predictions import DRAWS, made, mlp, one_by_one

NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (7, 3)),
    "batch_norm": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)),
        (7, 3),
    ),
    "convolution": (
        lambda: nn.Sequential(nn.Conv1d(3, 2, 2), nn.Flatten(), nn.Linear(8, 1)),
        (7, 3, 5),
    ),
    "lstm": (LastState, (7, 5, 3)),
    "gru": (lambda: LastState(nn.GRU), (7, 5, 3)),
    "attention": (SelfAttention, (7, 5, 4)),
    "transformer": (lambda: transformer(dropout=0.5), (7, 5, 4)),
}


@pytest.mark.parametrize("max_memory", [1.0, 2e-6])
@pytest.mark.parametrize("name", NETS)
def test_all_draws_at_once_equal_one_by_one(name: str, max_memory: float) -> None:
    make_net, shape = NETS[name]
    model = BayesianModule(make_net(), likelihoods.Normal(noise=0.3))
    x, weights = torch.randn(shape), 0.5 * torch.randn(DRAWS, model.layout.num_weights)
    prediction = predict(model, {"weights": weights}, x, max_memory=max_memory)
    expected = one_by_one(model, weights, x)
    torch.testing.assert_close(prediction.outputs, expected, rtol=1e-4, atol=1e-5)
    assert prediction.mean.shape == expected.shape[1:]


@pytest.mark.parametrize("target", ["normal", "student_t", "poisson"])
def test_moments_are_those_of_the_mixture(target: str) -> None:
    """The law of total variance, draw by draw."""
    likelihood = {
        "normal": likelihoods.Normal(),
        "student_t": likelihoods.StudentT(5.0),
        "poisson": likelihoods.Poisson(),
    }[target]
    model, draws, x = made(likelihood)
    prediction = predict(model, draws, x)
    outputs = one_by_one(model, draws["weights"], x).double().numpy()
    noise = draws["noise"].double().numpy()[:, None, None]
    if target == "poisson":
        means = variances = np.exp(outputs)
    else:
        means = outputs
        variances = noise**2 * (5 / 3 if target == "student_t" else 1.0) * np.ones_like(outputs)
    for ours, theirs in (
        (prediction.mean, means.mean(0)),
        (prediction.epistemic, means.var(0)),
        (prediction.aleatoric, variances.mean(0)),
        (prediction.sd, np.sqrt((variances + means**2).mean(0) - means.mean(0) ** 2)),
    ):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=2e-4)


def test_binary_targets() -> None:
    model, draws, x = made(likelihoods.Bernoulli(), mlp(1))
    prediction = predict(model, draws, x)
    p = one_by_one(model, draws["weights"], x).sigmoid().mean(0)
    torch.testing.assert_close(prediction.mean, p)
    torch.testing.assert_close(prediction.sd, (p * (1 - p)).sqrt())
    y = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    expected = torch.where(y == 1, p[:, 0], 1 - p[:, 0]).log()
    torch.testing.assert_close(prediction.log_prob(y), expected)
    assert set(prediction.sample().unique().tolist()) <= {0.0, 1.0}


def test_class_labels() -> None:
    """Mutual information of label and weights, from the entropies of the two."""
    model, draws, x = made(likelihoods.Categorical(), mlp(4))
    prediction = predict(model, draws, x)
    probs = one_by_one(model, draws["weights"], x).double().softmax(-1).numpy()
    np.testing.assert_allclose(prediction.mean.numpy(), probs.mean(0), rtol=1e-4)
    total = scipy.stats.entropy(probs.mean(0), axis=-1)
    inner = scipy.stats.entropy(probs, axis=-1).mean(0)
    np.testing.assert_allclose(prediction.aleatoric.numpy(), inner, rtol=1e-4)
    np.testing.assert_allclose(prediction.epistemic.numpy(), total - inner, rtol=1e-3, atol=1e-5)
    y = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    expected = np.log(probs.mean(0)[np.arange(7), y.numpy()])
    np.testing.assert_allclose(prediction.log_prob(y).numpy(), expected, rtol=1e-4)
    assert prediction.sample().shape == (DRAWS, 7)
    for refused in (lambda: prediction.sd, lambda: prediction.quantiles([0.5])):
        with pytest.raises(TypeError, match="class labels"):
            refused()


@pytest.mark.parametrize("one_target", [True, False])
def test_density_and_quantiles_are_those_of_the_mixture(one_target: bool) -> None:
    model, draws, x = made(likelihoods.Normal(), mlp(1 if one_target else 2))
    prediction = predict(model, draws, x)
    outputs = one_by_one(model, draws["weights"], x).double().numpy()
    noise = draws["noise"].double().numpy()[:, None, None]
    y = torch.randn(7) if one_target else torch.randn(7, 2)
    # The targets of a row share their draw of the weights: sum first, then mix.
    joint = scipy.stats.norm.logpdf(y.reshape(7, -1).double(), outputs, noise).sum(-1)
    expected = scipy.special.logsumexp(joint, axis=0) - math.log(DRAWS)
    np.testing.assert_allclose(prediction.log_prob(y).numpy(), expected, rtol=1e-4, atol=1e-5)
    levels = [0.05, 0.5, 0.9]
    values = prediction.quantiles(levels, num_samples=2000).double().numpy()
    assert values.shape == (3, 7, 1 if one_target else 2)
    for level, value in zip(levels, values):
        found = scipy.stats.norm.cdf(value, outputs, noise).mean(0)
        np.testing.assert_allclose(found, level, atol=0.01)


def test_quantiles_of_more_samples_than_torch_takes_at_once(monkeypatch) -> None:
    model, draws, x = made(likelihoods.Normal())
    prediction = predict(model, draws, x)
    torch.manual_seed(1)
    expected = prediction.quantiles([0.1, 0.5, 0.8])
    monkeypatch.setattr("pyro_groupprior.predictive.MOST_AT_ONCE", 100)
    torch.manual_seed(1)
    torch.testing.assert_close(prediction.quantiles([0.1, 0.5, 0.8]), expected)


def test_modes_of_training_are_put_back() -> None:
    model, draws, x = made(
        likelihoods.Normal(), nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5), nn.BatchNorm1d(2))
    )
    model.net[2].eval()
    with torch.no_grad():
        predict(model, draws, x)
    assert model.training and model.net[1].training and not model.net[2].training
    with pytest.raises(ValueError, match="NaN"):
        predict(model, draws, x * math.nan)
    assert model.training


def test_double_precision() -> None:
    torch.set_default_dtype(torch.float64)
    model, draws, x = made(likelihoods.Normal())
    prediction = predict(model, draws, x)
    assert prediction.mean.dtype == prediction.log_prob(torch.randn(7, 2)).dtype == torch.float64
    expected = one_by_one(model, draws["weights"], x)
    torch.testing.assert_close(prediction.outputs, expected, rtol=1e-12, atol=1e-12)


def without(draws: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in draws.items() if key != name}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m, d, x: (m, d, x.fill_(torch.nan)), ValueError, "inputs: .*21 NaN or inf"),
        (lambda m, d, x: (m, d, [x, x * torch.inf]), ValueError, r"inputs\[1\]"),
        (lambda m, d, x: (m, without(d, "weights"), x), ValueError, "draws of 'weights'"),
        (lambda m, d, x: (m, without(d, "noise"), x), ValueError, "draws of 'noise'"),
        (lambda m, d, x: (m, d | {"noise": torch.ones(3)}, x), ValueError, "as many draws of 'noi"),
        (lambda m, d, x: (m, d | {"weights": torch.ones(3, 9)}, x), ValueError, r"32\] of 'weig"),
        (lambda m, d, x: (m, {"weights_decentered": d["weights"]}, x), ValueError, "'weights_loc'"),
        (
            lambda m, d, x: (
                m,
                {"weights_decentered": d["weights"], "weights_loc": torch.ones(DRAWS, 4)},
                x,
            ),
            ValueError,
            r"\[\.\.\., 10\] of 'weights_loc'",
        ),
        (lambda m, d, x: (m.net, d, x), TypeError, "with a likelihood"),
        (lambda m, d, x: (BayesianModule(mlp()), d, x), TypeError, "with a likelihood"),
        (lambda m, d, x: (m, d, x, 0), ValueError, "num_draws: .*got 0"),
        (lambda m, d, x: (m, d, x, 5, 0.0), ValueError, "max_memory: .*got 0.0"),
    ],
)
def test_refusals(change: Callable, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        predict(*change(*made(likelihoods.Normal())))


def test_observations_that_do_not_fit_are_refused() -> None:
    model, draws, x = made(likelihoods.Normal())
    prediction: Prediction = predict(model, draws, x)
    with pytest.raises(ValueError, match="y: expected the shape"):
        prediction.log_prob(torch.randn(7))
