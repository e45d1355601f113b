# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The groups' priors over training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from ..svi import History
from .axes import GREY, end_labels, make_axes, plain_numbers
from .lineages import largest, lineages, phases_of, style
from .sources import as_history

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AREA = 300.0  # of the mark of a group that holds all weights, in square points


def plot_group_scales(
    history: History | xr.DataTree,
    ax: Axes | None = None,
    max_groups: int = 8,
    site: str | None = None,
    *,
    parameter: str = "scale",
) -> Axes:
    """
    The scale, or the location, of each group's prior after every regroup, in units of the base
    scale (posterior medians). A line joins groups of which one continues the other; the area of a
    mark is the share of the weights that the group holds. Empty groups are left out.

    Example::

        >>> record = PhaseRecord("w", 1, 5, 50, 0.1, 2, (6.0, 4.0), (0.0, 0.1), (1.0, 0.2),
        ...     sources=(0, 1), flows=((0, 0, 6.0), (1, 1, 4.0)))
        >>> plot_group_scales(History(phases=[record])).get_ylabel()
        'prior scale / base scale'

    :param history: that of a :class:`~pyro_groupprior.PhasedSVI`, or a tree that
        :func:`~pyro_groupprior.datatree.to_datatree` has made with ``training``.
    :param ax: axes to draw on; default: new ones.
    :param int max_groups: show this many of the groups that were the largest at any time.
    :param str site: name of the group prior, where there are several.
    :param str parameter: ``"scale"`` or ``"loc"``.
    :return: the axes.
    :raises ImportError: if Matplotlib is missing.
    :raises TypeError: if it is neither a history nor a tree.
    :raises ValueError: if there was no regroup, no groups are wanted, the site is not known or one
        of several, the parameter is neither of the two, or the history was written before groups
        were followed.
    """
    if parameter not in ("scale", "loc"):
        raise ValueError(f'parameter: expected "scale" or "loc", got {parameter!r}')
    phases = phases_of(as_history(history), site)
    columns = lineages(phases)[1:]
    sizes = [record.sizes for record in phases]
    shown = largest(columns, sizes, max_groups)
    epochs = [record.epoch for record in phases]
    ax = make_axes(ax)
    ends = []
    for number, lineage in enumerate(shown):
        look = style(number)
        rows = []
        for record, column in zip(phases, columns, strict=True):
            if lineage in column:
                group = column.index(lineage)
                if record.sizes[group]:
                    value = (record.scales if parameter == "scale" else record.locs)[group]
                    rows.append((record.epoch, value, record.sizes[group] / sum(record.sizes)))
                last = group
        x, y, share = np.array(rows).T
        ax.plot(x, y, ls=look["ls"], color=look["color"], lw=1.4, label=f"group {last}")
        ax.scatter(
            x, y, s=12 + AREA * share, color=look["color"], marker=look["marker"], alpha=0.7, lw=0
        )
        if lineage in columns[-1]:
            ends.append((x[-1], y[-1], f"group {last}", look["color"]))
        else:
            ax.annotate(
                f"group {last}, ended",
                (x[-1], y[-1]),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize="small",
                bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.7},
            )
    if parameter == "scale":
        ax.set_yscale("log")
        plain_numbers(ax.yaxis)
    for share in (0.1, 0.5):
        ax.scatter(
            [], [], s=12 + AREA * share, color=GREY, lw=0, label=f"{share:.0%} of the weights"
        )
    handles, labels = ax.get_legend_handles_labels()
    # Lines are named at their ends; the legend has the areas only, above the axes.
    ax.legend(
        handles[-2:], labels[-2:], loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False
    )
    margin = 0.05 * (max(epochs) - min(epochs)) or 0.5
    ax.set_xlim(min(epochs) - margin, max(epochs) + margin)
    ax.margins(y=0.08)
    ax.get_ylim()
    end_labels(ax, ends)
    ax.set_xlabel("epoch of the regroup")
    ax.set_ylabel(f"prior {parameter} / base scale")
    return ax
