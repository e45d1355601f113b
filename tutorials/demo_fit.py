# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The demo's fits: the same net, guide and schedule under four priors."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from tqdm import tqdm

import pyro_groupprior as pgp

from .demo_data import Data

# What the model is told of its group priors. "dynamic" starts from layers and is regrouped.
PRIORS: dict[str, dict[str, Any]] = {
    "fixed": {"grouping": "all", "loc": 0.0, "scale": 1.0},
    "per layer": {"grouping": "layer"},
    "per column": {"grouping": "column"},
    "dynamic": {"grouping": "layer"},
}
NUM_DRAWS = 1000


@dataclass(frozen=True)
class Settings:
    """
    The same for all priors of a data set; chosen on validation rows (``--validate``).

    :param net: makes the net.
    :param likelihood: makes the likelihood.
    :param int epochs: how long to train.
    :param int warmup: epochs over which the divergence gets its full weight.
    :param int phase: epochs of a phase: in each, half a cosine takes the learning rate down to a
        hundredth, and the dynamic prior is regrouped between them.
    :param int num_groups: that the dynamic prior may have at most.
    :param batch_size: rows in a batch; None for all.
    :param float lr: learning rate of Adam at the start of a phase.
    """

    net: Callable[[], nn.Module]
    likelihood: Callable[[], pgp.likelihoods.Likelihood]
    epochs: int
    warmup: int
    phase: int
    num_groups: int = 8
    batch_size: int | None = None
    lr: float = 0.01


def concrete_net() -> nn.Module:
    """8-50-50-1."""
    return nn.Sequential(
        nn.Linear(8, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 1)
    )


def digits_net() -> nn.Module:
    """64-64-10."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


SETTINGS = {
    "concrete": Settings(concrete_net, pgp.likelihoods.Normal, epochs=4000, warmup=1600, phase=400),
    "digits": Settings(
        digits_net,
        pgp.likelihoods.Categorical,
        epochs=600,
        warmup=180,
        phase=60,
        batch_size=240,
    ),
}


@dataclass(frozen=True)
class Fit:
    """
    One trained model.

    :param BayesianModule model: with its last grouping.
    :param guide: its posterior.
    :param History history: losses and phases.
    :param Prediction prediction: of the rows to score on.
    :param float seconds: wall time of the training.
    """

    model: pgp.BayesianModule
    guide: pgp.AutoMeanField
    history: pgp.History
    prediction: pgp.Prediction
    seconds: float


class Bar(pgp.Callback):
    """A progress bar over epochs; silent where standard error is no terminal."""

    def __init__(self, title: str, position: int) -> None:
        self.title, self.position = title, position

    def on_run_start(self, svi: pgp.PhasedSVI, epochs: int, batches: int | None) -> None:
        self.bar = tqdm(
            total=epochs,
            desc=f"{self.title:20}",
            unit="epoch",
            position=self.position,
            leave=False,
            disable=not sys.stderr.isatty(),
        )

    def on_epoch(self, svi: pgp.PhasedSVI) -> None:
        loss = svi.history.epochs[-1].loss
        self.bar.set_postfix(loss=f"{loss:.4g}", phase=svi.phase, refresh=False)
        self.bar.update()

    def on_run_end(self, svi: pgp.PhasedSVI) -> None:
        self.bar.close()


def fit(data: Data, prior: str, position: int = 0, seed: int = 0) -> Fit:
    """
    Train one model and predict.

    :param Data data: the data set.
    :param str prior: one of :data:`PRIORS`.
    :param int position: line of the progress bar.
    :param int seed: of the net's start and of training.
    """
    settings = SETTINGS[data.name]
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    model = pgp.BayesianModule(
        settings.net(), settings.likelihood(), num_data=len(data.y), **PRIORS[prior]
    )
    loader = batches(data.x, data.y, settings.batch_size)
    steps = settings.phase * len(loader)
    regroup = None
    if prior == "dynamic":
        strategy = pgp.DeconvolvedMixture(settings.num_groups)
        # From the end of the warm-up, which blurs the posterior; not after the last phase.
        start, stop = settings.warmup - settings.phase, settings.epochs - settings.phase
        regroup = pgp.Regroup(strategy, epochs=settings.phase, start=start, stop=stop)
    svi = pgp.PhasedSVI(
        model,
        # Noise drawn for every row instead of once for all lowers the gradient's noise strongly.
        pgp.AutoMeanField(model, local_reparam=True),
        partial(torch.optim.Adam, lr=settings.lr),
        regroup=regroup,
        warmup=settings.warmup * len(loader),
        scheduler=partial(CosineAnnealingWarmRestarts, T_0=steps, eta_min=settings.lr / 100),
        callbacks=[Bar(f"{data.name}, {prior}", position)],
    )
    start = time.perf_counter()
    history = svi.run(loader, settings.epochs, progress=False)
    seconds = time.perf_counter() - start
    prediction = pgp.predict(model, svi.guide, data.new_x, NUM_DRAWS)
    return Fit(model, svi.guide, history, prediction, seconds)


def batches(x: Tensor, y: Tensor, batch_size: int | None) -> list[Any] | DataLoader[Any]:
    """Something to pass over: all rows at once, or shuffled minibatches."""
    if batch_size is None:
        return [(x, y)]
    rows = TensorDataset(x, y)
    # Whole batches of indices: the loader need not pick and stack rows one by one.
    sampler = BatchSampler(RandomSampler(rows), batch_size, drop_last=False)
    return DataLoader(rows, sampler=sampler, batch_size=None)
