# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""How far is each way to a posterior from NUTS?

Nets of one and two hidden layers of 50 ReLU units on Concrete, diabetes and Boston housing, two
random splits each, standardised by the training rows. Every candidate of
``benchmarks/candidates.py`` is scored on the rows left out: NLL in nats a row and the target's own
unit, RMSE, coverage of central 90 % intervals. The judge is ``python -m benchmarks.judge``. Of the
distance from plain Pyro's hierarchical AutoNormal, started with care, to NUTS, "closed" is the
share that a candidate has behind it: 1 is NUTS. Seconds are those of the processor, one thread.
A star: some run has ended with a warning that its loss was still falling; "!": with a net that
stayed collapsed, or chains that ran hot or hardly moved.
"""

import argparse
import functools
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from benchmarks import candidates, datasets, judged, scoring, timing
from benchmarks.cells import Cells

NUMBERS = ("NUM_DRAWS", "PYRO_STEPS", "LR", "MEMBERS", "MAX_STEPS", "PHASES")
SHARED = [getattr(candidates, name) for name in NUMBERS]
DEFAULT = "hmc_column"
TOO_LARGE = {("full_rank", "two"), ("laplace_full", "two")}  # a step takes seconds


def stored() -> Cells:
    """Read the results that are there."""
    return Cells("gap", {"": SHARED})


def run(name: str, net: str, seed: int, candidate: str) -> dict[str, Any]:
    """Run one candidate on one split."""
    split = datasets.regression(name, seed)
    return scoring.run(candidates.CANDIDATES[candidate], split, judged.NETS[net], seed)


def score_judge(name: str, net: str, seed: int) -> dict[str, Any] | None:
    """Score the judge's stored draws, if they are there."""
    found = judged.read(name, net, seed)
    if found is None:
        return None
    arrays, record = found
    split = datasets.regression(name, seed)
    return judged.scores(arrays, split) | {k: record[k] for k in ("seconds", "rhat")}


def runs_of(cells: Cells, name: str, net: str) -> dict[str, dict[int, dict[str, Any]]]:
    """Gather what is there for one data set and net: by candidate, then by split."""
    nuts = {seed: score_judge(name, net, seed) for seed in range(judged.SPLITS)}
    found = {"nuts": {seed: cell for seed, cell in nuts.items() if cell}}
    for candidate in candidates.CANDIDATES:
        keys = {seed: f"{name} {net} {seed} {candidate}" for seed in range(judged.SPLITS)}
        found[candidate] = {s: cells.cells[k] for s, k in keys.items() if k in cells.cells}
    return {candidate: runs for candidate, runs in found.items() if runs}


def mean(runs: Iterable[dict[str, Any]], key: str) -> float:
    """Average a figure over runs."""
    return statistics.fmean(run[key] for run in runs)


def summary(cells: Cells) -> dict[str, float]:
    """Print a table for each data set and net; average for each data set."""
    figures: dict[str, float] = {}
    nets = [(name, net) for name in datasets.REGRESSION for net in judged.NETS]
    runs_by_net = {(name, net): runs_of(cells, name, net) for name, net in nets}
    for name in datasets.REGRESSION:
        by_net = {net: runs_by_net[name, net] for net in judged.NETS}
        for net, found in by_net.items():
            print_runs(f"{name}, {net} hidden", found)
        # Averages of the same runs: those of nets and splits that plain Pyro and NUTS have too.
        for candidate in ("nuts", *candidates.CANDIDATES):
            pairs = [
                (runs[candidate][seed], runs["pyro"][seed], runs["nuts"][seed])
                for runs in by_net.values()
                for seed in set.intersection(
                    *(set(runs.get(kind, ())) for kind in (candidate, "pyro", "nuts"))
                )
            ]
            if not pairs:
                continue
            ours, plain, nuts = zip(*pairs, strict=True)
            figures[f"nll_{name}_{candidate}"] = mean(ours, "nll")
            figures[f"closed_{name}_{candidate}"] = closed(ours, plain, nuts)
            figures[f"over_nuts_{name}_{candidate}"] = mean(ours, "seconds") / mean(nuts, "seconds")
            figures[f"over_pyro_{name}_{candidate}"] = mean(ours, "seconds") / mean(
                plain, "seconds"
            )
    for key, bar in (
        ("gap_closed", "closed"),
        ("time_over_nuts", "over_nuts"),
        ("default_over_pyro_time", "over_pyro"),
    ):
        values = [v for k, v in figures.items() if k.startswith(bar) and k.endswith(f"_{DEFAULT}")]
        if values:
            figures[key] = statistics.median(values)
    print_overview(runs_by_net, figures)
    print(f"\nall cells, by commit {cells.commits}")
    return figures


def print_overview(
    found: dict[tuple[str, str], dict[str, dict[int, dict[str, Any]]]], figures: dict[str, float]
) -> None:
    """Print a row for each candidate: its NLL on all sets and nets, in brackets from one split."""
    rows = []
    for candidate in ("nuts", *candidates.CANDIDATES):
        runs = [list(by.get(candidate, {}).values()) for by in found.values()]
        if not any(runs):
            continue
        shares = [
            share
            for name in datasets.REGRESSION
            if (share := figures.get(f"closed_{name}_{candidate}")) is not None
        ]
        share = f"{statistics.median(shares):.2f}" if shares else ""
        seconds = f"{mean((run for of in runs for run in of), 'seconds'):.0f}"
        rows.append([candidate, *map(_nll, runs), share, seconds])
    header = ["NLL", *(f"{name} {net}" for name, net in found), "closed", "s"]
    timing.print_table("all sets and nets", header, rows)


def _nll(runs: Sequence[dict[str, Any]]) -> str:
    if not runs:
        return ""
    text = f"{mean(runs, 'nll'):.2f}"
    return text if len(runs) == judged.SPLITS else f"({text})"


def print_runs(title: str, found: dict[str, dict[int, dict[str, Any]]]) -> None:
    """Print a row for each candidate."""
    rows = []
    for candidate, runs in found.items():
        numbers = [f"{mean(runs.values(), k):.3f}" for k in ("nll", "rmse", "coverage", "noise")]
        both = [s for s in runs if s in found.get("pyro", {}) and s in found.get("nuts", {})]
        share = closed(*([found[k][s] for s in both] for k in (candidate, "pyro", "nuts")))
        star = scoring.marks(runs.values())
        seconds = f"{mean(runs.values(), 'seconds'):.0f}"
        rows.append([candidate + star, str(len(runs)), *numbers, seconds, f"{share:.2f}"])
    header = ["candidate", "runs", "NLL", "RMSE", "coverage", "noise", "s", "closed"]
    timing.print_table(title, header, rows)


def closed(
    ours: Sequence[dict[str, Any]],
    plain: Sequence[dict[str, Any]],
    nuts: Sequence[dict[str, Any]],
) -> float:
    """Find the share of the distance from plain Pyro to NUTS, of runs on the same splits."""
    if not ours:
        return math.nan
    return (mean(plain, "nll") - mean(ours, "nll")) / (mean(plain, "nll") - mean(nuts, "nll"))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within two minutes")
    parser.add_argument("--only", nargs="+", help="data sets or candidates to run; default: all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cells = stored()
    if args.quick:
        for candidate in ("pyro", "mean_field"):
            again = run("diabetes", "one", 0, candidate)
            print(f"run now: diabetes one 0 {candidate} NLL {again['nll']:.3f}")
    else:
        for seed in range(judged.SPLITS):
            for name in datasets.REGRESSION:
                for net in judged.NETS:
                    for candidate in candidates.CANDIDATES:
                        if (candidate, net) in TOO_LARGE:
                            continue
                        if not args.only or name in args.only or candidate in args.only:
                            make = functools.partial(run, name, net, seed, candidate)
                            cells.get(f"{name} {net} {seed} {candidate}", make)
    timing.print_json(summary(cells))


if __name__ == "__main__":
    main()
