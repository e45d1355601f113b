# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Do the groups of a real net's weights move, settle, and do no harm?

An MLP 8-50-50-1 on Concrete and one of 64-64-10 on digits, 5 random splits, five priors under the
same guide (mean-field, local reparametrisation) and the same steps: "fixed", a standard normal in
units of the base scale; "layer" and "column", a learned group for each; and two that start from
layers and regroup after every phase: "naive", k-means on the posterior means, hard; and "ours", the
deconvolved mixture of the evidence, soft, with its number of groups by BIC.

Churn is the share of the weights that change group at the first and at the last regroup. Lock-in:
after the run the groups are handed out at random and training goes on; "back" is the adjusted Rand
index between the groups that this ends with and those of the same run left alone, "control" that
between the latter and the groups before. ELBO and NLL are in nats a row, that of Concrete with the
target in MPa; the ELBO has the cost of stating the groups taken off where they were read off the
data. Differences are to "layer", pairwise by split, with their standard error.
"""

import argparse
import functools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyro
import torch
from sklearn.datasets import load_digits
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

import pyro_groupprior as pgp
from benchmarks import datasets, timing
from benchmarks.cells import Cells
from benchmarks.datasets import TEST_SHARE, Split
from tutorials.demo_fit import batches, concrete_net, digits_net


@dataclass(frozen=True)
class Setting:
    """How long to train, the same for all priors.

    :param int epochs: Epochs of a phase, over which the learning rate falls to 1 %: groups are
        found from a posterior that has come to rest.
    :param int phases: How many.
    :param int warmup: Phases over which the divergence gets its full weight; no regroup before.
    :param batch_size: Rows in a batch; None for all.
    :param float lr: Learning rate at the start of a phase.
    """

    epochs: int
    phases: int = 8
    warmup: int = 2
    batch_size: int | None = None
    lr: float = 0.01


SETTINGS = {"concrete": Setting(300), "digits": Setting(25, batch_size=240)}
PRIORS: dict[str, dict[str, Any]] = {
    "fixed": {"grouping": "all", "loc": 0.0, "scale": 1.0},
    "layer": {"grouping": "layer"},
    "column": {"grouping": "column"},
}
STRATEGIES: dict[str, Callable[[], Any]] = {
    "naive": functools.partial(pgp.Naive, 4),
    "ours": functools.partial(pgp.DeconvolvedMixture, 8),
}
METHODS = (*PRIORS, *STRATEGIES)
SEEDS = 5
DRAWS, ELBO_DRAWS = 500, 50


def data(name: str, seed: int) -> Split:
    """Make one random split, standardised by its training rows."""
    if name == "concrete":
        return datasets.regression(name, seed)
    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32)
    y = torch.tensor(labels.astype(np.int64))
    rows = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    new, train = rows.split([round(TEST_SHARE * len(y)), len(y) - round(TEST_SHARE * len(y))])
    x = x - x[train].mean(0)
    # One scale for all pixels: some at the border are nearly always white.
    x = x / x[train].std()
    return Split(x[train], y[train], x[new], y[new])


def run(name: str, seed: int, method: str) -> dict[str, Any]:
    """Train one net on one split under one prior, and score it."""
    setting, split = SETTINGS[name], data(name, seed)
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    concrete = name == "concrete"
    model = pgp.BayesianModule(
        concrete_net() if concrete else digits_net(),
        pgp.likelihoods.Normal() if concrete else pgp.likelihoods.Categorical(),
        num_data=len(split.y),
        **PRIORS.get(method, PRIORS["layer"]),
    )
    loader = batches(split.x, split.y, setting.batch_size)
    period = setting.epochs * len(loader)
    regroup = None
    if method in STRATEGIES:
        regroup = pgp.Regroup(
            STRATEGIES[method](),
            epochs=setting.epochs,
            start=(setting.warmup - 1) * setting.epochs,
            stop=(setting.phases - 1) * setting.epochs,
        )
    svi = pgp.PhasedSVI(
        model,
        pgp.AutoMeanField(model, local_reparam=True),
        functools.partial(torch.optim.Adam, lr=setting.lr),
        regroup=regroup,
        warmup=setting.warmup * period,
        scheduler=functools.partial(
            CosineAnnealingWarmRestarts, T_0=period, eta_min=setting.lr / 100
        ),
    )
    start = time.perf_counter()
    history = svi.run(loader, setting.phases * setting.epochs, progress=False)
    seconds = time.perf_counter() - start
    found: dict[str, Any] = {"seconds": seconds, **score(model, svi, split)}
    if regroup is None:
        return found
    last = history.phases[-1]
    median = svi.guide.median()
    found |= {
        "num_groups": last.num_groups,
        "churn": [record.churn for record in history.phases],
        "rand_index": [record.rand_index for record in history.phases],
        "numbers": [record.num_groups for record in history.phases],
        "sizes": last.sizes,
        "locs": median["weights_loc"].tolist(),
        "scales": median["weights_scale"].tolist(),
    }
    locked = pgp.lock_in_test(svi, loader, setting.epochs)["weights"]
    return found | {"back": locked.rand_index, "control": locked.control}


def score(model: pgp.BayesianModule, svi: pgp.PhasedSVI, split: Split) -> dict[str, float]:
    """Score a trained model: the ELBO of its training rows, and predictions of the others."""
    losses = [svi.evaluate_loss(split.x, split.y) for _ in range(ELBO_DRAWS)]
    # Groups that were given beforehand cost nothing to state.
    cost = 0.0 if svi.phase == 0 else pgp.assignment_cost(model.assignment)
    prediction = pgp.predict(model, svi.guide, split.new_x, DRAWS)
    elbo = -statistics.fmean(losses)
    found = {
        "elbo": elbo / len(split.y),
        "elbo_net": (elbo - cost) / len(split.y),
        "nll": pgp.metrics.nll(prediction, split.new_y) + math.log(split.scale),
        "num_groups": model.assignment.num_groups,
    }
    if split.y.is_floating_point():
        return found | {"rmse": split.scale * pgp.metrics.rmse(prediction, split.new_y)}
    return found | {"accuracy": pgp.metrics.accuracy(prediction, split.new_y)}


def summary(cells: Cells) -> dict[str, float]:
    """Average over splits, for all that is there; print the tables."""
    figures: dict[str, float] = {}
    for name in SETTINGS:
        found = {
            method: {
                seed: cells.cells[f"{name} {seed} {method}"]
                for seed in range(SEEDS)
                if f"{name} {seed} {method}" in cells.cells
            }
            for method in METHODS
        }
        quality = "rmse" if name == "concrete" else "accuracy"
        rows = []
        for method, runs in found.items():
            if runs:
                rows.append(_score_row(method, runs, found["layer"], quality))
                figures[f"nll_{method}_{name}"] = _mean(runs, "nll")
        header = ["prior", "runs", "ELBO", "less cost", "NLL", "less layer", quality, "less layer"]
        timing.print_table(f"{name}: scores", header, rows)
        moved = {method: found[method] for method in STRATEGIES if found[method]}
        for method, runs in moved.items():
            figures[f"churn_first_{method}_{name}"] = statistics.fmean(
                r["churn"][0] for r in runs.values()
            )
            figures[f"churn_last_{method}_{name}"] = statistics.fmean(
                r["churn"][-1] for r in runs.values()
            )
            figures[f"lockin_{method}_{name}"] = _mean(runs, "back")
            figures[f"control_{method}_{name}"] = _mean(runs, "control")
            figures[f"groups_{method}_{name}"] = _mean(runs, "num_groups")
        header = ["groups", "churn, regroup by regroup", "number", "back", "control"]
        rows = [_churn_row(method, runs) for method, runs in moved.items()]
        timing.print_table(f"{name}: regroups", header, rows)
        header = ["prior, split", "sizes", "locs", "scales"]
        rows = [
            [
                f"{method}, {seed}",
                " ".join(f"{size:.0f}" for size in r["sizes"]),
                " ".join(f"{loc:+.1f}" for loc in r["locs"]),
                " ".join(f"{scale:.2f}" for scale in r["scales"]),
            ]
            for method, runs in moved.items()
            for seed, r in runs.items()
        ]
        timing.print_table(f"{name}: groups at the end, in units of the base scale", header, rows)
    print(f"\nall cells, by commit {cells.commits}")
    return figures


def _mean(runs: dict[int, dict[str, Any]], key: str) -> float:
    return statistics.fmean(run[key] for run in runs.values())


def _score_row(method: str, runs: dict[int, Any], layer: dict[int, Any], quality: str) -> list[str]:
    def against(key: str) -> str:
        pairs = [runs[seed][key] - layer[seed][key] for seed in runs if seed in layer]
        if method == "layer" or len(pairs) < 2:
            return ""
        return timing.mean_and_error(pairs)

    columns = [f"{_mean(runs, key):.3f}" for key in ("elbo", "elbo_net", "nll")]
    return [
        method,
        str(len(runs)),
        *columns,
        against("nll"),
        f"{_mean(runs, quality):.3f}",
        against(quality),
    ]


def _churn_row(method: str, runs: dict[int, Any]) -> list[str]:
    by_regroup = zip(*(run["churn"] for run in runs.values()), strict=True)
    numbers = [run["num_groups"] for run in runs.values()]
    return [
        method,
        " ".join(f"{statistics.fmean(churns):.3f}" for churns in by_regroup),
        f"{min(numbers)} to {max(numbers)}",
        f"{_mean(runs, 'back'):.2f}",
        f"{_mean(runs, 'control'):.2f}",
    ]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within two minutes")
    parser.add_argument("--only", nargs="+", help="data sets or methods to run; default: all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shared = [TEST_SHARE, DRAWS, ELBO_DRAWS]
    cells = Cells("regroup_nets", {name: [asdict(s), shared] for name, s in SETTINGS.items()})
    if args.quick:
        again = run("digits", 0, "ours")
        print(f"run now: digits 0 ours NLL {again['nll']:.3f} last churn {again['churn'][-1]:.3f}")
    else:
        for seed in range(SEEDS):
            for name in SETTINGS:
                for method in METHODS:
                    if not args.only or name in args.only or method in args.only:
                        cells.get(
                            f"{name} {seed} {method}", functools.partial(run, name, seed, method)
                        )
    timing.print_json(summary(cells))


if __name__ == "__main__":
    main()
