# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Do groups win, and over whom?

Nets of one and two hidden layers of 50 ReLU units on five regressions and two classifications,
five random splits each (three where there are more than 5,000 rows). Ours: a fixed prior
N(0, 1 / fan-in), a learned prior for each layer or column (a unit's outgoing weights), and groups
found while training (by k-means on the means, on the evidence of single weights, on that of whole
columns), each under ``pgp.fit`` as it stands: eight chains, by HMC or, for digits, diamonds and
Fashion-MNIST, on minibatches; where groups are found, all start from the guide that found them,
else each from a net of its own. Peers: MC dropout, an ensemble of five, Laplace and bayesian-torch.
Which of ours counts as "our one setting" is decided by validation rows, a fifth of the training
rows of the first split of every set, with one hidden layer; some of these are test rows of other
splits. A star: some loss was still falling when a run ended; "!": some net stayed collapsed, or
chains ran hot or hardly moved. ``--ablation``: see ``benchmarks/ablation.py``.
"""

import argparse
import functools
import statistics
from collections.abc import Callable
from typing import Any

import torch

import pyro_groupprior as pgp
from benchmarks import ablation, candidates, datasets, default, gap, judged, peers, scoring, timing
from benchmarks.cells import Cells
from benchmarks.nets import relu_net

SETS = {  # by name, how many splits
    "diabetes": 5,
    "auto": 5,
    "boston": 5,
    "concrete": 5,
    "digits": 5,
    "diamonds": 3,
    "fashion": 3,
}
CHOOSING = "one"  # hidden layer, of the nets that choose our setting
IN_GAP = {  # the same method there, for sets that are small enough for HMC
    "fixed": "hmc_fixed",
    "layer": "hmc",
    "column": "hmc_column",
    "dropout": "dropout",
    "ensemble": "ensemble",
    "laplace": "laplace_kron",
    "bayesian_torch": "bayesian_torch",
}
FIXED = {"loc": 0.0, "scale": 1.0}

Method = Callable[[datasets.Split, tuple[int, ...]], peers.Draws]


def ours(
    split: datasets.Split,
    hidden: tuple[int, ...],
    regroup: Callable[[], pgp.Regroup] | None = None,
    **prior: Any,
) -> peers.Draws:
    """Fit a net as the package does by default."""
    net = relu_net(split.x.shape[1], hidden, split.num_classes or 1)
    return default.fit(net, split, None if regroup is None else regroup(), **prior)


OURS: dict[str, Method] = {
    "fixed": functools.partial(ours, **FIXED),
    "layer": functools.partial(ours, grouping="layer"),
    "column": functools.partial(ours, grouping="column"),
    "naive": functools.partial(ours, grouping="layer", regroup=candidates.naively_regrouped),
    "weights": functools.partial(ours, grouping="layer", regroup=candidates.weights_regrouped),
    "units": functools.partial(ours, grouping="layer", regroup=candidates.units_regrouped),
}
PEERS: dict[str, Method] = {
    "dropout": peers.dropout,
    "ensemble": peers.ensemble,
    "laplace": peers.laplace,
    "bayesian_torch": peers.bayes_torch,
}


def load(name: str, seed: int) -> datasets.Split:
    """Make one split of any of the sets."""
    kind = datasets.classification if name in datasets.CLASSIFICATION else datasets.regression
    return kind(name, seed)


def run(name: str, net: str, seed: int, method: str, validation: bool = False) -> dict[str, Any]:
    """Run and score one method on one split; what ``benchmarks.gap`` has run is not run again."""
    if method in IN_GAP and not validation:
        there = gap.stored().cells.get(f"{name} {net} {seed} {IN_GAP[method]}")
        if there:
            return there
    split = load(name, seed)
    if validation:
        split = datasets.validation(split, seed)
    return scoring.run((OURS | PEERS)[method], split, judged.NETS[net], seed)


def key(name: str, net: str, seed: int, method: str, validation: bool = False) -> str:
    """Name a cell in the file."""
    return f"{name} {net} {seed} {method}" + " validation" * validation


def choose(cells: dict[str, dict[str, Any]]) -> str | None:
    """Choose our one setting by validation rows: the least NLL above each set's best, on average.

    :return: None while some run is missing.
    """
    above: dict[str, list[float]] = {method: [] for method in OURS}
    for name in SETS:
        keys = {method: key(name, CHOOSING, 0, method, True) for method in OURS}
        if any(k not in cells for k in keys.values()):
            return None
        found = {method: cells[k]["nll"] for method, k in keys.items()}
        for method, nll in found.items():
            above[method].append(nll - min(found.values()))
    return min(above, key=lambda method: statistics.fmean(above[method]))


def summary(cells: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Print a table for each set and net; compare with the peers over both nets."""
    figures: dict[str, float] = {}
    chosen = choose(cells)
    won, judged_sets = 0, 0
    for name, splits in SETS.items():
        for net in judged.NETS:
            print_set(cells, name, net, splits)
        found = {method: _runs(cells, name, splits, method) for method in (*OURS, *PEERS)}
        means = {
            m: statistics.fmean(run["nll"] for run in runs) for m, runs in found.items() if runs
        }
        figures |= {f"nll_{name}_{method}": mean for method, mean in means.items()}
        if chosen is not None and {chosen, *PEERS} <= means.keys():
            judged_sets += 1
            won += all(means[chosen] < means[peer] for peer in PEERS)
    print_overview(cells)
    if chosen is not None:
        print(f"\nour one setting, by validation rows: {chosen}")
        figures |= {"sets": judged_sets, "sets_won": won}
    return figures


def _runs(
    cells: dict[str, dict[str, Any]], name: str, splits: int, method: str
) -> list[dict[str, Any]]:
    """Gather the runs of all nets and splits; none while one is missing."""
    keys = [key(name, net, seed, method) for net in judged.NETS for seed in range(splits)]
    return [cells[k] for k in keys] if all(k in cells for k in keys) else []


def print_overview(cells: dict[str, dict[str, Any]]) -> None:
    """Print a row for each method: its NLL on every set, over nets and splits, and the time."""
    rows = []
    for method in (*OURS, *PEERS):
        runs = [_runs(cells, name, splits, method) for name, splits in SETS.items()]
        if any(runs):
            nll = [f"{statistics.fmean(run['nll'] for run in of):.3f}" if of else "" for of in runs]
            seconds = statistics.fmean(run["seconds"] for of in runs for run in of)
            rows.append([method, *nll, f"{seconds:.0f}"])
    timing.print_table("NLL over both nets, where all splits are there", ["", *SETS, "s"], rows)


def print_set(cells: dict[str, dict[str, Any]], name: str, net: str, splits: int) -> None:
    """Print a row for each method, with the paired difference to a prior per layer."""
    names = ("accuracy", "ece") if name in datasets.CLASSIFICATION else ("rmse", "coverage")
    rows = []
    for method in (*OURS, *PEERS):
        runs = {s: cells.get(key(name, net, s, method)) for s in range(splits)}
        found = {seed: cell for seed, cell in runs.items() if cell}
        if not found:
            continue
        base = {s: cells.get(key(name, net, s, "layer")) for s in found}
        less = [cell["nll"] - base[s]["nll"] for s, cell in found.items() if base[s]]  # type: ignore[index]
        rows.append(
            [
                method + scoring.marks(found.values()),
                str(len(found)),
                f"{statistics.fmean(cell['nll'] for cell in found.values()):.3f}",
                "" if method == "layer" else timing.mean_and_error(less),
                *(f"{statistics.fmean(c[n] for c in found.values()):.3f}" for n in names),
                f"{statistics.fmean(cell['seconds'] for cell in found.values()):.0f}",
            ]
        )
    if rows:
        header = ["method", "splits", "NLL", "less layer", *names, "s"]
        timing.print_table(f"{name}, {net} hidden", header, rows)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within two minutes")
    parser.add_argument("--ablation", action="store_true", help="where does regrouping help?")
    parser.add_argument("--only", nargs="+", help="data sets or methods to run; default: all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.ablation:
        ablation.main(args.quick)
        return
    cells = Cells("groups", {"": [default.MOST_DRAWS, candidates.NUM_DRAWS, candidates.PHASES]})
    if args.quick:
        for name, method in (("auto", "column"), ("digits", "dropout")):
            found = run(name, "one", 0, method)
            print(f"run now: {name} one 0 {method}", {k: round(v, 3) for k, v in found.items()})
    else:
        run_all(cells, args.only)
    print(f"\nall cells, by commit {cells.commits}")
    timing.print_json(summary(cells.cells))


def run_all(cells: Cells, only: list[str] | None) -> None:
    """Run the cells that are not there yet, one split of everything after the other."""
    for seed in range(max(SETS.values())):
        for name, splits in SETS.items():
            for net in judged.NETS:
                for method in (*OURS, *PEERS):
                    for validation in (False, True):
                        wanted = not only or name in only or method in only
                        chosen_by = seed == 0 and net == CHOOSING and method in OURS
                        owed = seed < splits and (chosen_by or not validation)
                        if wanted and owed:
                            make = functools.partial(run, name, net, seed, method, validation)
                            cells.get(key(name, net, seed, method, validation), make)


if __name__ == "__main__":
    main()
