# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Does the default end well in deeper nets, with no schedule set by hand?

Four hidden layers of 100 ReLU units on diamonds (8,000 rows to train on, log price), and a ResNet
of 8 layers, 8-16-32 channels wide, with a first convolution of stride 2, on Fashion-MNIST (10,000
images to train on, the official 10,000 to score on), two splits each, by ``pgp.fit`` as it stands,
the latter also with a prior per layer. "rhat": of the function at a new row, over chains, the
worst; "falling": warnings that the loss still was when it ended; "hot": that chains ran hotter than
the posterior; "rolled back": collapses repaired on the way; "dead": collapses left as they were.
Seconds are those of the processor, one thread; of a ResNet's fit that was interrupted, those since
it was taken up again.
"""

import argparse
import functools
import statistics
from typing import Any

import torch

from benchmarks import datasets, default, peers, scoring, timing
from benchmarks.cells import FOLDER, Cells
from benchmarks.nets import ResNet, relu_net

SPLITS, WIDTHS, CHAINS = 2, (100,) * 4, 8
METHODS = {
    "mlp diamonds": ("default", "ensemble", "dropout"),
    "resnet fashion": ("default", "layer"),
}


def fit_mlp(split: datasets.Split, hidden: tuple[int, ...]) -> peers.Draws:
    """Fit a net of linear layers by default."""
    return default.fit(relu_net(split.x.shape[1], hidden), split)


def fit_resnet(
    split: datasets.Split, hidden: tuple[int, ...], seed: int, **prior: str
) -> peers.Draws:
    """Fit the ResNet, from where it was interrupted."""
    path = FOLDER / f"deep_resnet_{seed}{''.join(prior.values())}.run"
    net = ResNet(channels=1, width=8, stride=2)
    found = default.fit(net, split, checkpoint=path, **prior)
    path.unlink()
    return found


def run(case: str, seed: int, method: str) -> dict[str, Any]:
    """Fit and score one net."""
    kind, name = case.split()
    if kind == "resnet":
        split = datasets.classification(name, seed, images=True)
        prior = {"grouping": "layer"} if method == "layer" else {}
        return scoring.run(functools.partial(fit_resnet, seed=seed, **prior), split, (), seed)
    methods = {"default": fit_mlp, "ensemble": peers.ensemble, "dropout": peers.dropout}
    chains = CHAINS if method == "default" else None
    return scoring.run(methods[method], datasets.regression(name, seed), WIDTHS, seed, chains)


def summary(cells: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Print a table for each net."""
    figures: dict[str, float] = {}
    for case, methods in METHODS.items():
        second = ("accuracy", "ece") if case.startswith("resnet") else ("rmse", "coverage")
        told = ("falling", "hot", "rolled_back", "dead")
        columns = ("nll", *second, "rhat", "rhat_median", *told, "seconds")
        rows = []
        for method in methods:
            keys = [f"{case} {seed} {method}" for seed in range(SPLITS)]
            runs = [cells[key] for key in keys if key in cells]
            if runs:
                there = [column for column in columns if column in runs[0]]  # R-hat of chains only
                means = {c: statistics.fmean(run[c] for run in runs) for c in there}
                cells_of = [f"{means[c]:.3g}" if c in means else "" for c in columns]
                rows.append([method, str(len(runs)), *cells_of])
                figures |= {f"{c}_{case.split()[1]}_{method}": mean for c, mean in means.items()}
        if rows:
            timing.print_table(case, ["method", "splits", *columns], rows)
    return figures


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within two minutes")
    parser.add_argument("--only", choices=METHODS, help="one of the nets; default: all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells("deep", {"": [WIDTHS, default.MOST_DRAWS]})
    if args.quick:
        found = run("mlp diamonds", 0, "ensemble")
        print("run now: mlp diamonds 0 ensemble", {k: round(v, 3) for k, v in found.items()})
    else:
        for seed in range(SPLITS):
            for case, methods in METHODS.items():
                for method in methods if args.only in (None, case) else ():
                    make = functools.partial(run, case, seed, method)
                    cells.get(f"{case} {seed} {method}", make)
    print(f"\nall cells, by commit {cells.commits}")
    timing.print_json(summary(cells.cells))


if __name__ == "__main__":
    main()
