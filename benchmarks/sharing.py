# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""In how few bytes does LeNet-5 keep its accuracy, and its uncertainty?

LeNet-5 as Caffe has it (431,080 weights) on Fashion-MNIST, 55,000 images to train on, 5,000 to
choose by, 10,000 to score on. Every net is written to a file, read again, and scored as it was
read: see :mod:`benchmarks.compressed` for what is compared. Of each kind the smallest file counts
that loses at most half a point on the images to choose by.
"""

import functools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import compressed, images, shared_nets, timing
from benchmarks import deep_compression as plain
from benchmarks.cells import Cells
from benchmarks.shared_nets import Recipe, Sharing

SEEDS = 3
RECIPE = Recipe(temperature=0.3, epochs=3, rate=5e-4, width=0.05)
SHARING = Sharing(bits=0.3)
PLAN = compressed.Plan(
    "lenet",
    images.LeNet,
    images.fashion,
    epochs=15,
    fine=12,
    after=2,
    pruning=15,
    recovery=25,
    deep=(0.3, 0.1, 0.05, 0.03),
    gradual=(0.05, 0.03, 0.025),
    smoothing=0.1,
    units={"5": 0.3},  # of 500 in the first dense layer
    recipe=RECIPE,
    sharing=SHARING,
    ablation={
        "not trained on": replace(SHARING, epochs=0),
        "bits not counted": replace(SHARING, bits=0.0),
        "8 entries, bits not counted": replace(SHARING, entries=8, bits=0.0),
        "32 merged to 16": replace(SHARING, entries=32, merged=16),
        "outliers": replace(SHARING, outliers=0.02),
        "blend": replace(SHARING, blend=0.05),
        "fixed prior": replace(RECIPE, prior="fixed"),
    },
    ablated=0.03,
)


def miniature() -> dict[str, Any]:
    """Go all the way in seconds: few images, few epochs."""
    study = compressed.Study(PLAN, 0)
    loader = images.Loader(tuple(part[:5000] for part in study.train), 0)
    torch.manual_seed(0)
    net = images.LeNet()
    plain.train(net, loader, 3, PLAN.training)
    net = plain.prune_gradually(net, PLAN.ablated, loader, 3, 2, PLAN.training)
    model, guide = shared_nets.untrained(net, loader, RECIPE)
    shared_nets.train_posterior(model, guide, loader, replace(RECIPE, epochs=1))
    _, shared = shared_nets.share(model, guide, loader, replace(SHARING, epochs=1))
    with tempfile.TemporaryDirectory() as folder:
        parts, net = shared_nets.from_file(Path(folder) / "net", shared, images.LeNet())
    x, y = (part[:2000] for part in study.test)
    found = shared_nets.scores(shared_nets.log_probs(net, x, shared_nets.DRAWS), y)
    return {"bytes": sum(parts.values()), **found}


def main() -> None:
    """Run the benchmark."""
    args = timing.parse_args(__doc__)
    cells = Cells("sharing", PLAN.settings())
    if args.quick:
        print("run now, 5,000 images:", {k: round(v, 3) for k, v in miniature().items()})
    for seed in range(0 if args.quick else SEEDS):
        study = functools.cache(functools.partial(compressed.Study, PLAN, seed))
        for name in PLAN.names():
            cells.get(f"{name} {seed}", functools.partial(compressed.run, study, name))
    print(f"\nall cells, by commit {cells.commits}")
    seeds = [seed for seed in range(SEEDS) if f"shared {PLAN.ablated:g} {seed}" in cells.cells]
    timing.print_json(compressed.summary(PLAN, cells.cells, seeds))


if __name__ == "__main__":
    main()
