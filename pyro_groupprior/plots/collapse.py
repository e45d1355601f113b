# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Layers that lose their signal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from ..collapse import CollapseMonitor
from ..collapse.signal import GROUP
from .axes import GREY, make_axes, plain_numbers
from .lineages import style
from .sources import as_collapse_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_collapse(
    monitor: CollapseMonitor | pd.DataFrame | xr.DataTree,
    ax: Axes | None = None,
    threshold: float | None = None,
) -> Axes:
    """
    The signal of every layer by epoch, with the threshold below which a layer counts as dead, and a
    ring around each alarm. Where a run was rolled back, what came before is drawn thin and pale.
    A signal of zero is drawn at the lower edge.

    Example::

        >>> x = torch.randn(64, 3)
        >>> model = BayesianModule(nn.Linear(3, 1), likelihoods.Normal(), num_data=64)
        >>> monitor = CollapseMonitor(epochs=1)
        >>> Adam = functools.partial(torch.optim.Adam, lr=0.01)
        >>> svi = PhasedSVI(model, AutoMeanField, Adam, callbacks=[monitor])
        >>> _ = svi.run([(x, x[:, :1])], epochs=3, progress=False)
        >>> plot_collapse(monitor).get_xlabel()
        'epoch'

    :param monitor: a :class:`~pyro_groupprior.CollapseMonitor` or
        :class:`~pyro_groupprior.CollapseRepair`; its ``to_frame()``; or a tree that
        :func:`~pyro_groupprior.datatree.to_datatree` has made with ``training``.
    :param ax: axes to draw on; default: new ones.
    :param float threshold: default: the monitor's, else that of monitors by default.
    :return: the axes.
    :raises ImportError: if Matplotlib is missing.
    :raises TypeError: if it is none of these.
    :raises ValueError: if there are no checks, or the threshold is not positive.
    """
    frame = as_collapse_frame(monitor)
    if threshold is None:
        threshold = getattr(monitor, "threshold", CollapseMonitor().threshold)
    if not threshold > 0:
        raise ValueError(f"threshold: expected a positive number, got {threshold}")
    frame = frame[frame["kind"] != GROUP]
    positive = frame["signal"][(frame["signal"] > 0) & np.isfinite(frame["signal"])]
    lowest, none = min([threshold, *positive]), bool((frame["signal"] <= 0).any())
    floor = 0.1 * lowest
    several = frame["site"].nunique() > 1
    last = frame["attempt"].max()
    ax = make_axes(ax)
    for number, ((site, part), layer) in enumerate(frame.groupby(["site", "part"], sort=False)):
        look = style(number)
        name = f"{site}: {part}" if several else str(part)
        for attempt, rows in layer.groupby("attempt"):
            signal = rows["signal"].where(np.isfinite(rows["signal"])).clip(lower=floor)
            final = attempt == last
            ax.plot(
                rows["epoch"],
                signal,
                ls=look["ls"],
                marker=look["marker"],
                color=look["color"],
                ms=4 if final else 2.5,
                lw=1.3 if final else 0.7,
                alpha=1.0 if final else 0.45,
                label=name if final else None,
            )
            if "alarm" in rows:
                told = rows["alarm"].astype(bool)
                ax.plot(
                    rows["epoch"][told], signal[told], "o", ms=11, mfc="none", mec="black", mew=1.4
                )
    ax.axhline(threshold, color=GREY, lw=1.0, ls=(0, (6, 3)), label="threshold")
    _name_marks(ax, frame)
    ax.set_yscale("log")
    plain_numbers(ax.yaxis)
    ax.set_ylim(bottom=0.8 * floor if none else 0.5 * lowest)
    ax.set_xlabel("epoch")
    ax.set_ylabel("signal of the layer / its noise")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize="small")
    return ax


def _name_marks(ax: Axes, frame: pd.DataFrame) -> None:
    """What rings and thin lines are, for the legend, where there are any."""
    if "alarm" in frame and frame["alarm"].astype(bool).any():
        ax.plot([], [], "o", ms=11, mfc="none", mec="black", mew=1.4, label="alarm")
    if frame["attempt"].nunique() > 1:
        ax.plot([], [], color=GREY, lw=0.7, alpha=0.6, label="before a rollback")
