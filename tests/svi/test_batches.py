# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Batches: bad numbers found wherever they hide, and epochs that can be left and entered again."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler

from pyro_groupprior import AutoMeanField, PhasedSVI
from pyro_groupprior.svi.batches import ResumableBatches
from tests.svi.runs import Adam, data, regression


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


DATASET = TensorDataset(torch.arange(10))
LOADERS = {
    "in order": lambda own: DataLoader(DATASET, 3),
    "default": lambda own: DataLoader(DATASET, 3, shuffle=True),
    "own": lambda own: DataLoader(DATASET, 3, shuffle=True, generator=own),
    "sampler": lambda own: DataLoader(DATASET, 3, sampler=RandomSampler(DATASET, generator=own)),
    "replacement": lambda own: DataLoader(
        DATASET, 3, sampler=RandomSampler(DATASET, True, 40, generator=own)
    ),
    "weighted": lambda own: DataLoader(
        DATASET, sampler=WeightedRandomSampler(torch.rand(10, generator=own), 8), batch_size=2
    ),
    "list": lambda own: [(torch.tensor([i]),) for i in range(4)],
}


def fresh(kind):
    return ResumableBatches(), LOADERS[kind](torch.Generator().manual_seed(3))


def epochs(batches, loader, number):
    """What is seen, when training draws random numbers between the batches."""
    return [
        (x.tolist(), torch.rand(()).item()) for _ in range(number) for (x,) in batches.epoch(loader)
    ]


@pytest.mark.parametrize("kind", LOADERS)
@given(left_at=st.integers(0, 30))
def test_left_and_entered_again_anywhere(kind, left_at):
    torch.manual_seed(5)
    expected = epochs(*fresh(kind), 3)
    left_at = min(left_at, len(expected))
    torch.manual_seed(5)
    batches, loader = fresh(kind)
    seen = []
    while len(seen) < left_at:
        for (x,) in batches.epoch(loader):
            seen.append((x.tolist(), torch.rand(()).item()))
            if len(seen) == left_at:
                break
    position, state, random = batches.position, batches.state(), torch.get_rng_state()
    torch.manual_seed(77)
    batches, loader = fresh(kind)
    batches.load_state(position, state)
    torch.set_rng_state(random)
    while len(seen) < len(expected):
        seen += epochs(batches, loader, 1)
    assert seen == expected


def test_epochs_differ_where_the_loader_shuffles():
    first, second = (tuple(x for x, _ in epochs(*fresh(k), 2)) for k in ("default", "own"))
    assert first[:4] != first[4:] and second[:4] != second[4:]


@pytest.mark.parametrize("loader", [[], DataLoader(TensorDataset(torch.empty(0, 3)))])
def test_empty_loaders_are_refused(loader):
    svi = PhasedSVI(regression(), AutoMeanField, Adam)
    with pytest.raises(ValueError, match="loader: expected at least one batch, got none"):
        svi.run(loader, 1, progress=False)
    assert svi.optimizer is None


def test_a_loader_that_can_be_passed_over_only_once():
    svi = PhasedSVI(regression(), AutoMeanField, Adam)
    with pytest.raises(ValueError, match="loader: expected at least one batch, got none"):
        svi.run((batch for batch in [data(), data()]), 2, progress=False)
    assert svi.epoch == 1


@pytest.mark.parametrize(
    "batch", [Pair(*data()), list(data()), {"inputs": data()[0], "y": data()[1]}]
)
def test_batches_of_every_kind_reach_the_model(batch):
    svi = PhasedSVI(regression(), AutoMeanField, Adam)
    pair = PhasedSVI(svi.model, AutoMeanField, Adam)
    torch.manual_seed(0)
    history = svi.run([batch], 1, progress=False)
    torch.manual_seed(0)
    assert history.epochs[0].loss == pair.run([data()], 1, progress=False).epochs[0].loss
