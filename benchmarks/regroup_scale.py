# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""How long a regroup of very many weights takes, and how much memory.

A whole regroup is all that happens between two phases besides the guide's own bookkeeping: the
evidence of every weight, the deconvolved mixture of 32 groups, four responsibilities for each
weight, matching with the groups before, churn, agreement and cost. It is held against one pass of
``torch.bucketize`` over the posterior means into 256 bins, in turn, in the same process. Memory is
the peak of resident memory above that of the points themselves (means, deviations, base scales,
present priors and groups), in a process of its own.

On a million (mean, log deviation) points the binned mixture is held against scikit-learn's
``GaussianMixture``, both with 32 components, full covariances and the same number of iterations,
the log-likelihoods of both by scikit-learn's own formula on all points.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import time
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

import pyro_groupprior as pgp
from benchmarks import timing
from pyro_groupprior.regrouping.agreement import rand_index_of
from pyro_groupprior.regrouping.matching import churn_after, overlaps

GROUPS, TOP_K = 32, 4
ITERATIONS = 30
TURNS = 3


def posterior(size: int) -> pgp.WeightPosterior:
    """Make weights of 32 true groups, their posterior under N(0, 1), and soft groups before."""
    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0))
    truth = torch.arange(size, dtype=torch.int32).remainder_(GROUPS)
    estimate = draw(size)
    estimate *= torch.logspace(-2, -0.5, GROUPS).index_select(0, truth)
    estimate += torch.linspace(-2, 2, GROUPS).index_select(0, truth)
    noise = draw(size).abs_().mul_(0.2).add_(0.02)
    estimate += noise * draw(size)
    precision = noise.pow_(-2)
    mean = estimate.mul_(precision)
    precision += 1
    mean /= precision
    slots = [(truth + shift).remainder_(GROUPS) for shift in range(TOP_K)]
    shares = torch.tensor([0.7, 0.1, 0.1, 0.1]).expand(size, TOP_K).contiguous()
    groups = pgp.Assignment.trusted(torch.stack(slots, 1), GROUPS, shares)
    one = torch.ones(size)
    return pgp.WeightPosterior(
        mean, precision.rsqrt_(), one, groups, prior_loc=torch.zeros(size), prior_scale=one.clone()
    )


def regroup(points: pgp.WeightPosterior) -> tuple[float, float, float]:
    """Do all that a regroup does with the weights; give churn, Rand index and cost."""
    strategy = pgp.Cluster(pgp.DeconvolvedMixture(GROUPS, criterion=None), soft=TOP_K)
    proposal = strategy.propose(points)
    counts = overlaps(points.assignment, proposal)
    matched, source = pgp.match_groups(points.assignment, proposal, counts)
    churn = churn_after(points.assignment, matched, source)
    return churn, rand_index_of(counts), pgp.assignment_cost(matched)


def resident(kind: str) -> float:
    """Give resident memory (``VmRSS``) or its peak (``VmHWM``) in GiB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(kind)) / 2**20


def measure(size: int, rounds: int) -> dict[str, float]:
    """Time a regroup beside one pass over the means, and take its peak memory."""
    points = posterior(size)
    edges = torch.linspace(-4, 4, 255)
    torch.bucketize(points.mean[:1000], edges)
    one_pass, whole = [], []
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")
    before = resident("VmRSS")
    for _ in range(rounds):
        start = time.perf_counter(), time.process_time()
        torch.bucketize(points.mean, edges)
        middle = time.perf_counter(), time.process_time()
        regroup(points)
        one_pass.append([middle[0] - start[0], middle[1] - start[1]])
        whole.append([time.perf_counter() - middle[0], time.process_time() - middle[1]])
    return {
        "one_pass": statistics.median(o[0] for o in one_pass),
        "whole": statistics.median(w[0] for w in whole),
        "ratio": statistics.median(w[0] / o[0] for w, o in zip(whole, one_pass)),
        "cpu_ratio": statistics.median(w[1] / o[1] for w, o in zip(whole, one_pass)),
        "gib": resident("VmHWM") - before,
    }


def apart(size: int, rounds: int) -> dict[str, float]:
    """Run :func:`measure` in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.regroup_scale",
        "--measure",
        str(size),
        str(rounds),
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def beside_sklearn(size: int) -> dict[str, float]:
    """Fit the same points by the binned mixture and by scikit-learn's."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, GROUPS, size)
    means = 2 * rng.standard_normal((GROUPS, 2))
    scales = np.exp(0.5 * rng.standard_normal((GROUPS, 1)) - 1.5)
    X = means[truth] + scales[truth] * rng.standard_normal((size, 2))
    fits = {
        "ours": pgp.BinnedGaussianMixture(GROUPS, max_iter=ITERATIONS, tol=-np.inf, random_state=0),
        "sklearn": GaussianMixture(GROUPS, max_iter=ITERATIONS, tol=0.0, random_state=0),
    }
    figures = {}
    for name, mixture in fits.items():
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the iterations are given
            mixture.fit(X)
        figures[f"seconds_{name}"] = time.perf_counter() - start
        figures[f"loglik_{name}"] = GaussianMixtureScore(mixture).score(X)
    return figures


class GaussianMixtureScore(GaussianMixture):
    """scikit-learn's own formula, with anybody's parameters."""

    def __init__(self, fitted: object) -> None:
        super().__init__(len(fitted.weights_))
        self.weights_, self.means_ = fitted.weights_, fitted.means_
        self.covariances_ = fitted.covariances_
        self.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(fitted.covariances_))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within two minutes")
    parser.add_argument("--measure", nargs=2, type=int, metavar=("SIZE", "ROUNDS"))
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    millions = (1, 4) if args.quick else (25, 100)
    # In turn, and not one size after the other: the machine is not the same all the time.
    turns = [[apart(size * 10**6, 2) for size in millions] for _ in range(TURNS)]
    found = {
        size: {key: statistics.median(turn[n][key] for turn in turns) for key in turns[0][n]}
        for n, size in enumerate(millions)
    }
    growth = statistics.median(large["whole"] / small["whole"] for small, large in turns)
    rows = [
        [
            f"{size}M",
            *(f"{run[key]:.2f}" for key in ("one_pass", "whole", "ratio", "cpu_ratio", "gib")),
        ]
        for size, run in found.items()
    ]
    header = ["weights", "one pass, s", "regroup, s", "over one pass", "by processor time", "GiB"]
    timing.print_table(f"{GROUPS} groups, {torch.get_num_threads()} threads", header, rows)
    small = found[millions[0]]
    points = 100_000 if args.quick else 1_000_000
    sklearn = beside_sklearn(points)
    speedup = sklearn["seconds_sklearn"] / sklearn["seconds_ours"]
    gap = (sklearn["loglik_sklearn"] - sklearn["loglik_ours"]) / abs(sklearn["loglik_sklearn"])
    rows = [
        [name, f"{sklearn[f'seconds_{name}']:.2f}", f"{sklearn[f'loglik_{name}']:.5f}"]
        for name in ("ours", "sklearn")
    ]
    header = [f"{points:,} points, {ITERATIONS} iterations", "seconds", "log-likelihood a point"]
    timing.print_table("two-dimensional mixture, 32 components", header, rows)
    timing.print_json(
        {
            f"over_one_pass_{millions[0]}m": small["ratio"],
            f"cpu_over_one_pass_{millions[0]}m": small["cpu_ratio"],
            f"gib_{millions[0]}m": small["gib"],
            f"growth_{millions[1]}m_over_{millions[0]}m": growth,
            "speedup_over_sklearn": speedup,
            "loglik_gap": gap,
        }
    )


if __name__ == "__main__":
    main()
