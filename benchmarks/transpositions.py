# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""How many swaps of hidden units does matching find: those that were planted, and in chains?

A ReLU net with 64 hidden units on digits. First, two copies of a net, one of them with some units
swapped at random, are trained apart, on batches in orders of their own; after every few epochs the
one is matched with the other. "found": the number of transpositions (the size less the number of
cycles) of the match; "wrong": those between the match and what was planted. Three seeds. Then the
samples of HMC (``benchmarks/compact.py``): transpositions between samples of each chain, some moves
apart, and between every two chains, with standard errors over chains, or over pairs of them (which
share chains, so that theirs is too small). Beside all of them: a random permutation's, n - H_n; and
for samples of a chain what is found when the change between two samples is dealt out to the weights
at random, so that nothing can have been swapped.
"""

import copy
import functools
import itertools
import statistics
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import compact, datasets, timing
from benchmarks.cells import Cells
from benchmarks.nets import relu_net
from pyro_groupprior.symmetry import (
    Matcher,
    Permutation,
    blocks,
    find_symmetry,
    num_transpositions,
    posterior_symmetry,
    random_transpositions,
    transpositions_along,
    transpositions_between,
)

SEEDS, HIDDEN, PLANTED = 3, 64, (0, 8, 32, 59)
EPOCHS, LAGS, PAIRS = (0, 1, 3, 10, 30, 100), (1, 10, 100), 100


def swapped(size: int, number: int, generator: torch.Generator) -> Tensor:
    """Make a permutation of so many transpositions: cycles merged one at a time."""
    order = torch.arange(size)
    while int(num_transpositions(order)) < number:
        first, second = torch.randperm(size, generator=generator)[:2].tolist()
        trial = order.clone()
        trial[[first, second]] = order[[second, first]]
        if int(num_transpositions(trial)) > int(num_transpositions(order)):
            order = trial
    return order


def train(net: nn.Module, split: datasets.Split, epochs: int, generator: torch.Generator) -> None:
    """Train by plain gradient descent, which keeps no state between calls."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(epochs):
        for rows in torch.randperm(len(split.y), generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(split.x[rows]), split.y[rows]).backward()
            optimizer.step()


def planted(number: int, seed: int) -> dict[str, Any]:
    """Plant, train apart and match."""
    split = datasets.classification("digits", seed)
    torch.manual_seed(seed)
    net = relu_net(64, (HIDDEN,), 10)
    symmetry = find_symmetry(net, split.x[:2])
    generator = torch.Generator().manual_seed(seed)
    order = swapped(HIDDEN, number, generator)
    other = copy.deepcopy(net)
    other.load_state_dict(symmetry.apply(net.state_dict(), Permutation({"0": order}, {})))
    # Gradient descent commutes with rearranging units: other orders for every cell.
    orders = [torch.Generator().manual_seed(10_000 * seed + 100 * number + n) for n in (1, 2)]
    found, done = {}, 0
    for epoch in EPOCHS:
        train(net, split, epoch - done, orders[0])
        train(other, split, epoch - done, orders[1])
        done = epoch
        matcher = Matcher(symmetry, blocks(symmetry, dict(net.named_parameters())))
        match = matcher.match(blocks(symmetry, dict(other.named_parameters())))
        back = match.permutation.permutations["0"].argsort()
        found[f"found_{epoch}"] = float(num_transpositions(back))
        found[f"wrong_{epoch}"] = float(transpositions_between(back, order))
    return found


def chains(kind: str) -> dict[str, Any]:
    """Match samples of HMC: ``"lag N"``, ``"null N"`` for its null, or ``"between"``."""
    study = compact.Study("digits", HIDDEN, validation=False)
    symmetry = posterior_symmetry(study.model, study.split.x[:2])
    weights = study.draws["weights"]
    unpack, means = study.model.layout.unpack, []
    if kind == "between":
        for first, second in itertools.combinations(weights[:, -PAIRS:], 2):
            pairs = torch.stack([first, second], 1)
            counts = [transpositions_along(unpack(pair), symmetry)["0"] for pair in pairs]
            means.append(float(torch.cat(counts).double().mean()))
    else:
        what, _, lag = kind.partition(" ")
        for chain in weights:
            samples, shuffle = unpack(chain[-(PAIRS + int(lag)) :]), what == "null"
            found = transpositions_along(samples, symmetry, lag=int(lag), shuffle=shuffle)["0"]
            means.append(float(found.double().mean()))
    return {"mean": statistics.fmean(means), "means": means}


def summary(cells: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Print both tables."""
    figures, rows = {}, []
    for number in PLANTED:
        keys = [f"planted {number} {seed}" for seed in range(SEEDS)]
        runs = [cells[key] for key in keys if key in cells]
        if runs:
            row = [str(number), str(len(runs))]
            for epoch in EPOCHS:
                found, wrong = (
                    statistics.fmean(run[f"{what}_{epoch}"] for run in runs)
                    for what in ("found", "wrong")
                )
                figures[f"found_{number}_{epoch}"] = found
                figures[f"wrong_{number}_{epoch}"] = wrong
                row.append(f"{found:.1f} ({wrong:.1f})")
            rows.append(row)
    mean, sd = random_transpositions(HIDDEN)
    figures["random"] = mean
    if rows:
        header = ["planted", "nets", *(f"epoch {epoch}" for epoch in EPOCHS)]
        title = f"found (wrong), {HIDDEN} units; a random permutation has {mean:.1f} ± {sd:.1f}"
        timing.print_table(title, header, rows)
    rows = []
    for kind in (*(f"lag {lag}" for lag in LAGS), "between"):
        if (cell := cells.get(f"chains {kind}")) is not None:
            null = cells.get(f"chains {kind.replace('lag', 'null')}") if "lag" in kind else None
            cells_of = [
                timing.mean_and_error(one["means"], ".1f") if one else "" for one in (cell, null)
            ]
            rows.append([kind, *cells_of, f"{mean:.1f}"])
            figures[f"chains_{kind.replace(' ', '_')}"] = cell["mean"]
            if null:
                figures[f"chains_{kind.replace('lag ', 'null_')}"] = null["mean"]
    if rows:
        timing.print_table("samples of HMC", ["which", "found", "null", "random"], rows)
    return figures


def main() -> None:
    """Run the benchmark."""
    args = timing.parse_args(__doc__)
    cells = Cells(
        "transpositions", {"": [HIDDEN, EPOCHS, PAIRS, compact.CHAINS, *compact.RUNS["digits"]]}
    )
    if args.quick:
        print("run now: planted 8 0", planted(8, 0))
    else:
        for seed in range(SEEDS):
            for number in PLANTED:
                cells.get(f"planted {number} {seed}", functools.partial(planted, number, seed))
        for lag in LAGS:
            for what in ("lag", "null"):
                cells.get(f"chains {what} {lag}", functools.partial(chains, f"{what} {lag}"))
        cells.get("chains between", functools.partial(chains, "between"))
    print(f"\nall cells, by commit {cells.commits}")
    timing.print_json(summary(cells.cells))


if __name__ == "__main__":
    main()
