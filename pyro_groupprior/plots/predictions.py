# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Predictions against what was observed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from scipy.stats import beta
from torch import Tensor

from ..predictive import Prediction
from .axes import COLOURS, make_axes
from .predicted import check_level, predicted_labels, predicted_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_predictions(
    prediction: Prediction | xr.DataTree,
    y: Tensor | None = None,
    ax: Axes | None = None,
    level: float = 0.9,
    *,
    shift: float = 0.0,
    scale: float = 1.0,
    unit: str = "",
) -> Axes:
    """
    What was observed against what was predicted: a bar is the central predictive interval around
    the predictive mean, a point the observation, marked where it lies outside. On the diagonal
    the two agree.

    Example::

        >>> model = BayesianModule(nn.Linear(3, 1), likelihoods.Normal())
        >>> guide = AutoMeanField(model)
        >>> x, y = torch.randn(10, 3), torch.randn(10, 1)
        >>> plot_predictions(predict(model, guide, x), y, unit="m").get_xlabel()
        'predictive mean (m)'

    :param prediction: of numbers; or a tree that :func:`~pyro_groupprior.datatree.to_datatree` has
        made with ``x``.
    :param Tensor y: observations; of a tree, its own by default.
    :param ax: axes to draw on; default: new ones.
    :param float level: probability of the interval, between 0 and 1.
    :param float shift: to show standardised targets in their own unit: ``shift + scale * y``.
    :param float scale: likewise.
    :param str unit: its name.
    :return: the axes.
    :raises ImportError: if Matplotlib is missing.
    :raises TypeError: if the prediction is of class labels, or ``y`` is missing.
    :raises ValueError: if the level is not between 0 and 1, ``y`` does not fit, or the tree has no
        predictions.
    """
    check_level(level)
    found = predicted_numbers(prediction, y, level)
    if found.seen is None:
        raise TypeError("y: expected the observations, got None")
    ax = make_axes(ax)
    mean, low, high, seen = (
        shift + scale * value.reshape(-1)
        for value in (found.mean, found.low, found.high, found.seen)
    )
    inside = (seen >= low) & (seen <= high)
    label = f"central {level:.0%} interval"
    ax.vlines(mean, low, high, color=COLOURS[5], lw=0.8, alpha=0.6, label=label)
    style: dict[str, Any] = {"ls": "none", "zorder": 3}
    ax.plot(
        mean[inside], seen[inside], "o", ms=3, color=COLOURS[0], label="observed, inside", **style
    )
    ax.plot(
        mean[~inside],
        seen[~inside],
        "X",
        ms=5,
        color=COLOURS[1],
        label="observed, outside",
        **style,
    )
    ends = [min(mean.min(), seen.min()), max(mean.max(), seen.max())]
    ax.plot(ends, ends, color="black", lw=0.8, zorder=2, label="observed = predicted")
    suffix = f" ({unit})" if unit else ""
    ax.set_xlabel(f"predictive mean{suffix}")
    ax.set_ylabel(f"observed{suffix}")
    ax.set_title(
        f"{inside.mean():.1%} of {len(seen)} observations inside their {level:.0%} intervals"
    )
    ax.legend(loc="upper left", frameon=False)
    return ax


def plot_reliability(
    prediction: Prediction | xr.DataTree,
    y: Tensor | None = None,
    ax: Axes | None = None,
    num_bins: int = 15,
) -> Axes:
    """
    Accuracy against confidence (the largest predictive probability), over bins of equal width:
    on the diagonal the two agree. Bars are 90 % intervals of the accuracy (Jeffreys), numbers
    the observations in a bin; empty bins are left out. A tree has labels drawn from the predictive
    distribution in place of its probabilities: these are taken to be the labels' frequencies over
    all draws, which are off by some one over the root of their number.

    Example::

        >>> model = BayesianModule(nn.Linear(3, 2), likelihoods.Categorical())
        >>> guide = AutoMeanField(model)
        >>> x, y = torch.randn(10, 3), torch.arange(10) % 2
        >>> plot_reliability(predict(model, guide, x), y).get_ylabel()
        'accuracy'

    :param prediction: of class labels; or a tree that
        :func:`~pyro_groupprior.datatree.to_datatree` has made with ``x``.
    :param Tensor y: observed labels; of a tree, its own by default.
    :param ax: axes to draw on; default: new ones.
    :param int num_bins: how many bins between 0 and 1.
    :return: the axes.
    :raises ImportError: if Matplotlib is missing.
    :raises TypeError: if the prediction is not of class labels, or ``y`` is missing.
    :raises ValueError: if ``y`` does not fit, there are no bins, or the tree has no predictions.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins: expected a positive number, got {num_bins}")
    probs, y = predicted_labels(prediction, y)
    ax = make_axes(ax)
    confidence, label = probs.max(1)
    correct = (label == y).cpu().numpy()
    sure = confidence.cpu().numpy()
    edges = np.linspace(0, 1, num_bins + 1)
    bins = np.clip(np.digitize(sure, edges[1:-1], right=True), 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    filled = np.flatnonzero(counts)
    hits = np.bincount(bins, correct, minlength=num_bins)[filled]
    n = counts[filled]
    x = np.bincount(bins, sure, minlength=num_bins)[filled] / n
    rate = hits / n
    error = (n * np.abs(rate - x)).sum() / n.sum()
    # Jeffreys' interval, closed at the ends as is usual.
    low = np.where(hits == 0, 0.0, beta.ppf(0.05, hits + 0.5, n - hits + 0.5))
    high = np.where(hits == n, 1.0, beta.ppf(0.95, hits + 0.5, n - hits + 0.5))
    ax.plot([0, 1], [0, 1], color="black", lw=0.8, label="perfectly calibrated")
    ax.vlines(x, low, high, color=COLOURS[0], lw=1.5, label="90% interval")
    ax.plot(x, rate, "o", color=COLOURS[0], ms=5, label="accuracy in the bin")
    for i in range(len(filled)):
        ax.annotate(
            f"{n[i]}",
            (x[i], low[i]),
            xytext=(0, -3),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize="small",
        )
    ax.set_xlim(0, 1.03)
    ax.set_ylim(min(0.0, low.min()) - 0.06, 1.03)
    ax.set_xlabel("confidence (largest predictive probability)")
    ax.set_ylabel("accuracy")
    ax.set_title(f"expected calibration error {error:.3f}, {len(sure)} observations")
    # Where the net is sure and often wrong, there are points in the usual corner.
    corner = "upper left" if ((x > 0.6) & (low < 0.35)).any() else "lower right"
    ax.legend(loc=corner, framealpha=0.9, edgecolor="none")
    return ax
