# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""How weights move between groups from phase to phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ..svi import History, PhaseRecord
from .axes import GREY, end_labels, make_axes, spread
from .lineages import largest, lineages, phases_of, style
from .sources import as_history

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OTHER = -1  # all lineages that are not shown by themselves
WIDTH = 0.24  # of a column, where one phase is 1 wide
GAP = 0.015  # between groups, as a share of all weights
COUNTED = 8  # columns, up to which each says how many weights its groups hold
Counts = dict[int, float]


def plot_flows(
    history: History | xr.DataTree,
    ax: Axes | None = None,
    max_groups: int = 8,
    site: str | None = None,
) -> Axes:
    """
    How weights move between groups (an alluvial diagram): a column for the groups before the first
    regroup and for those after each, a block's height its number of weights, by their most probable
    group; bands between two columns the weights that went from one group to another, in the colour
    of where they came from. A group that continues another one keeps its colour. Proposals that
    were not accepted, which move nothing, are left out.

    Example::

        >>> moved = ((0, 0, 6.0), (0, 1, 1.0), (1, 1, 3.0))
        >>> record = PhaseRecord("w", 1, 5, 50, 0.1, 2, (6.0, 4.0), (0.0,) * 2, (1.0,) * 2,
        ...     sources=(0, 1), flows=moved)
        >>> ax = plot_flows(History(phases=[record]))
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['group 0: 7', 'group 1: 3']

    :param history: that of a :class:`~pyro_groupprior.PhasedSVI`, or a tree that
        :func:`~pyro_groupprior.datatree.to_datatree` has made with ``training``.
    :param ax: axes to draw on; default: new ones.
    :param int max_groups: show this many of the groups that were the largest at any time; all
        others together are grey.
    :param str site: name of the group prior, where there are several.
    :return: the axes.
    :raises ImportError: if Matplotlib is missing.
    :raises TypeError: if it is neither a history nor a tree.
    :raises ValueError: if there was no regroup, no groups are wanted, the site is not known or one
        of several, or the history was written before groups were followed.
    """
    proposed = phases_of(as_history(history), site)
    phases = [record for record in proposed if record.accepted] or proposed[-1:]
    columns = lineages(phases)
    sizes = _sizes(phases, columns)
    shown = largest(columns, sizes, max_groups)
    pooled = [_pool(column, counts, shown) for column, counts in zip(columns, sizes, strict=True)]
    gap = GAP * max(sum(counts.values()) for counts in pooled)
    order = [*shown, OTHER]
    bottoms = [_stack(counts, order, gap) for counts in pooled]
    ax = make_axes(ax, height=5.0)
    looks = {lineage: style(number) for number, lineage in enumerate(shown)}
    looks[OTHER] = {"color": GREY, "hatch": ""}
    for lineage in order:
        places = [place for place, counts in enumerate(pooled) if counts.get(lineage)]
        if places:
            look: dict[str, Any] = {key: looks[lineage][key] for key in ("color", "hatch")}
            ax.bar(
                places,
                [pooled[place][lineage] for place in places],
                WIDTH,
                [bottoms[place][lineage] for place in places],
                edgecolor="white",
                lw=0.5,
                label=_name(lineage, columns) + ("" if places[-1] == len(phases) else ", ended"),
                **look,
            )
    for place, record in enumerate(phases):
        moved = _moved(record, columns[place], columns[place + 1], shown)
        _draw_bands(ax, place, moved, order, bottoms, {k: v["color"] for k, v in looks.items()})
    ax.set_xlim(-WIDTH, len(phases) + WIDTH)
    ax.set_ylim(-gap, max(_top(c, b) for c, b in zip(pooled, bottoms, strict=True)) + gap)
    if len(pooled) <= COUNTED:
        _write_counts(ax, pooled, bottoms)
    _label_ends(ax, columns, pooled, bottoms, order, {k: v["color"] for k, v in looks.items()})
    _label_phases(ax, phases, len(proposed) - len(phases))
    ax.set_ylabel("weights in each group")
    ax.spines[["top", "right", "left", "bottom"]].set_visible(False)
    return ax


def _sizes(phases: Sequence[PhaseRecord], columns: Sequence[Sequence[int]]) -> list[list[float]]:
    """Weights of each group in each column; the larger number, should two records differ."""
    sizes = [[0.0] * len(column) for column in columns]
    for place, record in enumerate(phases):
        leaving, coming = [0.0] * len(columns[place]), [0.0] * record.num_groups
        for old, new, count in record.flows:
            if old < len(leaving):
                leaving[old] += count
            coming[new] += count
        sizes[place] = [max(pair) for pair in zip(sizes[place], leaving, strict=True)]
        sizes[place + 1] = coming
    return sizes


def _pool(column: Sequence[int], counts: Sequence[float], shown: Sequence[int]) -> Counts:
    """Weights by lineage, of those that are not shown together."""
    found: Counts = {}
    for lineage, count in zip(column, counts, strict=True):
        key = lineage if lineage in shown else OTHER
        if count:
            found[key] = found.get(key, 0.0) + count
    return found


def _moved(
    record: PhaseRecord, old: Sequence[int], new: Sequence[int], shown: Sequence[int]
) -> dict[tuple[int, int], float]:
    """Weights that went from one lineage to another."""
    found: dict[tuple[int, int], float] = {}
    for source, target, count in record.flows:
        if source < len(old):
            ends = (old[source], new[target])
            key = tuple(lineage if lineage in shown else OTHER for lineage in ends)
            found[key] = found.get(key, 0.0) + count  # type: ignore[index, arg-type]
    return found


def _stack(counts: Counts, order: Sequence[int], gap: float) -> Counts:
    """The lower edge of each block: the first on top, as one reads."""
    bottoms, height = {}, 0.0
    for lineage in reversed(order):
        if lineage in counts:
            bottoms[lineage] = height
            height += counts[lineage] + gap
    return bottoms


def _top(counts: Counts, bottoms: Counts) -> float:
    return max(bottoms[lineage] + counts[lineage] for lineage in counts)


def _draw_bands(
    ax: Axes,
    place: int,
    moved: Mapping[tuple[int, int], float],
    order: Sequence[int],
    bottoms: Sequence[Counts],
    colours: Mapping[int, str],
) -> None:
    x = np.linspace(place + WIDTH / 2, place + 1 - WIDTH / 2, 40)
    t = np.linspace(0, 1, 40)
    bend = t * t * (3 - 2 * t)
    left, right = dict(bottoms[place]), dict(bottoms[place + 1])
    for source in reversed(order):
        for target in reversed(order):
            count = moved.get((source, target), 0.0)
            if count:
                lower = left[source] + (right[target] - left[source]) * bend
                style: dict[str, Any] = {"color": colours[source], "alpha": 0.4, "lw": 0}
                ax.fill_between(x, lower, lower + count, zorder=0, **style)
                left[source] += count
                right[target] += count


def _write_counts(ax: Axes, pooled: Sequence[Counts], bottoms: Sequence[Counts]) -> None:
    """Numbers of weights in the blocks between the ends, where these are high enough."""
    low, high = ax.get_ylim()
    for place in range(1, len(pooled) - 1):
        for lineage, count in pooled[place].items():
            if count > 0.045 * (high - low):
                ax.text(
                    place,
                    bottoms[place][lineage] + count / 2,
                    f"{count:,.0f}",
                    ha="center",
                    va="center",
                    fontsize="x-small",
                    bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85},
                )


def _label_ends(
    ax: Axes,
    columns: Sequence[Sequence[int]],
    pooled: Sequence[Counts],
    bottoms: Sequence[Counts],
    order: Sequence[int],
    colours: Mapping[int, str],
) -> None:
    """Names and numbers of weights beside the first and the last column."""
    low, high = ax.get_ylim()
    found = []
    for place, seen in ((0, columns[:1]), (len(pooled) - 1, columns[-1:])):
        there = [lineage for lineage in order if lineage in pooled[place]]
        middles = [bottoms[place][lineage] + pooled[place][lineage] / 2 for lineage in there]
        texts = [f"{_name(lineage, seen)}: {pooled[place][lineage]:,.0f}" for lineage in there]
        found.append((middles, texts, [colours[lineage] for lineage in there]))
    middles, texts, looks = found[0]
    places = spread(middles, 0.04 * (high - low))
    ax.set_yticks(places, texts)
    ax.tick_params(axis="y", length=0)
    for place, middle, colour in zip(places, middles, looks, strict=True):
        ax.plot([-WIDTH, -WIDTH / 2], [place, middle], color=colour, lw=0.8)
    edge = len(pooled) - 1 + WIDTH / 2
    end_labels(ax, [(edge, *label) for label in zip(*found[1], strict=True)])


def _name(lineage: int, columns: Sequence[Sequence[int]]) -> str:
    """The group's number where it was last seen."""
    if lineage == OTHER:
        return "others"
    last = next(column for column in reversed(columns) if lineage in column)
    return f"group {list(last).index(lineage)}"


def _label_phases(ax: Axes, phases: Sequence[PhaseRecord], refused: int) -> None:
    every = -(-len(phases) // 10)
    places, labels = [0], ["before"]
    for place, record in enumerate(phases, 1):
        if place % every == 0 or place == len(phases):
            if places[-1] and place - places[-1] < every:  # the last one counts, and needs room
                places.pop()
                labels.pop()
            places.append(place)
            labels.append(str(record.epoch))
    ax.set_xticks(places, labels)
    note = f"\n{refused} proposals that were not accepted are not shown" if refused else ""
    ax.set_xlabel("epoch of the regroup" + note)
