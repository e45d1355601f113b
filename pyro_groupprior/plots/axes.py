# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What all pictures share: axes, colours and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from sklearn.isotonic import isotonic_regression

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis


# Okabe and Ito's colours: told apart by the colour-blind and, mostly, in grey print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#767676"
# In grey print these tell apart what is drawn in the same colour or one as dark.
MARKERS = "osD^v*"
LINES = ("-", "--", "-.", ":")
HATCHES = ("", "////", "....", "xxxx")


def make_axes(ax: Axes | None, height: float = 4.0) -> Axes:
    """
    The given axes, or those of a new figure of this height in inches.

    :raises ImportError: if Matplotlib is missing.
    """
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("plots need Matplotlib: pip install 'pyro_groupprior[plots]'") from error
    return pyplot.subplots(figsize=(7.0, height), layout="constrained")[1]


def draw_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], score: str, ax: Axes | None
) -> Axes:
    """
    Scores by something, a line with markers for each name.

    :raises ValueError: if there are no curves.
    """
    if not curves:
        raise ValueError("curves: expected at least one, got none")
    ax = make_axes(ax)
    for number, (name, points) in enumerate(curves.items()):
        marker, colour = MARKERS[number % len(MARKERS)], COLOURS[number % len(COLOURS)]
        ax.plot(*points, marker + "-", color=colour, ms=4, lw=1.2, label=name)
    ax.set_xscale("log")
    ax.set_ylabel(score)
    ax.legend()
    return ax


def plain_numbers(axis: Axis) -> None:
    """Write the numbers of a logarithmic axis out: 0.2, not 2 x 10^-1; few where it is long."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):  # which numbers to write is up to it, how is not
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    axis.set_major_formatter(Plain())
    axis.set_minor_formatter(Plain(minor_thresholds=(2, 0.5)))


def end_labels(ax: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """
    Write labels beside the right edge of the axes, each as high as the point it belongs to if there
    is room, else moved up or down so that they do not overlap. The limits of the axes are to be set
    before.

    :param labels: place of the point, text and colour of each.
    """
    if not labels:
        return
    points = ax.transData.transform([label[:2] for label in labels])
    places = ax.transAxes.inverted().transform(points)[:, 1]
    font = 9.0
    line = 1.15 * font / (ax.get_window_extent().height * 72 / ax.figure.dpi)
    for (x, y, text, colour), place in zip(labels, spread(places, line), strict=True):
        ax.annotate(
            text,
            (x, y),
            xytext=(1.03, place),
            textcoords="axes fraction",
            va="center",
            fontsize=font,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.8, "shrinkA": 0, "shrinkB": 0},
        )


def spread(places: Sequence[float] | np.ndarray, gap: float) -> np.ndarray:
    """
    Places moved as little as need be, in the least squares, to lie at least a gap apart.

    Example::

        >>> from pyro_groupprior.plots.axes import spread
        >>> spread([1.0, 0.0, 1.0], 0.5).tolist()
        [0.75, 0.0, 1.25]
    """
    places = np.asarray(places, dtype=float)
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    moved = np.empty_like(places)
    # Less its step each, they need to be in order only.
    moved[order] = isotonic_regression(places[order] - steps) + steps
    return moved
