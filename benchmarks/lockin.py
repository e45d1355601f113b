# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Do groups lock in? Linear regression whose coefficients truly fall into groups.

Every run starts from a random grouping. "ours" is a full-rank guide (mean-field above 500 weights)
regrouped by the deconvolved mixture of the evidence, soft; "naive" is a mean-field guide regrouped
by k-means on the posterior means, hard; "gibbs" draws the assignments from their exact conditionals
between moves of NUTS, through the package; "conjugate" is a far longer Gibbs chain of the same
model by hand, to see where that would come in the end. Adjusted Rand index
against the true groups, and test RMSE over the noise's deviation. For Gibbs the index is that of
the better of two summaries of its draws. Seconds are those of the processor, on one thread.

In ``none`` there are no groups: ours may use up to eight and should come down to one or two, with
a test error no worse than that of one fixed standard normal prior ("plain").
"""

import argparse
import functools
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

import pyro_groupprior as pgp
from benchmarks import conjugate, timing
from benchmarks.cells import Cells


@dataclass(frozen=True)
class Setting:
    """One kind of data.

    :param int rows: Training rows.
    :param float noise: Standard deviation of the noise.
    :param locs: Of the true groups.
    :param sizes: Weights in each.
    :param float scale: Standard deviation within a group.
    :param int groups: How many groups to look for.
    :param draws: Kept draws of each Gibbs chain, and moves before.
    :param int long: Draws of the chain by hand.
    :param bool hard_to_find: Whether that starts from the true groups, as it would not find them.
    :param int seeds: How many data sets.
    :param int gibbs_seeds: On how many of them either Gibbs is run.
    """

    rows: int
    noise: float
    locs: tuple[float, ...] = (-1.0, 0.0, 1.0)
    sizes: tuple[int, ...] = (34, 33, 33)
    scale: float = 0.15
    groups: int = 3
    draws: tuple[int, int] = (600, 300)
    long: int = 8000
    hard_to_find: bool = False
    seeds: int = 10
    gibbs_seeds: int = 10


SETTINGS = {
    "110_1": Setting(110, 1.0),
    "150_1": Setting(150, 1.0),
    "150_3": Setting(150, 3.0),
    "250_5": Setting(250, 5.0),
    "unequal8": Setting(
        400,
        1.0,
        locs=(-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5),
        sizes=(70, 50, 40, 30, 25, 20, 10, 5),
        groups=8,
        long=4000,
        hard_to_find=True,
        gibbs_seeds=5,
    ),
    "wide2000": Setting(
        2600,
        1.0,
        sizes=(1000, 700, 300),
        long=300,
        hard_to_find=True,
        gibbs_seeds=3,
    ),
    "none": Setting(150, 1.0, locs=(0.0,), sizes=(100,), scale=0.5, groups=8),
}
SVI = ("ours", "naive", "plain")
METHODS = {"none": ("ours", "plain")}
CHAINS, PHASES, STEPS, LR = 2, 10, 150, 0.03
FULL_RANK = 500  # weights up to which ours is full-rank


def data(setting: Setting, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, np.ndarray]:
    """Make training rows, test rows without noise, and the true groups."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(setting.sizes)), setting.sizes))
    weights = np.array(setting.locs)[truth] + setting.scale * rng.standard_normal(len(truth))
    x = rng.standard_normal((setting.rows, len(truth)))
    new_x = rng.standard_normal((2000, len(truth)))
    y = x @ weights + setting.noise * rng.standard_normal(setting.rows)
    tensors = [torch.tensor(a, dtype=torch.float32) for a in (x, y, new_x, new_x @ weights)]
    return tensors[0], tensors[1], tensors[2], tensors[3], truth


def regression(x: Tensor, y: Tensor, *, groups: Any, noise: float, prior: dict[str, Any]) -> None:
    """The model: Pyro as a user would write it."""
    beta = pgp.group_prior("beta", groups, **prior)
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ beta, noise), obs=y)


def run(name: str, seed: int, method: str) -> dict[str, Any]:
    """Fit one data set by one method."""
    setting = SETTINGS[name]
    x, y, new_x, new_y, truth = data(setting, seed)
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    num_groups = 1 if method == "plain" else setting.groups
    first = torch.randint(num_groups, (len(truth),))
    groups = pgp.AssignmentBuffer(pgp.Assignment(first, num_groups))
    prior = {"loc": 0.0, "scale": 1.0} if method == "plain" else {}
    model = functools.partial(regression, groups=groups, noise=setting.noise, prior=prior)
    start = time.process_time()  # whatever else the machine is doing
    if method == "gibbs":
        found = gibbs(model, x, y, setting, seed)
    elif method == "conjugate":
        numbers = x.double().numpy(), y.double().numpy(), setting.noise
        start_from = truth if setting.hard_to_find else first.numpy()
        draws, index = conjugate.sample(*numbers, start_from, setting.long, seed)
        found = {
            "mean": torch.tensor(draws.mean(0)).float(),
            "labels": [conjugate.middle_grouping(index)],
            "num_groups": setting.groups,
        }
    else:
        found = fit(model, x, y, name, method)
    found["seconds"] = time.process_time() - start
    error = new_x @ found.pop("mean") - new_y
    # The noise of a new observation comes on top of the error of its mean.
    found["rmse"] = float((error.square().mean() + setting.noise**2).sqrt()) / setting.noise
    found["ari"] = max(adjusted_rand_score(truth, labels) for labels in found.pop("labels"))
    return found


def fit(model: Any, x: Tensor, y: Tensor, name: str, method: str) -> dict[str, Any]:
    """Phased SVI, by ours, naive or with one plain prior."""
    setting = SETTINGS[name]
    criterion = "bic" if name == "none" else None
    strategies: dict[str, Any] = {
        "ours": pgp.DeconvolvedMixture(setting.groups, criterion=criterion),
        "naive": pgp.Naive(setting.groups),
    }
    small = sum(setting.sizes) <= FULL_RANK
    guide = pgp.AutoFullRank if small and method != "naive" else pgp.AutoMeanField
    regroup = None
    if method in strategies:
        regroup = pgp.Regroup(strategies[method], epochs=STEPS, stop=PHASES * STEPS)
    svi = pgp.PhasedSVI(
        model,
        guide(model),
        functools.partial(torch.optim.Adam, lr=LR),
        regroup=regroup,
        warmup=0,
        # Groups are found from a posterior that has come to rest: down to 1 % in every phase.
        scheduler=functools.partial(CosineAnnealingWarmRestarts, T_0=STEPS, eta_min=LR / 100),
    )
    history = svi.run([(x, y)], (PHASES + 1) * STEPS, progress=False)
    groups = model.keywords["groups"].assignment
    return {
        "mean": svi.guide.moments("beta")[0],
        "labels": [groups.hard().index.numpy()],
        "num_groups": groups.num_groups,
        "last_churn": history.phases[-1].churn if history.phases else 0.0,
    }


def gibbs(model: Any, x: Tensor, y: Tensor, setting: Setting, seed: int) -> dict[str, Any]:
    """Gibbs within NUTS."""
    draws, warmup = setting.draws
    with pyro.validation_enabled(False):  # a third faster
        result = pgp.mcmc.run_gibbs(
            model,
            x,
            y,
            num_samples=draws,
            warmup_steps=warmup,
            num_chains=CHAINS,
            seed=seed,
            progress=False,
        )
    table = result.diagnostics()
    return {
        "mean": result.samples["beta"].flatten(0, 1).mean(0),
        "labels": [
            result.point_assignment("beta").index.numpy(),
            result.responsibilities("beta").argmax(1).numpy(),
        ],
        "num_groups": setting.groups,
        "rhat": float(table["rhat"].max()),
    }


def methods_of(name: str) -> tuple[str, ...]:
    """Name the methods that a setting is run with."""
    return METHODS.get(name, ("ours", "naive", "gibbs", "conjugate"))


def used(setting: Setting, method: str) -> dict[str, Any]:
    """Name what a method's results depend on."""
    others = {"gibbs": ("long", "hard_to_find"), "conjugate": ("draws",)}
    unused = {"seeds", "gibbs_seeds", *others.get(method, ("draws", "long", "hard_to_find"))}
    return {key: value for key, value in asdict(setting).items() if key not in unused}


def summary(cells: Cells) -> dict[str, float]:
    """Average over data sets, for all that is there; print the table."""
    figures, rows = {}, []
    for name, setting in SETTINGS.items():
        found = {
            method: [
                cells.cells[f"{name}:{method} {seed}"]
                for seed in range(setting.seeds)
                if f"{name}:{method} {seed}" in cells.cells
            ]
            for method in methods_of(name)
        }
        for method, runs in found.items():
            if not runs:
                continue
            mean = {
                k: statistics.fmean(r[k] for r in runs)
                for k in ("ari", "rmse", "seconds", "num_groups")
            }
            figures[f"ari_{method}_{name}"] = mean["ari"]
            figures[f"rmse_{method}_{name}"] = mean["rmse"]
            if method == "ours":
                figures[f"groups_{name}"] = mean["num_groups"]
            rhat = [r["rhat"] for r in runs if "rhat" in r]
            rows.append(
                [
                    f"{name} {method}",
                    str(len(runs)),
                    f"{mean['ari']:.3f}",
                    f"{mean['rmse']:.3f}",
                    f"{mean['num_groups']:.1f}",
                    f"{mean['seconds']:.1f}",
                    f"{statistics.median(rhat):.2f}" if rhat else "",
                ]
            )
        if found.get("gibbs") and found["ours"]:
            pairs = list(zip(found["ours"], found["gibbs"]))  # seeds are run in order
            figures[f"time_{name}"] = statistics.median(
                a["seconds"] / b["seconds"] for a, b in pairs
            )
            for key in ("ari", "rmse"):
                paired = statistics.fmean(a[key] - b[key] for a, b in pairs)
                figures[f"{key}_ours_minus_gibbs_{name}"] = paired
    header = ["setting", "runs", "ARI", "RMSE", "groups", "seconds", "R-hat"]
    timing.print_table(f"all cells, by commit {cells.commits}", header, rows)
    return figures


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within two minutes")
    parser.add_argument("--only", nargs="+", help="settings or methods to run; default: all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1)])  # the first one imports for seconds
    shared = {"gibbs": [CHAINS], "conjugate": []}
    settings = {
        f"{name}:{method}": [used(s, method), shared.get(method, [PHASES, STEPS, LR, FULL_RANK])]
        for name, s in SETTINGS.items()
        for method in methods_of(name)
    }
    cells = Cells("lockin", settings)
    if args.quick:
        for method in ("ours", "naive"):
            again = run("150_1", 0, method)
            print(f"run now: 150_1 0 {method} ARI {again['ari']:.2f} RMSE {again['rmse']:.2f}")
    else:
        for seed in range(max(setting.seeds for setting in SETTINGS.values())):
            for name, setting in SETTINGS.items():
                for method in methods_of(name):
                    seeds = setting.seeds if method in SVI else setting.gibbs_seeds
                    if seed < seeds and (not args.only or name in args.only or method in args.only):
                        make = functools.partial(run, name, seed, method)
                        cells.get(f"{name}:{method} {seed}", make)
    timing.print_json(summary(cells))


if __name__ == "__main__":
    main()
