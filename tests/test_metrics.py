# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Metrics against scikit-learn, SciPy, and sums by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pyro_groupprior import BayesianModule, Prediction, likelihoods, metrics, predict


class Outputs(nn.Module):
    """A net whose weights are its outputs, so that draws can be any outputs at all."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.table


def prediction_of(
    likelihood: likelihoods.Likelihood, outputs: Tensor, noise: Tensor | None = None
) -> Prediction:
    """The prediction with these outputs, shape ``[S, N, ...]``."""
    model = BayesianModule(Outputs(*outputs.shape[1:]), likelihood)
    draws = {"weights": outputs.flatten(1)}
    if noise is not None:
        draws["noise"] = noise
    return predict(model, draws, torch.zeros(outputs.shape[1], 1))


@pytest.mark.parametrize("shape", [(50,), (50, 1), (50, 3)])
def test_rmse_and_nll(shape: tuple[int, ...]) -> None:
    outputs, noise, y = torch.randn(30, *shape), torch.rand(30) + 0.2, torch.randn(shape)
    prediction = prediction_of(likelihoods.Normal(), outputs, noise)
    mean = outputs.mean(0).reshape(50, -1).numpy()
    expected = math.sqrt(sklearn.metrics.mean_squared_error(y.reshape(50, -1).numpy(), mean))
    assert metrics.rmse(prediction, y) == pytest.approx(expected, rel=1e-5)
    spread = noise.reshape(-1, *[1] * len(shape)).expand_as(outputs)
    each = scipy.stats.norm.logpdf(y, outputs, spread).reshape(30, 50, -1).sum(-1)
    expected = -(scipy.special.logsumexp(each, axis=0) - math.log(30)).mean()
    assert metrics.nll(prediction, y) == pytest.approx(expected, rel=1e-5)


def test_one_number_a_row_may_come_with_or_without_its_dimension() -> None:
    prediction = prediction_of(likelihoods.Normal(noise=0.5), torch.randn(20, 9, 1))
    y = torch.randn(9)
    for metric in (metrics.rmse, metrics.nll):
        assert metric(prediction, y) == pytest.approx(metric(prediction, y.unsqueeze(1)))
    torch.manual_seed(0)
    flat = metrics.coverage(prediction, y)
    torch.manual_seed(0)
    assert flat == metrics.coverage(prediction, y.unsqueeze(1))


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_coverage(level: float) -> None:
    """Of a mixture: the share of observations whose distribution function is inside."""
    outputs, noise = torch.randn(100, 2000), torch.rand(100) + 0.2
    y = 2.0 * torch.randn(2000)
    prediction = prediction_of(likelihoods.Normal(), outputs, noise)
    found = scipy.stats.norm.cdf(y, outputs, noise[:, None].expand_as(outputs)).mean(0)
    expected = (np.abs(found - 0.5) <= level / 2).mean()
    assert metrics.coverage(prediction, y, level) == pytest.approx(expected, abs=0.02)
    # Ideal where the observations come from the prediction itself.
    own = prediction.sample()[torch.randint(0, 100, (2000,)), torch.arange(2000)]
    assert metrics.coverage(prediction, own, level) == pytest.approx(level, abs=0.04)


def naeini(probs: np.ndarray, y: np.ndarray, num_bins: int) -> float:
    """Expected calibration error by its definition, the last bin closed."""
    confidence, hit = probs.max(1), probs.argmax(1) == y
    number = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    total = 0.0
    for b in range(num_bins):
        inside = number == b
        if inside.any():
            gap = abs(hit[inside].mean() - confidence[inside].mean())
            total += inside.mean() * gap
    return total


@given(
    classes=st.integers(2, 5),
    rows=st.integers(1, 60),
    sharpness=st.floats(0.1, 30.0),
    seed=st.integers(0, 1000),
)
def test_classification(classes: int, rows: int, sharpness: float, seed: int) -> None:
    torch.manual_seed(seed)
    # An odd number of draws: sharp ones in single precision give ties.
    logits = sharpness * torch.randn(7, rows, classes, dtype=torch.float64)
    y = torch.randint(0, classes, (rows,))
    prediction = prediction_of(likelihoods.Categorical(), logits)
    probs = logits.softmax(-1).mean(0).numpy()
    hits = sklearn.metrics.accuracy_score(y, probs.argmax(1))
    assert metrics.accuracy(prediction, y) == pytest.approx(hits)
    each = scipy.special.log_softmax(logits.numpy(), -1)[:, np.arange(rows), y.numpy()]
    expected = math.log(7) - scipy.special.logsumexp(each, axis=0).mean()
    assert metrics.nll(prediction, y) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    if probs.min() > 1e-12:  # scikit-learn clips them
        labels = range(classes)
        assert expected == pytest.approx(sklearn.metrics.log_loss(y, probs, labels=labels))
    one_hot = np.eye(classes)[y.numpy()]
    expected = ((probs - one_hot) ** 2).sum(1).mean()
    assert metrics.brier(prediction, y) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    if classes == 2:
        half = sklearn.metrics.brier_score_loss(y, probs[:, 1], labels=[0, 1])
        assert metrics.brier(prediction, y) == pytest.approx(2 * half, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("num_bins", [5, 15])
@pytest.mark.parametrize("sharpness", [0.5, 3.0, 100.0])
def test_calibration_error(num_bins: int, sharpness: float) -> None:
    logits, y = sharpness * torch.randn(6, 400, 3), torch.randint(0, 3, (400,))
    prediction = prediction_of(likelihoods.Categorical(), logits)
    expected = naeini(prediction.mean.double().numpy(), y.numpy(), num_bins)
    assert metrics.ece(prediction, y, num_bins) == pytest.approx(expected, abs=1e-5)


def test_certain_predictions_share_the_last_bin() -> None:
    """Two that are certain, one of them wrong, and two at 0.95, both right: |3/4 - 0.975|."""
    probs = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.95, 0.05], [0.95, 0.05]])
    prediction = prediction_of(likelihoods.Categorical(), probs.log().clamp(min=-200.0)[None])
    y = torch.tensor([0, 1, 0, 0])
    assert metrics.ece(prediction, y, num_bins=10) == pytest.approx(0.225, abs=1e-5)


def test_perfect_and_worst_labels() -> None:
    prediction = prediction_of(likelihoods.Categorical(), 200 * torch.eye(3)[None])
    right, wrong = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])
    assert metrics.accuracy(prediction, right) == 1.0 and metrics.accuracy(prediction, wrong) == 0.0
    assert metrics.brier(prediction, right) == pytest.approx(0.0)
    assert metrics.brier(prediction, wrong) == pytest.approx(2.0)
    assert metrics.ece(prediction, wrong) == pytest.approx(1.0, abs=1e-5)
    assert metrics.nll(prediction, wrong) == pytest.approx(200.0)


def test_labels_at_many_positions_of_a_row() -> None:
    logits, y = torch.randn(6, 10, 4, 3), torch.randint(0, 3, (10, 4))
    prediction = prediction_of(likelihoods.Categorical(), logits)
    probs = logits.softmax(-1).mean(0)
    expected = (probs.argmax(-1) == y).float().mean()
    assert metrics.accuracy(prediction, y) == pytest.approx(float(expected))


@pytest.mark.parametrize("shape", [(200,), (200, 1)])
@pytest.mark.parametrize("sharpness", [0.5, 5.0])
def test_binary_observations_are_labels_of_two_classes(
    shape: tuple[int, ...], sharpness: float
) -> None:
    logits = sharpness * torch.randn(7, *shape, dtype=torch.float64)
    y = torch.randint(0, 2, (200,))
    prediction = prediction_of(likelihoods.Bernoulli(), logits)
    p = scipy.special.expit(logits.numpy()).mean(0).reshape(200)
    for labels in (y, y.double(), y.reshape(shape)):
        hits = sklearn.metrics.accuracy_score(y, p > 0.5)
        assert metrics.accuracy(prediction, labels) == pytest.approx(hits)
        half = sklearn.metrics.brier_score_loss(y, p)
        assert metrics.brier(prediction, labels) == pytest.approx(2 * half, rel=1e-5)
        error = naeini(np.stack([1 - p, p], 1), y.numpy(), 15)
        assert metrics.ece(prediction, labels) == pytest.approx(error, abs=1e-5)


def binary(*shape: int) -> Prediction:
    return prediction_of(likelihoods.Bernoulli(), torch.zeros(2, *shape))


def numbers() -> Prediction:
    return prediction_of(likelihoods.Normal(noise=1.0), torch.zeros(2, 3))


def labels() -> Prediction:
    return prediction_of(likelihoods.Categorical(), torch.zeros(2, 3, 2))


@pytest.mark.parametrize(
    ("metric", "make", "y", "error", "message"),
    [
        (metrics.rmse, labels, torch.zeros(3).long(), TypeError, "rmse: needs .* numbers"),
        (metrics.coverage, labels, torch.zeros(3).long(), TypeError, "coverage: needs .* numbers"),
        (metrics.accuracy, numbers, torch.zeros(3), TypeError, "accuracy: needs .* labels"),
        (metrics.ece, numbers, torch.zeros(3), TypeError, "ece: needs .* labels"),
        (metrics.brier, numbers, torch.zeros(3), TypeError, "brier: needs .* labels"),
        (metrics.ece, lambda: binary(3, 2), torch.zeros(3, 2), ValueError, "ece: .* one output a"),
        (metrics.accuracy, lambda: binary(3), torch.full((3,), 2), ValueError, "zeros and ones"),
        (metrics.rmse, numbers, torch.zeros(4), ValueError, r"y: .*\(3,\), got \(4,\)"),
        (metrics.nll, labels, torch.zeros(3), ValueError, "integer class labels"),
        (metrics.brier, labels, torch.tensor([0, 1, 2]), ValueError, r"in \[0, 2\)"),
    ],
)
def test_refusals(
    metric: Callable, make: Callable, y: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        metric(make(), y)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1])
def test_levels_are_probabilities(level: float) -> None:
    with pytest.raises(ValueError, match="level: expected a number between 0 and 1"):
        metrics.coverage(numbers(), torch.zeros(3), level)
