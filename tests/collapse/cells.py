# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A small deep net, and ways to kill it."""

from functools import partial

import torch
from torch import nn

from pyro_groupprior import AutoMeanField, BayesianModule, Callback, PhasedSVI, likelihoods
from tests.svi.runs import data

Adam = partial(torch.optim.Adam, lr=0.02)
LAYERS = ("0.weight", "2.weight", "4.weight")


def deep() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))


def build(*callbacks: Callback, net: nn.Module | None = None, **options) -> PhasedSVI:
    torch.manual_seed(1)
    net = deep() if net is None else net
    model = BayesianModule(net, likelihoods.Normal(), num_data=64, grouping="layer")
    svi = PhasedSVI(model, AutoMeanField, Adam, callbacks=callbacks, **options)
    return svi


def kill(svi: PhasedSVI, *layers: str) -> None:
    """Put their means to zero, and their deviations to those of a standard prior."""
    guide, layout = svi.guide, svi.model.layout
    with torch.no_grad():
        for layer in layers:
            where = layout[layer].slice
            guide.locs["weights"][where] = 0.0
            guide.unconstrained_scales["weights"][where] = svi.model.base_scale[where]


class Killer(Callback):
    """Keeps layers dead over some epochs, until the run has been rolled back so many times."""

    def __init__(self, *layers: str, epochs: range, times: int = 1) -> None:
        self.layers, self.epochs, self.left = layers, epochs, times
        self.last = 0

    def on_epoch(self, svi: PhasedSVI) -> None:
        self.left -= svi.epoch <= self.last
        self.last = svi.epoch
        if svi.epoch in self.epochs and self.left > 0:
            kill(svi, *self.layers)


def r2(svi: PhasedSVI) -> float:
    """Of the predictive mean on the training rows."""
    x, y = data()
    draws = svi.guide.draws(50)["weights"]
    mean = torch.stack([svi.model.call_net(weights, x) for weights in draws]).mean(0)
    return float(1 - (y - mean).square().mean() / y.var(correction=0))
