# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Runs that are interrupted and taken up again by fresh objects."""

from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import pyro.optim
import torch
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from pyro_groupprior import (
    Assignment,
    AssignmentBuffer,
    AutoMeanField,
    BayesianModule,
    Callback,
    Cluster,
    CorrelationClustering,
    Learned,
    Monitor,
    PhasedSVI,
    Regroup,
    group_prior,
    likelihoods,
)
from tests.svi.runs import GUIDES, Adam, data, full_state, regression

EPOCHS, STEPS = 4, 4  # an epoch
# KMeans without a random state draws from numpy's global generator.
BY_EPOCHS = partial(Regroup, Cluster(KMeans(5, n_init=1), "moments"), epochs=1)


def net_with_state() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Tanh(), nn.Linear(6, 1)
    )


def function_model():
    buffer = AssignmentBuffer(Assignment(torch.zeros(3, dtype=torch.long)))

    def model(x, y):
        beta = group_prior("beta", buffer, scale=Learned(1.0))
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=64 / len(x)):
            pyro.sample("y", dist.Normal(x @ beta, 1.0), obs=y.squeeze(-1))

    return model


# What differs from an AutoMeanField with Adam that shuffles by torch's default generator.
CASES = {
    "mean_field": {},
    "moments": {"regroup": partial(BY_EPOCHS, hyper="moments")},
    "by_steps": {"regroup": partial(Regroup, KMeans(5, n_init=1), steps=3)},
    "low_rank": {
        "guide": GUIDES["low_rank"],
        "optim": partial(torch.optim.SGD, lr=1e-4, momentum=0.9),
        "shuffle": "own generator",
    },
    "normal": {
        "guide": GUIDES["normal"],
        "optim": pyro.optim.ClippedAdam({"lr": 0.02, "lrd": 0.99, "clip_norm": 5.0}),
        "prior": {"scale": Learned(1.0)},
    },
    "low_rank_normal": {"guide": GUIDES["low_rank_normal"], "shuffle": "sampler's generator"},
    "multivariate": {"guide": GUIDES["multivariate"]},
    "learned": {"prior": {"scale": Learned(1.0), "loc": Learned(0.0)}},
    "learned_noise": {"likelihood": partial(likelihoods.Normal, noise=Learned(0.5))},
    "soft": {
        "regroup": partial(Regroup, Cluster(GaussianMixture(4), soft=2), epochs=1),
        "scheduler": partial(lr_scheduler.OneCycleLR, max_lr=0.05, total_steps=100),
        "shuffle": "own generator",
    },
    "batch_norm_dropout": {
        "net": net_with_state,
        "scheduler": partial(lr_scheduler.MultiStepLR, milestones=[5, 9, 14], gamma=0.5),
    },
    "trajectories": {
        "regroup": partial(Regroup, CorrelationClustering(3, random_state=0), epochs=3),
        "options": {"callbacks": (partial(Monitor, steps=2),)},
    },
    "function": {"model": function_model, "options": {"warmup": 10, "clip_norm": 50.0}},
    "function_normal": {"model": function_model, "guide": GUIDES["normal"]},
}


def build(case: str, seed: int) -> tuple[PhasedSVI, DataLoader]:
    """Everything anew, as in another process; only the data are the same."""
    options = CASES[case]
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    torch.rand(seed)
    if "model" in options:
        model = options["model"]()
    elif "net" in options:
        model = BayesianModule(options["net"](), likelihoods.Normal(), num_data=64)
    else:
        model = regression(
            "layer", options.get("likelihood", likelihoods.Normal)(), **options.get("prior", {})
        )
    schedule = options.get(
        "regroup",
        BY_EPOCHS if "model" not in options else partial(Regroup, KMeans(2, n_init=1), epochs=1),
    )
    svi = PhasedSVI(
        model,
        options.get("guide", AutoMeanField),
        options.get("optim", Adam),
        regroup=schedule(),
        scheduler=options.get("scheduler"),
        **{
            # Callbacks have a state of their own: they are made anew too.
            name: [make() for make in value] if name == "callbacks" else value
            for name, value in options.get("options", {}).items()
        },
    )
    dataset, own = TensorDataset(*data()), torch.Generator().manual_seed(11)
    how = {
        "own generator": {"shuffle": True, "generator": own},
        "sampler's generator": {"sampler": RandomSampler(dataset, generator=own)},
        None: {"shuffle": True},
    }[options.get("shuffle")]
    return svi, DataLoader(dataset, batch_size=16, **how)


class StopAt(Callback):
    """Save after a step, or at the end of an epoch, and leave."""

    def __init__(self, path, step=None, epoch=None):
        self.path, self.at_step, self.at_epoch = path, step, epoch

    def on_step(self, svi, loss):
        if svi.step_count == self.at_step:
            svi.save(self.path)
            svi.should_stop = True

    def on_epoch(self, svi):
        if svi.epoch == self.at_epoch:
            svi.save(self.path)
            svi.should_stop = True


def undisturbed(case: str, epochs: int = EPOCHS):
    svi, loader = build(case, seed=1)
    svi.run(loader, epochs, progress=False)
    return full_state(svi)


def interrupt(case: str, path: Path, **when: int) -> None:
    svi, loader = build(case, seed=1)
    svi.callbacks.append(StopAt(path, **when))
    svi.run(loader, EPOCHS, progress=False)


def take_up(case: str, path: Path, seed: int = 2) -> PhasedSVI:
    svi, loader = build(case, seed)
    svi.load(path, *[part[:16] for part in data()])
    if svi.epoch < EPOCHS:
        svi.run(loader, EPOCHS - svi.epoch, progress=False)
    return svi
