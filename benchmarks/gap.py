# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""How far is each way to a posterior from NUTS?

Nets of one and two hidden layers of 50 ReLU units on Concrete, diabetes and Boston housing, two
random splits each, standardised by the training rows. Every candidate of
``benchmarks/candidates.py`` is scored on the rows left out: NLL in nats a row and the target's own
unit, RMSE, coverage of central 90 % intervals. The judge is ``python -m benchmarks.judge``. Of the
distance from plain Pyro's hierarchical AutoNormal, started with care, to NUTS, "closed" is the
share that a candidate has behind it: 1 is NUTS. Seconds are those of the processor, one thread.
"""

import argparse
import functools
import math
import statistics
import time
from typing import Any

import pyro
import torch

from benchmarks import candidates, datasets, judged, timing
from benchmarks.cells import Cells

SHARED = [candidates.NUM_DRAWS, candidates.STEPS, candidates.LR, candidates.MEMBERS]
DEFAULT = "hmc"
TOO_LARGE = {("full_rank", "two")}  # a step takes a second


def run(name: str, net: str, seed: int, candidate: str) -> dict[str, Any]:
    """Run one candidate on one split."""
    split = datasets.regression(name, seed)
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    start = time.process_time()
    function, noise = candidates.CANDIDATES[candidate](split, judged.NETS[net])
    return score(function, noise, split) | {"seconds": time.process_time() - start}


def score(function: torch.Tensor, noise: torch.Tensor, split: datasets.Split) -> dict[str, float]:
    """Score draws as an equal mixture of normals.

    :param function: Shape ``[S, N]``.
    :param noise: Shape ``[S]``.
    """
    y = split.new_y[:, 0]
    each = torch.distributions.Normal(function, noise.unsqueeze(1))
    log_p = each.log_prob(y).logsumexp(0) - math.log(len(function))
    below = each.cdf(y).mean(0)  # of the mixture, at the observation
    return {
        "nll": float(-log_p.mean()) + math.log(split.scale),
        "rmse": float((function.mean(0) - y).square().mean().sqrt()) * split.scale,
        "coverage": float(((below > 0.05) & (below < 0.95)).float().mean()),
        "noise": float(noise.mean()) * split.scale,
    }


def score_judge(name: str, net: str, seed: int) -> dict[str, Any] | None:
    """Score the judge's stored draws, if they are there."""
    found = judged.read(name, net, seed)
    if found is None:
        return None
    arrays, record = found
    function = torch.tensor(arrays["function"]).flatten(0, 1)
    noise = torch.tensor(arrays["noise"]).flatten()
    split = datasets.regression(name, seed)
    return score(function, noise, split) | {k: record[k] for k in ("seconds", "rhat")}


def summary(cells: Cells) -> dict[str, float]:
    """Average over splits, for all that is there; print the tables."""
    figures: dict[str, float] = {}
    shares: dict[str, list[float]] = {name: [] for name in candidates.CANDIDATES}
    for name in datasets.REGRESSION:
        for net in judged.NETS:
            nuts = {seed: score_judge(name, net, seed) for seed in range(judged.SPLITS)}
            found: dict[str, dict[int, Any]] = {"nuts": {s: c for s, c in nuts.items() if c}}
            for candidate in candidates.CANDIDATES:
                found[candidate] = {
                    seed: cells.cells[f"{name} {net} {seed} {candidate}"]
                    for seed in range(judged.SPLITS)
                    if f"{name} {net} {seed} {candidate}" in cells.cells
                }
            rows = []
            for candidate, runs in found.items():
                if not runs:
                    continue
                keys = ("nll", "rmse", "coverage", "noise", "seconds")
                mean = {k: statistics.fmean(r[k] for r in runs.values()) for k in keys}
                figures[f"nll_{name}_{net}_{candidate}"] = mean["nll"]
                closed = _closed(runs, found["pyro"], found["nuts"])
                if closed is not None and candidate in shares:
                    shares[candidate].append(closed)
                rows.append(
                    [
                        candidate,
                        str(len(runs)),
                        *(f"{mean[k]:.3f}" for k in keys[:-1]),
                        f"{mean['seconds']:.0f}",
                        "" if closed is None else f"{closed:.2f}",
                    ]
                )
            if rows:
                header = ["candidate", "runs", "NLL", "RMSE", "coverage", "noise", "s", "closed"]
                timing.print_table(f"{name}, {net} hidden", header, rows)
    for candidate, values in shares.items():
        if values:
            figures[f"gap_closed_{candidate}"] = statistics.median(values)
    if shares[DEFAULT]:
        figures["gap_closed"] = statistics.median(shares[DEFAULT])
    print(f"\nall cells, by commit {cells.commits}")
    return figures


def _closed(runs: dict[int, Any], plain: dict[int, Any], nuts: dict[int, Any]) -> float | None:
    """Find the share of the distance from plain Pyro to NUTS, over splits that have all three."""
    seeds = [seed for seed in runs if seed in plain and seed in nuts]
    if not seeds:
        return None
    whole = statistics.fmean(plain[s]["nll"] - nuts[s]["nll"] for s in seeds)
    part = statistics.fmean(plain[s]["nll"] - runs[s]["nll"] for s in seeds)
    return part / whole if whole > 0 else None


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within two minutes")
    parser.add_argument("--only", nargs="+", help="data sets or candidates to run; default: all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells("gap", {"": SHARED})
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
