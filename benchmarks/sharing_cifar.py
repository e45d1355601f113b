# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""In how few bytes does a ResNet-20 keep its accuracy on CIFAR-10, and know what it does not know?

A ResNet-20 (270,906 weights, and the numbers of batch norm) on CIFAR-10, 45,000 images to train on,
shifted and mirrored at random, 5,000 to choose by, 10,000 to score on; in bfloat16, so that two
cores can bear it. Every net is written to a file, read again, and scored as it was read: see
:mod:`benchmarks.compressed`. Statistics of batch norm are estimated anew for each. The area under
the curve (auroc) is that of the predictions' entropy, for telling Fashion-MNIST's test images from
CIFAR-10's. "before" is the posterior that is shared, not pruned further and trained alike.
"""

import functools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import compressed, images, shared_nets, timing
from benchmarks import deep_compression as plain
from benchmarks.cells import Cells
from benchmarks.nets import ResNet
from benchmarks.shared_nets import Recipe, Sharing

SEEDS = 1
RECIPE = Recipe(temperature=0.3, epochs=2, rate=5e-4, width=0.05, local_reparam=False)
SHARING = Sharing(epochs=2, bits=1.0, local_reparam=False)


def resnet() -> nn.Module:
    """Build the net."""
    return ResNet(blocks=3, mixed=True)


PLAN = compressed.Plan(
    "resnet20",
    resnet,
    images.cifar,
    epochs=40,
    fine=6,
    after=1,
    pruning=8,
    recovery=8,
    deep=(0.5, 0.3, 0.2, 0.1),
    gradual=(0.3, 0.2),
    recipe=RECIPE,
    sharing=SHARING,
    training=plain.Training(rate=0.1, decay=5e-4, momentum=0.9),
    draws=10,
    elsewhere=images.elsewhere,
    augment=True,
)


def miniature() -> dict[str, Any]:
    """Go all the way in a minute: few images, few epochs."""
    study = compressed.Study(PLAN, 0)
    loader = images.Loader(tuple(part[:4000] for part in study.train), 0, augment=True)
    torch.manual_seed(0)
    net: Any = resnet()
    plain.train(net, loader, 3, PLAN.training)
    model, guide = shared_nets.untrained(net, loader, RECIPE)
    shared_nets.train_posterior(model, guide, loader, replace(RECIPE, epochs=1))
    _, shared = shared_nets.share(model, guide, loader, replace(SHARING, epochs=1))
    with tempfile.TemporaryDirectory() as folder:
        parts, net = shared_nets.from_file(Path(folder) / "net", shared, resnet())
    x, y = (part[:1000] for part in study.test)
    found = shared_nets.scores(shared_nets.log_probs(net, x, 5), y)
    return {"bytes": sum(parts.values()), **found}


def main() -> None:
    """Run the benchmark."""
    args = timing.parse_args(__doc__)
    cells = Cells("sharing_cifar", PLAN.settings())
    if args.quick:
        print("run now, 4,000 images:", {k: round(v, 3) for k, v in miniature().items()})
    for seed in range(0 if args.quick else SEEDS):
        study = functools.cache(functools.partial(compressed.Study, PLAN, seed))
        for name in PLAN.names():
            cells.get(f"{name} {seed}", functools.partial(compressed.run, study, name))
    print(f"\nall cells, by commit {cells.commits}")
    timing.print_json(compressed.summary(PLAN, cells.cells, list(range(SEEDS))))


if __name__ == "__main__":
    main()
