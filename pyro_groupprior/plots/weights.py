# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Posteriors of weights side by side, swaps of units, and what pruning costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..symmetry import random_transpositions
from .axes import COLOURS, GREY, LINES, MARKERS, draw_curves, make_axes, plain_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELS = {
    "kl": "KL from the reference (nats)",
    "w2": "Wasserstein-2 distance / base scale",
    "overlap": "overlap with the reference",
    "snr": "median |mean| / sd",
    "sd_ratio": "sd / reference's sd",
}


def plot_comparison(table: pd.DataFrame, column: str = "overlap", ax: Axes | None = None) -> Axes:
    """
    One column of :func:`~pyro_groupprior.comparison.compare_weights`: a row for each group of
    weights, a mark for each posterior.

    Example::

        >>> from pyro_groupprior.comparison import WeightMoments, compare_weights
        >>> from pyro_groupprior.plots import plot_comparison
        >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal())
        >>> one = WeightMoments(torch.zeros(3), torch.ones(3))
        >>> two = WeightMoments(torch.ones(3), torch.ones(3))
        >>> table = compare_weights(model, {"HMC": one, "VI": two}, "HMC")
        >>> plot_comparison(table).get_xlabel()
        'overlap with the reference'

    :param table: what ``compare_weights`` has made.
    :param str column: ``"kl"``, ``"w2"``, ``"overlap"``, ``"snr"`` or ``"sd_ratio"``.
    :param ax: axes to draw on; default: new ones.
    :return: the axes.
    :raises ImportError: if Matplotlib is missing.
    :raises ValueError: if the column is unknown.
    """
    if column not in LABELS:
        raise ValueError(f"column: expected one of {list(LABELS)}, got {column!r}")
    groups = list(dict.fromkeys(table["group"]))
    ax = make_axes(ax, height=1.2 + 0.35 * len(groups))
    for number, (name, part) in enumerate(table.groupby("posterior", sort=False)):
        rows = [-groups.index(group) for group in part["group"]]
        colour = COLOURS[number % len(COLOURS)]
        marker = MARKERS[number % len(MARKERS)]
        ax.plot(part[column], rows, marker, color=colour, ms=6, label=str(name))
    first = table.drop_duplicates("group")
    repeated = first["tensor"].duplicated(keep=False)
    labels = [
        f"{tensor} ({place})" if again else tensor
        for tensor, place, again in zip(first["tensor"], first["place"], repeated, strict=True)
    ]
    ax.set_yticks([-float(row) for row in range(len(groups))], labels)
    ax.grid(axis="y", color=GREY, alpha=0.3, lw=0.5)
    values = table[column][np.isfinite(table[column])]
    if column in ("kl", "snr", "sd_ratio") and bool((values > 0).any()):
        ax.set_xscale("log", nonpositive="mask")  # the reference's own distance from itself is 0
        plain_numbers(ax.xaxis)
    ax.set_xlabel(LABELS[column])
    ax.legend()
    return ax


def plot_transpositions(
    counts: Mapping[str, Tensor | Sequence[float]],
    size: int,
    ax: Axes | None = None,
    along: str = "sample",
) -> Axes:
    """
    Numbers of transpositions along a chain, or over training, beside those of a random permutation
    (mean and one standard deviation).

    Example::

        >>> from pyro_groupprior.plots import plot_transpositions
        >>> plot_transpositions({"found": [0, 3, 5]}, size=64).get_ylabel()
        'transpositions'

    :param counts: by name, each one number for every sample.
    :param int size: how many units there are.
    :param ax: axes to draw on; default: new ones.
    :param str along: what the numbers follow, for the label, such as ``"epoch"``.
    :return: the axes.
    :raises ImportError: if Matplotlib is missing.
    """
    ax = make_axes(ax)
    for number, (name, values) in enumerate(counts.items()):
        colour = COLOURS[number % len(COLOURS)]
        line = LINES[number % len(LINES)]
        ax.plot(
            torch.as_tensor(values).numpy(), marker=".", ls=line, color=colour, lw=1.0, label=name
        )
    mean, sd = random_transpositions(size)
    ax.axhspan(mean - sd, mean + sd, color=GREY, alpha=0.25, lw=0)
    ax.axhline(mean, color=GREY, lw=1.0, ls="--", label="random permutation")
    ax.set_ylim(bottom=-0.02 * size, top=size)
    ax.set_xlabel(along)
    ax.set_ylabel("transpositions")
    ax.legend()
    return ax


def plot_pruning(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    score: str = "accuracy",
    ax: Axes | None = None,
) -> Axes:
    """
    A score against the share of the weights that stay, a line for each rule.

    Example::

        >>> from pyro_groupprior.plots import plot_pruning
        >>> plot_pruning({"snr": ([1.0, 0.5, 0.1], [0.98, 0.98, 0.9])}).get_xlabel()
        'share of weights kept'

    :param curves: by name, shares and scores.
    :param str score: what the scores are, for the label.
    :param ax: axes to draw on; default: new ones.
    :return: the axes.
    :raises ImportError: if Matplotlib is missing.
    :raises ValueError: if there are no curves.
    """
    ax = draw_curves(curves, score, ax)
    ax.invert_xaxis()
    ticks = [1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01]
    least = min(min(shares) for shares, _ in curves.values())
    shown = [tick for tick in ticks if tick >= 0.99 * least]
    ax.set_xticks(shown, [f"{100 * tick:g} %" for tick in shown])
    ax.minorticks_off()
    ax.set_xlabel("share of weights kept")
    return ax
