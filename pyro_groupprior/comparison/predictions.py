# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Posteriors side by side by what they predict."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor
from torchmetrics.functional import accuracy

from .. import metrics
from ..likelihoods import Bernoulli
from ..predictive import Prediction


def compare_predictions(
    predictions: Mapping[str, Prediction], reference: str, y: Tensor | None = None
) -> pd.DataFrame:
    """
    Predictions of class labels beside those of a reference, such as the samples of HMC.

    Example::

        >>> from pyro_groupprior.comparison import compare_predictions
        >>> model = BayesianModule(nn.Linear(2, 3), likelihoods.Categorical())
        >>> x = torch.randn(20, 2)
        >>> one, two = (predict(model, {"weights": torch.randn(9, 9)}, x) for _ in range(2))
        >>> compare_predictions({"hmc": one, "vi": two}, "hmc").columns.tolist()
        ['posterior', 'agreement', 'total_variation']

    :param predictions: by name, for the same rows.
    :param str reference: one of the names.
    :param Tensor y: the labels; accuracy, NLL and ECE stand beside then.
    :return: a row for each.
    :raises TypeError: if one is not of class labels.
    :raises ValueError: if there is no such reference, or they are for different rows.
    """
    if reference not in predictions:
        raise ValueError(f"reference: expected one of {list(predictions)}, got {reference!r}")
    rows = []
    for name, prediction in predictions.items():
        row: dict[str, float | str] = {
            "posterior": name,
            "agreement": agreement(prediction, predictions[reference]),
            "total_variation": total_variation(prediction, predictions[reference]),
        }
        if y is not None:
            row |= {
                "accuracy": metrics.accuracy(prediction, y),
                "nll": metrics.nll(prediction, y),
                "ece": metrics.ece(prediction, y),
            }
        rows.append(row)
    return pd.DataFrame(rows)


def agreement(first: Prediction, second: Prediction) -> float:
    """
    Share of the rows of which two posteriors predict the same label (Izmailov et al. 2021, "What
    are Bayesian neural network posteriors really like?").

    :param Prediction first: of class labels.
    :param Prediction second: likewise, for the same rows.
    :raises TypeError: if one is not of class labels.
    :raises ValueError: if they are for different rows.
    """
    one, other = _probabilities(first, second)
    labels, classes = other.argmax(-1).flatten(), one.shape[-1]
    found = one.argmax(-1).flatten()
    return float(accuracy(found, labels, "multiclass", num_classes=classes, average="micro"))


def total_variation(first: Prediction, second: Prediction) -> float:
    """
    Mean total variation distance of two posteriors' predictive probabilities, between 0 and 1
    (Izmailov et al. 2021).

    :param Prediction first: of class labels.
    :param Prediction second: likewise, for the same rows.
    :raises TypeError: if one is not of class labels.
    :raises ValueError: if they are for different rows.
    """
    one, other = _probabilities(first, second)
    return float(0.5 * (one - other).abs().sum(-1).mean())


def _probabilities(first: Prediction, second: Prediction) -> tuple[Tensor, Tensor]:
    one, other = _of_labels(first), _of_labels(second)
    if one.shape != other.shape:
        raise ValueError(
            f"prediction: expected two for the same rows, got shapes {tuple(one.shape)} and "
            f"{tuple(other.shape)}"
        )
    return one, other


def _of_labels(prediction: Prediction) -> Tensor:
    mean = prediction.mean
    if isinstance(prediction.model.likelihood, Bernoulli):
        return torch.stack([1 - mean, mean], -1)
    if not prediction.is_categorical:
        likelihood = type(prediction.model.likelihood).__name__
        raise TypeError(f"prediction: expected two of class labels, got one of {likelihood}")
    return mean
