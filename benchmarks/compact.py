# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""How much of an HMC posterior is left in a Gaussian with the moments of aligned samples?

ReLU nets of one hidden layer, a learned prior for each layer, four chains of HMC: digits (64 units,
1,437 rows) and 5,000 rows of Fashion-MNIST (16, 32 and 64 units). The samples of each chain by
itself ("one": means over chains; digits only), or of all, are left as they are, aligned in the
style of Xiao, Liu and Bamler (by activations, to the first sample), or in one of our ways; then
summarised as a normal distribution: independent weights, a covariance for each unit, diagonal plus
low rank, or full. "Distilled" ones have then been trained to predict the training inputs as the
samples do; one of them, to compare with, from unaligned samples. 300 draws of a summary predict the
test rows. Accuracy, NLL, ECE; agreement and total variation beside the samples themselves; numbers,
and bytes of the file that holds them. What total variation can be at best: that of 300 of the
samples, drawn anew, and that of another chain; and what as few numbers can do at least: a few of
the samples, as they are. The way to align is chosen by validation rows, a fifth of the training
rows that another run of HMC has not seen: the least total variation there.
"""

import argparse
import dataclasses
import functools
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pyro_groupprior as pgp
from benchmarks import datasets, timing
from benchmarks.cells import FOLDER, Cells
from benchmarks.nets import relu_net
from pyro_groupprior import mcmc, metrics
from pyro_groupprior.comparison import agreement, total_variation
from pyro_groupprior.guides import SiteGuide
from pyro_groupprior.symmetry import (
    Activations,
    Symmetry,
    align_draws,
    posterior_symmetry,
    unit_blocks,
)

CHAINS, DRAWS, ROWS = 4, 300, 5000
#: Samples of each chain, moves to warm up, steps of a move, moves for a sample.
RUNS = {"digits": (400, 200, 80, 1), "fashion": (100, 100, 40, 2)}
CHOOSING = {"digits": "one", "fashion": "all"}  # chains of which the figures are
NETS = [("digits", 64), ("fashion", 16), ("fashion", 32), ("fashion", 64)]
#: How samples are aligned: by what, and to what.
WAYS: dict[str, tuple[str, str]] = {
    "weights, first": ("weights", "first"),
    "weights, mean": ("weights", "mean"),
    "likelihood": ("likelihood", "mean"),
    "activations, mean": ("activations", "mean"),
    "correlation, mean": ("correlation", "mean"),
}
PAPER = ("activations", "first")
FAMILIES = ("diagonal", "unit", "low rank 8", "low rank 64", "full")
#: Those trained further; a covariance for each unit of 784 inputs takes too long.
DISTILLED = {"digits": ("diagonal", "unit", "low rank 8"), "fashion": ("diagonal", "low rank 8")}
FEW = (1, 2, 4, 8)  # samples as they are
MOST_ENTRIES = 36_000_000  # of covariances

Draws = dict[str, Tensor]


def load(name: str, validation: bool) -> datasets.Split:
    """Take one split; to validate, rows of the training set only."""
    split = datasets.classification(name, 0)
    rows = {key: getattr(split, key)[:ROWS] for key in ("x", "y", "new_x", "new_y")}
    split = dataclasses.replace(split, **rows)
    return datasets.validation(split, 0) if validation else split


def model_of(split: datasets.Split, hidden: int) -> pgp.BayesianModule:
    """Build the net."""
    torch.manual_seed(0)
    net = relu_net(split.x.shape[1], (hidden,), 10)
    likelihood = pgp.likelihoods.Categorical()
    return pgp.BayesianModule(net, likelihood, num_data=len(split.y), grouping="layer")


def sampled(name: str, hidden: int, validation: bool) -> Draws:
    """Sample by HMC, once; draws ``[chains, samples, ...]``."""
    samples, warmup, steps, thin = RUNS[name]
    run = "_".join(map(str, (CHAINS, *RUNS[name])))
    path = FOLDER / f"compact_{name}_{hidden}_{run}{'_validation' * validation}.run"
    if path.exists():
        found = pgp.load_draws(path)
        return {k: v.unflatten(0, (CHAINS, samples)) for k, v in found.items()}
    split = load(name, validation)
    result = mcmc.run_hmc(
        model_of(split, hidden), split.x, split.y, num_chains=CHAINS, num_samples=samples,
        warmup_steps=warmup, num_steps=steps, thin=thin, progress=False,
    )  # fmt: skip
    pgp.save_draws(path, result.get_samples())
    return dict(result.samples)


def guide_of(model: pgp.BayesianModule, family: str, symmetry: Symmetry) -> SiteGuide:
    """Make an empty summary."""
    if family == "diagonal":
        return pgp.AutoMeanField(model)
    if family == "unit":
        return pgp.AutoBlockNormal(model, blocks=unit_blocks(symmetry, model.layout))
    if family == "full":
        return pgp.AutoFullRank(model, max_weights=math.isqrt(MOST_ENTRIES))
    return pgp.AutoLowRank(model, rank=int(family.split()[-1]))


class Study:
    """One posterior, and its summaries."""

    def __init__(self, name: str, hidden: int, validation: bool) -> None:
        self.split = load(name, validation)
        self.model = model_of(self.split, hidden)
        self.draws = sampled(name, hidden, validation)
        self.symmetry = posterior_symmetry(self.model, self.split.x[:2])
        rows = self.split.x[:500]
        movable = self.model.layout.names
        make = functools.partial(Activations, self.model.net, rows, movable=movable)
        self.by: dict[str, Any] = {"activations": make(), "correlation": make(standardize=True)}

    def samples(self, chains: str) -> Draws:
        """Take those of one chain, by its number, or of all."""
        if chains == "all":
            return {k: v.flatten(0, 1) for k, v in self.draws.items()}
        return {k: v[int(chains)] for k, v in self.draws.items()}

    def taken(self, chains: str, way: str, number: str) -> Draws:
        """Take samples as they are: all, some of them, or those of another chain."""
        if way == "next chain":
            return self.samples(str((int(chains) + 1) % CHAINS))
        every = self.samples(chains)
        count = len(every["weights"])
        if way == "drawn anew":
            torch.manual_seed(0)
            rows = torch.randint(count, (DRAWS,))
            return {k: v[rows] for k, v in every.items()}
        if way == "few":  # evenly spaced, from the last
            rows = torch.arange(count - 1, -1, -count // int(number))[: int(number)]
            return {k: v[rows] for k, v in every.items()}
        return every

    @functools.cache  # noqa: B019 -- a study lives as long as the benchmark
    def ensemble(self, chains: str) -> pgp.Prediction:
        """Predict by the samples themselves."""
        return pgp.predict(self.model, self.samples(chains), self.split.new_x)

    @functools.cache  # noqa: B019
    def on_training(self, chains: str) -> pgp.Prediction:
        """Predict what was trained on by the samples themselves."""
        return pgp.predict(self.model, self.samples(chains), self.split.x)

    @functools.cache  # noqa: B019
    def aligned(self, chains: str, by: str, template: str) -> tuple[Draws, float]:
        """Align samples; the seconds that it takes."""
        start = time.process_time()
        found, _ = align_draws(
            self.model, self.samples(chains), self.symmetry,
            by=self.by.get(by, by), template=template,
        )  # fmt: skip
        return found, time.process_time() - start

    def scores(self, prediction: pgp.Prediction, chains: str) -> dict[str, float]:
        """Score predictions of the new rows."""
        y = self.split.new_y
        ensemble = self.ensemble(chains)
        return {
            "accuracy": metrics.accuracy(prediction, y),
            "nll": metrics.nll(prediction, y),
            "ece": metrics.ece(prediction, y),
            "agreement": agreement(prediction, ensemble),
            "tv": total_variation(prediction, ensemble),
        }

    def run(self, chains: str, way: str, family: str) -> dict[str, Any]:
        """Summarise and score; of single chains, the means over them."""
        if chains != "one":
            return self.one(chains, way, family)
        each = [self.one(str(number), way, family) for number in range(CHAINS)]
        found: dict[str, Any] = {k: statistics.fmean(run[k] for run in each) for k in each[0]}
        return {**found, "accuracies": [run["accuracy"] for run in each]}

    def one(self, chains: str, way: str, family: str) -> dict[str, Any]:
        """Summarise and score the samples of one chain, or of all."""
        if way in ("samples", "drawn anew", "next chain", "few"):
            draws = self.taken(chains, way, family)
            prediction = pgp.predict(self.model, draws, self.split.new_x)
            size = sum(value.numel() for value in draws.values())
            found = self.scores(prediction, chains)
            return {**found, "numbers": size, "bytes": 4 * size, "seconds": 0.0}
        draws, seconds = self.samples(chains), 0.0
        if way != "unaligned":
            by, template = PAPER if way == "paper" else WAYS[way]
            draws, seconds = self.aligned(chains, by, template)
        family, _, then = family.partition(", ")
        guide = guide_of(self.model, family, self.symmetry)
        guide.fit_draws(draws, self.split.x, self.split.y)
        if then == "distilled":
            start = time.process_time()
            pgp.distill(guide, self.on_training(chains), self.split.x, progress=False)
            seconds += time.process_time() - start
        torch.manual_seed(0)
        prediction = pgp.predict(self.model, guide, self.split.new_x, num_draws=DRAWS)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "guide"
            pgp.save_guide(path, guide)
            size = path.stat().st_size
        found = self.scores(prediction, chains)
        return {**found, "numbers": guide.num_numbers, "bytes": size, "seconds": seconds}


def cases(name: str, hidden: int) -> list[tuple[str, str, str]]:
    """List chains, way and family."""
    num_inputs = {"digits": 64, "fashion": 784}[name]
    numbers = {
        "full": ((num_inputs + 1) * hidden + (hidden + 1) * 10) ** 2,
        "unit": hidden * (num_inputs + 1) ** 2,
    }
    families = [family for family in FAMILIES if numbers.get(family, 0) <= MOST_ENTRIES]
    found = []
    for chains in dict.fromkeys((CHOOSING[name], "all")):
        found += [(chains, "samples", ""), (chains, "drawn anew", "")]
        found += [(chains, "next chain", "")] if chains == "one" else []
        found += [(chains, "unaligned", "diagonal")]
        found += [(chains, "paper", "diagonal")]
        found += [(chains, "few", str(number)) for number in FEW]
        found += [(chains, way, family) for way in WAYS for family in families]
        found += [(chains, "weights, mean", f"{family}, distilled") for family in DISTILLED[name]]
        found += [(chains, "unaligned", "diagonal, distilled")]
    return found


def key(name: str, hidden: int, case: tuple[str, str, str], validation: bool = False) -> str:
    """Name a cell in the file."""
    return " ".join([name, str(hidden), *case]).strip() + " validation" * validation


def choose(cells: dict[str, Any], name: str, hidden: int, chains: str, family: str) -> str | None:
    """Choose the way to align for a family: the least total variation on validation rows."""
    keys = {way: key(name, hidden, (chains, way, family), True) for way in WAYS}
    there = {way: cells[k]["tv"] for way, k in keys.items() if k in cells}
    return min(there, key=there.__getitem__) if there else None


def summary(cells: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Print a table for each net; the chosen ways to align, and all."""
    figures: dict[str, float] = {}
    columns = ("accuracy", "nll", "ece", "agreement", "tv")
    for name, hidden in NETS:
        rows = []
        for case in cases(name, hidden):
            cell = cells.get(key(name, hidden, case))
            if cell is None:
                continue
            chains, way, family = case
            chosen = choose(cells, name, hidden, chains, family) == way if family else False
            scores = [f"{cell[column]:.3f}" for column in columns]
            size = [f"{cell['numbers']:,.0f}", f"{cell['bytes'] / 1024:.0f}"]
            rows.append([chains, way + "*" * chosen, family, *scores, *size])
        header = ["chains", "aligned by", "family", *columns, "numbers", "KiB"]
        if rows:
            timing.print_table(f"{name}, {hidden} units", header, rows)
        figures |= _figures(cells, name, hidden)
    return figures


def _figures(cells: dict[str, dict[str, Any]], name: str, hidden: int) -> dict[str, float]:
    ending = "" if name == "digits" else f"_{name}_{hidden}"
    chains = CHOOSING[name]
    figures, best = {}, (float("inf"), "", "")
    for short, case in (("hmc", (chains, "samples", "")), ("paper", (chains, "paper", "diagonal"))):
        if (k := key(name, hidden, case)) in cells:
            figures[f"acc_{short}{ending}"] = cells[k]["accuracy"]
    moments = {family: f"{family} moments" for family in FAMILIES}
    distilled = {f"{family}, distilled": family for family in DISTILLED[name]}
    for family, label in (moments | distilled).items():
        way = choose(cells, name, hidden, chains, family)
        if way is None or (k := key(name, hidden, (chains, way, family))) not in cells:
            continue
        figures[f"acc_{label.replace(' ', '_')}{ending}"] = cells[k]["accuracy"]
        tv = cells[key(name, hidden, (chains, way, family), True)]["tv"]
        best = min(best, (tv, way, family))
    if best[1]:
        cell = cells[key(name, hidden, (chains, *best[1:]))]
        figures |= {f"acc_best{ending}": cell["accuracy"], f"tv_best{ending}": cell["tv"]}
    return figures


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within two minutes")
    parser.add_argument("--only", help="a data set; default: all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells("compact", {name: [CHAINS, *run, ROWS, DRAWS] for name, run in RUNS.items()})
    if not args.quick:
        for name, hidden in NETS:
            if args.only in (None, name):
                for validation in (True, False):
                    study = functools.cache(functools.partial(Study, name, hidden, validation))
                    for case in cases(name, hidden):
                        run_case(cells, study, name, hidden, case, validation)
    print(f"\nall cells, by commit {cells.commits}")
    timing.print_json(summary(cells.cells))


def run_case(
    cells: Cells,
    study: Callable[[], Study],
    name: str,
    hidden: int,
    case: tuple[str, str, str],
    validation: bool,
) -> None:
    """Run one cell that is not there yet."""
    cells.get(key(name, hidden, case, validation), lambda: study().run(*case))


if __name__ == "__main__":
    main()
