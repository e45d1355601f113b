# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Minibatches of images, and the nets that are compressed."""

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import datasets

BATCH, VALIDATION, SHIFT = 128, 5_000, 4
Rows = tuple[Tensor, Tensor]


class Loader:
    """Pass over the rows in another order each time.

    :param Rows data: Images ``[N, C, H, W]`` and their classes.
    :param int seed: Of the orders.
    :param bool augment: Whether images are shifted and mirrored at random.
    """

    def __init__(self, data: Rows, seed: int = 0, augment: bool = False) -> None:
        self.data, self.augment = data, augment
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self.data[1]) // BATCH)

    def __iter__(self) -> Iterator[Rows]:
        x, y = self.data
        for rows in torch.randperm(len(y), generator=self.generator).split(BATCH):
            yield (self._moved(x[rows]) if self.augment else x[rows]), y[rows]

    def first(self, batches: int = 100) -> Iterator[Rows]:
        """Pass over some of the rows: enough for the statistics of batch norm."""
        return itertools.islice(self, batches)

    def _moved(self, x: Tensor) -> Tensor:
        size, number = x.shape[-1], len(x)
        x = F.pad(x, [SHIFT] * 4)
        first = torch.randint(2 * SHIFT + 1, (2, number, 1), generator=self.generator)
        rows, columns = first + torch.arange(size)
        mirrored = torch.rand(number, 1, generator=self.generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
        image = torch.arange(number)[:, None, None]
        return x[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def fashion() -> tuple[Rows, Rows, Rows]:
    """Take Fashion-MNIST's rows to train on, those to choose by, and the official test rows."""
    return _split(*datasets.fashion_whole())


def cifar() -> tuple[Rows, Rows, Rows]:
    """Take CIFAR-10's rows to train on, those to choose by, and the official test rows."""
    return _split(*datasets.cifar())


def elsewhere() -> Tensor:
    """Give Fashion-MNIST's test images as CIFAR-10's are: three channels of 32 x 32 pixels."""
    images = datasets.fashion_whole()[2]
    return F.pad(images, [2] * 4, value=float(images.min())).expand(-1, 3, -1, -1)


def _split(x: Tensor, y: Tensor, new_x: Tensor, new_y: Tensor) -> tuple[Rows, Rows, Rows]:
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, chosen_by = order[:-VALIDATION], order[-VALIDATION:]
    return (x[train], y[train]), (x[chosen_by], y[chosen_by]), (new_x, new_y)


class LeNet(nn.Sequential):
    """LeNet-5 as Caffe has it: 431,080 weights. It is trained in bfloat16, channels last."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[B, 1, 28, 28]`` to logits ``[B, 10]``."""
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.training):
            return super().forward(x).float()
