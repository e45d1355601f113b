# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Scores of predictions against what was observed."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional import mean_squared_error
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
)

from .likelihoods import Bernoulli
from .predictive import Prediction


def nll(prediction: Prediction, y: Tensor) -> float:
    """
    Mean negative log predictive density, in nats a row. For any likelihood; lower is better.

    :param Tensor y: observations, ``N`` rows.
    :raises ValueError: if they do not fit the prediction.
    """
    return float(-prediction.log_prob(y).mean())


def rmse(prediction: Prediction, y: Tensor) -> float:
    """
    Root mean squared error of the predictive mean, in the units of ``y``.

    :raises TypeError: for class labels.
    """
    mean, y = _real(prediction, y, "rmse")
    return float(mean_squared_error(mean.reshape(-1), y.reshape(-1), squared=False))


def coverage(prediction: Prediction, y: Tensor, level: float = 0.9) -> float:
    """
    Share of the observations inside the central predictive interval; ``level`` is ideal.

    :param float level: probability of the interval, between 0 and 1.
    :raises TypeError: for class labels.
    :raises ValueError: if the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level}")
    _, y = _real(prediction, y, "coverage")
    low, high = prediction.quantiles([(1 - level) / 2, (1 + level) / 2])
    return float(((y >= low) & (y <= high)).float().mean())


def accuracy(prediction: Prediction, y: Tensor) -> float:
    """
    Share of the labels that have the largest predictive probability. Zeros and ones of a
    Bernoulli likelihood with one output a row count as labels of two classes.

    :raises TypeError: for a likelihood other than Categorical and Bernoulli.
    :raises ValueError: if the labels do not fit, or a Bernoulli has several outputs a row.
    """
    probs, y = class_probabilities(prediction, y, "accuracy")
    return float(multiclass_accuracy(probs, y, probs.shape[-1], average="micro"))


def ece(prediction: Prediction, y: Tensor, num_bins: int = 15) -> float:
    """
    Expected calibration error (Naeini et al. 2015): the mean distance of confidence and accuracy
    over bins of equal width; zero is ideal. Of a Bernoulli likelihood the confidence is the larger
    one of ``p`` and ``1 - p``, as for any two classes.

    :raises TypeError: for a likelihood other than Categorical and Bernoulli.
    :raises ValueError: if the labels do not fit, or a Bernoulli has several outputs a row.
    """
    return calibration_error(*class_probabilities(prediction, y, "ece"), num_bins)


def calibration_error(probs: Tensor, y: Tensor, num_bins: int = 15) -> float:
    """
    What :func:`ece` is, of probabilities.

    Example::

        >>> from pyro_groupprior.metrics import calibration_error
        >>> calibration_error(torch.tensor([[0.75, 0.25]] * 4), torch.tensor([0, 0, 0, 1]))
        0.0

    :param Tensor probs: of each class, shape ``[N, K]``.
    :param Tensor y: labels, shape ``[N]``.
    """
    # torchmetrics would give a confidence of exactly one a bin of its own.
    probs = probs.clamp(max=1 - torch.finfo(probs.dtype).eps)
    return float(multiclass_calibration_error(probs, y, probs.shape[-1], n_bins=num_bins))


def brier(prediction: Prediction, y: Tensor) -> float:
    """
    Brier score: the mean squared distance of the predictive probabilities from the label's
    one-hot vector, summed over classes; between 0 and 2. With a Bernoulli likelihood over its two
    classes: twice what is often called the Brier score of binary observations.

    :raises TypeError: for a likelihood other than Categorical and Bernoulli.
    :raises ValueError: if the labels do not fit, or a Bernoulli has several outputs a row.
    """
    probs, y = class_probabilities(prediction, y, "brier")
    hot = torch.nn.functional.one_hot(y, probs.shape[-1]).to(probs)
    return float(mean_squared_error(probs, hot) * probs.shape[-1])


def _real(prediction: Prediction, y: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    if prediction.is_categorical:
        raise TypeError(f"{metric}: needs a prediction of numbers, got class labels")
    likelihood = prediction.model.likelihood
    assert likelihood is not None
    return prediction.mean, likelihood.check(prediction.outputs[0], y)


def class_probabilities(prediction: Prediction, y: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """
    Predictive probabilities ``[N, K]`` and labels ``[N]``, of many positions in a row one after
    the other; a Bernoulli likelihood has the classes 0 and 1.

    :param str metric: what needs them, for the message.
    :raises TypeError: if the prediction is not of class labels.
    :raises ValueError: if the labels do not fit, or a Bernoulli has several outputs a row.
    """
    likelihood = prediction.model.likelihood
    is_binary = isinstance(likelihood, Bernoulli)
    if likelihood is None or not (is_binary or prediction.is_categorical):
        raise TypeError(f"{metric}: needs a prediction of class labels")
    probs = prediction.mean
    if is_binary and probs.numel() != len(probs):
        raise ValueError(
            f"{metric}: needs one output a row of a Bernoulli likelihood, "
            f"got the shape {tuple(probs.shape)}"
        )
    y = likelihood.check(prediction.outputs[0], y).long().reshape(-1)
    if is_binary:
        one = probs.reshape(-1)
        return torch.stack((1 - one, one), -1), y
    return probs.reshape(-1, probs.shape[-1]), y
