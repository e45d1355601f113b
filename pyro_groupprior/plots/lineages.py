# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Groups followed through the phases of training."""

from __future__ import annotations

from collections.abc import Sequence

from ..svi import History, PhaseRecord
from .axes import COLOURS, HATCHES, LINES, MARKERS


def phases_of(history: History, site: str | None) -> list[PhaseRecord]:
    """
    The regroups of one group prior.

    :param str site: its name; default: the only one.
    :raises ValueError: if there was none, or there are several to choose from.
    """
    names = list(dict.fromkeys(record.name for record in history.phases))
    if not names:
        raise ValueError("history: expected at least one regroup, got none")
    if site is None and len(names) > 1:
        raise ValueError(f"site: expected the name of one of several group priors, {names}")
    if site is not None and site not in names:
        raise ValueError(f"site: expected one of {names}, got {site!r}")
    return [record for record in history.phases if record.name == (site or names[0])]


def lineages(phases: Sequence[PhaseRecord]) -> list[list[int]]:
    """
    The lineage of each group, before the first regroup and after each: a group has that of the one
    it continues, or a new one.

    Example::

        >>> from pyro_groupprior.plots.lineages import lineages
        >>> moved = ((0, 0, 2.0), (1, 1, 1.0), (1, 2, 3.0))
        >>> record = PhaseRecord("w", 1, 5, 50, 0.2, 3, (2.0, 1.0, 3.0), (0.0,) * 3, (1.0,) * 3,
        ...     sources=(0, -1, 1), flows=moved)
        >>> lineages([record])
        [[0, 1], [0, 2, 1]]

    :raises ValueError: if the records were written before groups were followed.
    """
    for record in phases:
        if len(record.sources) != record.num_groups or not record.flows:
            raise ValueError(
                f"history: expected where weights and groups of phase {record.phase} came from, "
                "got a record that was written before this was kept"
            )
    old = [source for source, _, _ in phases[0].flows]
    found = [list(range(1 + max(*old, *phases[0].sources)))]
    fresh = len(found[0])
    for record in phases:
        column = []
        for source in record.sources:
            # Between two runs a model may have been given other groups: these are new.
            if 0 <= source < len(found[-1]):
                column.append(found[-1][source])
            else:
                column.append(fresh)
                fresh += 1
        found.append(column)
    return found


def largest(
    columns: Sequence[Sequence[int]], sizes: Sequence[Sequence[float]], max_groups: int
) -> list[int]:
    """
    The lineages that were the largest at their best, in order of their first appearance.

    :raises ValueError: if none are wanted.
    """
    if max_groups < 1:
        raise ValueError(f"max_groups: expected a positive number, got {max_groups}")
    peak: dict[int, float] = {}
    for column, counts in zip(columns, sizes, strict=True):
        for lineage, count in zip(column, counts, strict=True):
            peak[lineage] = max(peak.get(lineage, 0.0), count)
    filled = [lineage for lineage in peak if peak[lineage] > 0]
    kept = sorted(filled, key=lambda lineage: -peak[lineage])[:max_groups]
    return sorted(kept)


def style(number: int) -> dict[str, str]:
    """Colour, hatch, line and marker of the n-th lineage shown; no two alike in grey print."""
    again = number // len(COLOURS)
    return {
        "color": COLOURS[number % len(COLOURS)],
        "hatch": HATCHES[again % len(HATCHES)],
        "ls": LINES[(number + again) % len(LINES)],
        "marker": MARKERS[(number + again) % len(MARKERS)],
    }
