# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Training: losses and phases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ..svi import History
from .axes import COLOURS, GREY, make_axes
from .lineages import phases_of
from .sources import as_history

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_history(history: History | xr.DataTree, ax: Axes | None = None) -> Axes:
    """
    The loss, that is the negative ELBO, by epoch, with its phases: a line at every regroup that was
    accepted, with its churn where there is room, phases shaded in turn, and the epochs whose
    divergence (KL) is not yet at full weight hatched. Peaks of the loss, such as its first steep
    part, may be cut off above.

    Example::

        >>> history = History([EpochRecord(i, i, 0, 5.0 - i, 0.01, 1.0) for i in range(3)])
        >>> plot_history(history).get_ylabel()
        'loss (nats)'

    :param history: that of a :class:`~pyro_groupprior.PhasedSVI`, or a tree that
        :func:`~pyro_groupprior.datatree.to_datatree` has made with ``training``.
    :param ax: axes to draw on; default: new ones.
    :return: the axes.
    :raises ImportError: if Matplotlib is missing.
    :raises TypeError: if it is neither a history nor a tree.
    :raises ValueError: if no epoch was completed.
    """
    history = as_history(history)
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
    for record in (record for record in history.phases if record.accepted):
        churns[record.epoch] = max(record.churn, churns.get(record.epoch, 0.0))
    starts, written = [*churns, epochs[-1] + 0.5], -np.inf
    room = 0.055 * (epochs[-1] - epochs[0] + 1)
    for number, (epoch, churn) in enumerate(churns.items()):
        label = "regroup, share of weights moved" if number == 0 else None
        ax.axvline(epoch, color=COLOURS[1], lw=0.9, ls="--", label=label)
        if number % 2 == 0:
            ax.axvspan(epoch, starts[number + 1], color=COLOURS[4], alpha=0.08, lw=0)
        if epoch - written < room:  # no room for its number
            continue
        written = epoch
        last = epoch > epochs[-1] - room
        ax.annotate(
            f"{churn:.0%}",
            (epoch, 0.99),
            xycoords=("data", "axes fraction"),
            xytext=(-2 if last else 2, 0),
            textcoords="offset points",
            ha="right" if last else "left",
            va="top",
            fontsize="small",
            color=COLOURS[1],
        )
    ax.set_xlabel("epoch")
    ax.set_ylabel("loss (nats)")
    if ax.get_legend_handles_labels()[0]:
        # Above the axes: inside, it would hide the numbers of a regroup.
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return ax


def plot_churn(
    history: History | xr.DataTree, ax: Axes | None = None, site: str | None = None
) -> Axes:
    """
    At every regroup the share of the weights that changed group, and the adjusted Rand index
    between the groups before and after: 1 where these are the same, about 0 where they have no more
    in common than by chance. Regroups that were proposed and not accepted are open marks.

    Example::

        >>> record = PhaseRecord("w", 1, 5, 50, 0.1, 1, (6.0,), (0.0,), (1.0,), rand_index=0.8)
        >>> [line.get_label() for line in plot_churn(History(phases=[record])).get_lines()]
        ['share of weights moved', 'adjusted Rand index']

    :param history: that of a :class:`~pyro_groupprior.PhasedSVI`, or a tree that
        :func:`~pyro_groupprior.datatree.to_datatree` has made with ``training``.
    :param ax: axes to draw on; default: new ones.
    :param str site: name of the group prior, where there are several.
    :return: the axes.
    :raises ImportError: if Matplotlib is missing.
    :raises TypeError: if it is neither a history nor a tree.
    :raises ValueError: if there was no regroup, or the site is not known or one of several.
    """
    phases = phases_of(as_history(history), site)
    ax = make_axes(ax)
    epochs = np.array([record.epoch for record in phases])
    refused = np.array([not record.accepted for record in phases])
    churn = np.array([record.churn for record in phases])
    agreement = np.array([record.rand_index for record in phases])
    for values, marker, line, colour, label in (
        (churn, "o", "-", COLOURS[1], "share of weights moved"),
        (agreement, "s", "--", COLOURS[0], "adjusted Rand index"),
    ):
        ax.plot(epochs, values, marker + line, color=colour, ms=5, lw=1.3, label=label)
        if refused.any():
            ax.plot(epochs[refused], values[refused], marker, color=colour, mfc="white", ms=5)
    if refused.any():
        ax.plot([], [], "o", color=GREY, mfc="white", ms=5, label="not accepted")
    ax.set_ylim(min(-0.03, float(np.nanmin([*agreement, 0.0])) - 0.03), 1.03)
    ax.set_xlabel("epoch")
    ax.set_ylabel("churn and agreement (0 to 1)")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    return ax
