# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What all pictures share: axes and colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis


# Okabe and Ito's colours: told apart by the colour-blind and, mostly, in grey print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#767676"


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
        marker, colour = "osD^v*"[number % 6], COLOURS[number % len(COLOURS)]
        ax.plot(*points, marker + "-", color=colour, ms=4, lw=1.2, label=name)
    ax.set_xscale("log")
    ax.set_ylabel(score)
    ax.legend()
    return ax


def plain_numbers(axis: Axis) -> None:
    """Write the numbers of a logarithmic axis out: 0.2, not 2 x 10^-1; few where it is long."""
    from matplotlib.ticker import LogFormatter

    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
