# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Does regrouping add anything over fixed groups, and where?

Mean-field posteriors of ReLU nets on Concrete, five splits. From one setting (two hidden layers of
50, all rows; at most 8 groups, found up to 6 times, soft), one thing is changed at a time: depth,
width, rows; number of groups, weights or whole columns, soft or hard, how often. Each is the test
NLL less that of a prior per layer, and less that of a prior per column, of the same net on the
same split, with standard errors. "!": some net stayed collapsed onto its prior. Run as
``python -m benchmarks.groups --ablation``.
"""

import dataclasses
import functools
import statistics
from typing import Any

import pyro_groupprior as pgp
from benchmarks import candidates, datasets, scoring, timing
from benchmarks.cells import Cells

SPLITS = 5
WIDTH, ROWS, GROUPS, PHASES = 50, 804, 8, 6


@dataclasses.dataclass(frozen=True)
class Case:
    """One net and one way to its groups; ``kind`` is "layer", "column", "weights" or "units"."""

    kind: str
    depth: int = 2
    width: int = WIDTH
    rows: int = ROWS
    groups: int = GROUPS
    soft: bool = True
    phases: int = PHASES

    @property
    def name(self) -> str:
        """A word for it, in the file."""
        return "-".join(str(value) for value in dataclasses.astuple(self))


NETS: list[dict[str, int]] = [
    {},
    {"depth": 1},
    {"depth": 3},
    {"width": 10},
    {"width": 25},
    {"width": 100},
    {"rows": 100},
    {"rows": 200},
    {"rows": 400},
]
WAYS: list[dict[str, Any]] = [
    {"groups": 2},
    {"groups": 4},
    {"groups": 16},
    {"soft": False},
    {"phases": 1},
    {"phases": 3},
    {"phases": 12},
]


def run(case: Case, seed: int) -> dict[str, Any]:
    """Train and score one case on one split."""
    whole = datasets.regression("concrete", seed)
    split = dataclasses.replace(whole, x=whole.x[: case.rows], y=whole.y[: case.rows])
    options: dict[str, Any] = {"grouping": case.kind}
    if case.kind in ("weights", "units"):
        units = case.kind == "units"
        options = {
            "regroup": pgp.Regroup(
                pgp.Cluster(
                    pgp.DeconvolvedMixture(case.groups, zero_mean=units),
                    soft="auto" if case.soft else None,
                    unit="column" if units else None,
                ),
                phases=case.phases,
            )
        }
    method = functools.partial(candidates.guided, guide=candidates.LOCAL, **options)
    return scoring.run(method, split, (case.width,) * case.depth, seed)


def cases() -> list[Case]:
    """List all, the ones to compare with first."""
    found = [Case(kind, **net) for net in NETS for kind in ("layer", "column", "weights", "units")]
    return found + [Case(kind, **way) for way in WAYS for kind in ("weights", "units")]


def less(cells: dict[str, Any], case: Case, kind: str) -> list[float]:
    """NLL less that of fixed groups, split by split."""
    base = Case(kind, case.depth, case.width, case.rows)
    pairs = [(f"{case.name} {seed}", f"{base.name} {seed}") for seed in range(SPLITS)]
    return [cells[a]["nll"] - cells[b]["nll"] for a, b in pairs if a in cells and b in cells]


def main(quick: bool) -> None:
    """Run the study."""
    cells = Cells("ablation", {"": candidates.MAX_STEPS})
    if quick:
        print("run now:", run(Case("units", rows=100, depth=1), 0))
    else:
        for seed in range(SPLITS):
            for case in cases():
                cells.get(f"{case.name} {seed}", functools.partial(run, case, seed))
    rows, figures = [], {}
    for case in cases():
        found = [cells.cells[k] for s in range(SPLITS) if (k := f"{case.name} {s}") in cells.cells]
        if not found:
            continue
        figures[f"nll_{case.name}"] = statistics.fmean(cell["nll"] for cell in found)
        differences = []
        for kind in ("layer", "column"):
            values = less(cells.cells, case, kind)
            differences.append(timing.mean_and_error(values))
            if values:
                figures[f"less_{kind}_{case.name}"] = statistics.fmean(values)
        shape = [case.depth, case.width, case.rows]
        way = [case.groups, "soft" if case.soft else "hard", case.phases]
        plain = case.kind in ("layer", "column")
        rows.append(
            [
                case.kind + scoring.marks(found),
                *map(str, shape),
                *("-" if plain else str(value) for value in way),
                str(len(found)),
                f"{figures[f'nll_{case.name}']:.3f}",
                *differences,
            ]
        )
    header = ["groups of", "depth", "width", "rows", "at most", "", "phases", "splits", "NLL"]
    timing.print_table("Concrete", [*header, "less layer", "less column"], rows)
    print(f"\nall cells, by commit {cells.commits}")
    timing.print_json(figures)
