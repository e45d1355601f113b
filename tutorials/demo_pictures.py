# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The demo's pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: no display needed

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from pyro_groupprior import plots

from .demo_data import Data
from .demo_fit import Fit

DPI = 150
NUM_UNSURE = 8


def save_all(data: Data, fits: Mapping[str, Fit], folder: Path) -> list[Path]:
    """
    Draw groups, losses and predictions of one data set.

    :return: the files written.
    """
    figures = {
        "groups": group_priors(data, fits["dynamic"]),
        "loss": losses(data, fits),
        "predictions": predictions(data, fits["dynamic"]),
    }
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{data.name}_{name}.png")
        figure.savefig(paths[-1], dpi=DPI)
        plt.close(figure)
    return paths


def group_priors(data: Data, fit: Fit) -> Figure:
    """The groups' priors over the weights they hold."""
    height = 1.5 + 0.8 * fit.model.assignment.num_groups
    figure, ax = plt.subplots(figsize=(8, height), layout="constrained")
    plots.plot_group_priors(fit.model, fit.guide, ax)
    figure.suptitle(f"{data.name}: groups of the dynamic prior")
    return figure


def losses(data: Data, fits: Mapping[str, Fit]) -> Figure:
    """
    The loss under each prior. Their heights do not rank the priors: what it costs to say which
    weight is in which group is in none of them.
    """
    figure, axes = plt.subplots(2, 2, figsize=(10, 7.3), sharex=True, layout="constrained")
    for ax, (name, fit) in zip(axes.flat, fits.items()):
        plots.plot_history(fit.history, ax)
        ax.set_title(name)
        ax.get_legend().remove()
        handles, labels = ax.get_legend_handles_labels()
    for ax in axes[:, 1]:
        ax.set_ylabel("")
    for ax in axes[0]:
        ax.set_xlabel("")
    # One legend for all: the last panel's, the dynamic prior's, has every entry.
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(f"{data.name}: training under each prior (not comparable in height)")
    return figure


def predictions(data: Data, fit: Fit) -> Figure:
    """Observed against predicted; or reliability, and the least certain digits."""
    if not data.is_labels:
        figure, ax = plt.subplots(figsize=(6.5, 6), layout="constrained")
        plots.plot_predictions(
            fit.prediction, data.new_y, ax, shift=data.shift, scale=data.scale, unit=data.unit
        )
        figure.suptitle(f"{data.name}: rows not trained on, dynamic prior")
        return figure
    figure = plt.figure(figsize=(11, 5.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.15])
    plots.plot_reliability(fit.prediction, data.new_y, left.subplots())
    least_certain(data, fit, right)
    figure.suptitle(f"{data.name}: rows not trained on, dynamic prior")
    return figure


def least_certain(data: Data, fit: Fit, figure: Figure) -> None:
    """Pictures and predictive probabilities of the digits with the smallest confidence."""
    assert data.images is not None
    probs = fit.prediction.mean
    rows = probs.max(1).values.argsort()[:NUM_UNSURE].tolist()
    axes = figure.subplots(4, NUM_UNSURE // 2, height_ratios=[1.2, 1, 1.2, 1])
    for number, row in enumerate(rows):
        top, column = 2 * (number // (NUM_UNSURE // 2)), number % (NUM_UNSURE // 2)
        picture, bars = axes[top, column], axes[top + 1, column]
        picture.imshow(data.images[row], cmap="gray_r")
        picture.set_axis_off()
        label = int(data.new_y[row])
        picture.set_title(f"a {label}", fontsize="medium")
        colours = [plots.COLOURS[0]] * probs.shape[1]
        colours[label] = plots.COLOURS[1]
        bars.bar(np.arange(probs.shape[1]), probs[row], color=colours)
        bars.set_ylim(0, 1)
        bars.set_xticks(range(10))
        bars.tick_params(labelsize="x-small", length=2)
        bars.get_xticklabels()[label].set(color=plots.COLOURS[1], weight="bold")
        if column:
            bars.set_yticklabels([])
        else:
            bars.set_ylabel("probability", fontsize="small")
    figure.suptitle("least certain: probability of each digit, the true one orange", fontsize=10)
