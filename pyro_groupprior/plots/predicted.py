# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What pictures of predictions are drawn from, out of a prediction or of a tree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..metrics import class_probabilities
from ..predictive import Prediction
from .sources import tree_group

FITTED = "posterior_predictive"


@dataclass(frozen=True)
class Predicted:
    """
    Predictive means, central intervals and observations, each ``[N, ...]``; ``mean_low`` and
    ``mean_high`` are the interval of the mean, known where draws of it are.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    mean_low: np.ndarray | None
    mean_high: np.ndarray | None
    seen: np.ndarray | None


def check_level(level: float) -> None:
    """
    :raises ValueError: if it is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level}")


def predicted_numbers(
    prediction: Prediction | xr.DataTree, y: Tensor | None, level: float, group: str = FITTED
) -> Predicted:
    """
    Predictions of numbers.

    :param Tensor y: observations; of a tree, its own by default, where these are of the same rows.
    :param float level: probability of the intervals.
    :param str group: which of a tree's.
    :raises TypeError: if they are of class labels.
    :raises ValueError: if ``y`` does not fit, or the tree has no such group.
    """
    ends = [(1 - level) / 2, (1 + level) / 2]
    if isinstance(prediction, xr.DataTree):
        values = _samples(prediction, group)
        if not np.issubdtype(values.dtype, np.floating):
            raise TypeError("prediction: expected one of numbers, got class labels")
        low, high = np.quantile(values, ends, axis=0)
        seen = _observed(prediction, y, group, values.shape[1:])
        return Predicted(values.mean(0), low, high, None, None, seen)
    _check_kind(prediction)
    bounds = prediction.quantiles(ends)  # refuses class labels
    if y is not None:
        assert prediction.model.likelihood is not None
        y = prediction.model.likelihood.check(prediction.outputs[0], y)
    low, high = (_array(value) for value in bounds)
    below, above = np.quantile(_array(prediction.distribution.mean), ends, axis=0)
    seen = None if y is None else _array(y)
    return Predicted(_array(prediction.mean), low, high, below, above, seen)


def predicted_labels(
    prediction: Prediction | xr.DataTree, y: Tensor | None
) -> tuple[Tensor, Tensor]:
    """
    Probabilities of classes ``[N, K]``, of a tree the labels' frequencies over draws, and observed
    labels ``[N]``; of many positions in a row one after the other.

    :raises TypeError: if the prediction is not of class labels, or observations are missing.
    :raises ValueError: if these do not fit, or the tree has no predictions.
    """
    if not isinstance(prediction, xr.DataTree):
        _check_kind(prediction)
        if y is None:
            raise TypeError("y: expected the observed labels, got None")
        return class_probabilities(prediction, y, "plot_reliability")
    values = _samples(prediction, FITTED)
    seen = _observed(prediction, y, FITTED, values.shape[1:])
    if seen is None:
        raise TypeError("y: expected the observed labels, got None")
    integers = np.issubdtype(values.dtype, np.integer)
    if not integers and not np.isin(values, (0, 1)).all():  # those of a Bernoulli are no integers
        raise TypeError("plot_reliability: needs a prediction of class labels, got numbers")
    drawn, labels = values.reshape(len(values), -1).astype(int), seen.reshape(-1).astype(int)
    classes = range(1 + max(1, drawn.max(), labels.max()))
    frequencies = np.stack([(drawn == label).mean(0) for label in classes], 1)
    return torch.as_tensor(frequencies), torch.as_tensor(labels)


def _check_kind(prediction: object) -> None:
    if not isinstance(prediction, Prediction):
        raise TypeError(
            f"prediction: expected a Prediction or a DataTree, got {type(prediction).__name__}"
        )


def _samples(tree: xr.DataTree, group: str) -> np.ndarray:
    """Draws of observations, ``[S, N, ...]``."""
    values = tree_group(tree, group)["obs"].transpose("chain", "draw", ...).values
    return values.reshape(-1, *values.shape[2:])


def _observed(
    tree: xr.DataTree, y: Tensor | None, group: str, shape: tuple[int, ...]
) -> np.ndarray | None:
    if y is not None:
        seen = _array(y)
    elif group == FITTED and "observed_data" in tree.children:
        seen = tree_group(tree, "observed_data")["obs"].values
    else:
        return None
    if (*shape, 1) == seen.shape or shape == (*seen.shape, 1):  # one output a row
        seen = seen.reshape(shape)
    if seen.shape != shape:
        raise ValueError(f"y: expected the predictions' shape {shape}, got {seen.shape}")
    return seen


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()
