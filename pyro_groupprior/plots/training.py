# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Training: losses and phases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..svi import History
from .axes import COLOURS, make_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_history(history: History, ax: Axes | None = None) -> Axes:
    """
    The loss, that is the negative ELBO, by epoch, with its phases: a line at every regroup with
    its churn, phases shaded in turn, and the epochs whose divergence (KL) is not yet at full weight
    hatched. Peaks of the loss, such as its first steep part, may be cut off above.

    Example::

        >>> history = History([EpochRecord(i, i, 0, 5.0 - i, 0.01, 1.0) for i in range(3)])
        >>> plot_history(history).get_ylabel()
        'loss (nats)'

    :param History history: that of a :class:`~pyro_groupprior.PhasedSVI`.
    :param ax: axes to draw on; default: new ones.
    :return: the axes.
    :raises ImportError: if Matplotlib is missing.
    :raises ValueError: if no epoch was completed.
    """
    if not history.epochs:
        raise ValueError("history: expected at least one epoch, got none")
    ax = make_axes(ax)
    epochs = np.array([record.epoch for record in history.epochs])
    losses = np.array([record.loss for record in history.epochs])
    weights = np.array([record.kl_weight for record in history.epochs])
    width = max(1, len(losses) // 100)
    if width > 1:
        ax.plot(epochs, losses, color=COLOURS[5], lw=0.5, alpha=0.7, label="each epoch")
        middles = np.lib.stride_tricks.sliding_window_view(losses, 2 * width + 1)
        smooth = np.median(middles, axis=1)
        ax.plot(
            epochs[width:-width],
            smooth,
            color=COLOURS[0],
            lw=1.5,
            label=f"running median of {2 * width + 1}",
        )
    else:
        ax.plot(epochs, losses, color=COLOURS[0], marker="o", ms=3)
    low, high = np.quantile(losses, [0.0, 0.98 if len(losses) > 50 else 1.0])
    margin = 0.05 * (high - low) or 1.0
    ax.set_ylim(low - margin, high + 3 * margin)
    ax.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    warm = epochs[weights < 1]
    if len(warm):
        span = (epochs[0] - 0.5, warm[-1] + 0.5)
        style: dict[str, Any] = {"facecolor": "none", "edgecolor": "0.8", "hatch": "//", "lw": 0}
        ax.axvspan(*span, label="KL below full weight", **style)
    # Several group priors regroup at the same time: one line, the largest churn.
    churns: dict[int, float] = {}
    for record in history.phases:
        churns[record.epoch] = max(record.churn, churns.get(record.epoch, 0.0))
    starts = [*churns, epochs[-1] + 0.5]
    for number, (epoch, churn) in enumerate(churns.items()):
        label = "regroup, share of weights moved" if number == 0 else None
        ax.axvline(epoch, color=COLOURS[1], lw=0.9, ls="--", label=label)
        if number % 2 == 0:
            ax.axvspan(epoch, starts[number + 1], color=COLOURS[4], alpha=0.08, lw=0)
        ax.annotate(
            f"{churn:.0%}",
            (epoch, 0.99),
            xycoords=("data", "axes fraction"),
            xytext=(2, 0),
            textcoords="offset points",
            va="top",
            fontsize="small",
            color=COLOURS[1],
        )
    ax.set_xlabel("epoch")
    ax.set_ylabel("loss (nats)")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="best", frameon=True, framealpha=0.9, edgecolor="none")
    return ax
