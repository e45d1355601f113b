# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""LeNet-5 on all of Fashion-MNIST: plain training, pruning and quantisation."""

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor, nn

from benchmarks import datasets

BATCH, VALIDATION = 128, 5_000
Batch = tuple[Tensor, Tensor]


def lenet() -> nn.Sequential:
    """Build LeNet-5 as Caffe has it: 431,080 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


def load() -> tuple[Batch, Batch, Batch]:
    """Take the rows to train on, those to choose by, and the official test rows."""
    x, y, new_x, new_y = datasets.fashion_whole()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, chosen_by = order[:-VALIDATION], order[-VALIDATION:]
    return (x[train], y[train]), (x[chosen_by], y[chosen_by]), (new_x, new_y)


def batches(data: Batch, generator: torch.Generator) -> Iterator[Batch]:
    """Go through the rows once, in a new order."""
    x, y = data
    for rows in torch.randperm(len(y), generator=generator).split(BATCH):
        yield x[rows], y[rows]


def train(
    net: nn.Module,
    data: Batch,
    epochs: int,
    lr: float,
    masks: dict[str, Tensor] | None = None,
    seed: int = 0,
) -> None:
    """Train by Adam with weight decay, at a rate that falls to zero; pruned weights stay at 0."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-2)
    steps = epochs * -(-len(data[1]) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    parameters = dict(net.named_parameters())
    for _ in range(epochs):
        for x, y in batches(data, generator):
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
            schedule.step()
            for name, mask in (masks or {}).items():
                parameters[name].data.mul_(mask)


def magnitude_masks(net: nn.Module, share: float) -> dict[str, Tensor]:
    """Keep the largest weights, in each tensor by itself but for biases, which stay.

    Layers are pruned by the standard deviations of their weights, as in Deep Compression: one
    threshold, in these units, for all.
    """
    weights = {n: p.detach() for n, p in net.named_parameters() if p.dim() > 1}
    scaled = {n: p.abs() / p[p != 0].std() for n, p in weights.items()}
    every = torch.cat([value.flatten() for value in scaled.values()])
    threshold = every.topk(round(share * len(every))).values[-1]
    return {n: value >= threshold for n, value in scaled.items()}


def quantise(net: nn.Module, clusters: int, data: Batch, epochs: int, lr: float) -> nn.Module:
    """Share values by k-means in each tensor of weights, linearly started, and train these further.

    Zeros stay; biases too. The gradient of a value is the sum of those of its weights.
    """
    net = copy.deepcopy(net)
    labels: dict[str, Tensor] = {}
    for name, parameter in net.named_parameters():
        if parameter.dim() < 2:
            continue
        kept = parameter.detach() != 0
        values = parameter.detach()[kept]
        start = torch.linspace(float(values.min()), float(values.max()), clusters)
        found = KMeans(clusters, init=start[:, None].numpy(), n_init=1).fit(values[:, None].numpy())
        label = torch.full(parameter.shape, -1)
        label[kept] = torch.as_tensor(found.labels_).long()
        parameter.data[kept] = torch.as_tensor(found.cluster_centers_).float()[label[kept], 0]
        labels[name] = label
    generator = torch.Generator().manual_seed(1)
    for _ in range(epochs):
        for x, y in batches(data, generator):
            net.zero_grad()
            F.cross_entropy(net(x), y).backward()
            for name, parameter in net.named_parameters():
                gradient = parameter.grad
                assert gradient is not None
                if name in labels:
                    kept = labels[name] >= 0
                    total = torch.bincount(labels[name][kept], gradient[kept], clusters)
                    gradient = torch.where(kept, total[labels[name].clamp(min=0)], 0.0)
                parameter.data.sub_(lr * gradient)
    return net
