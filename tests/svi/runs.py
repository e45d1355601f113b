# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Runs that several tests of the engine share, and their whole state to compare."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import autoguide
from torch import Tensor, nn

from pyro_groupprior import (
    Assignment,
    AssignmentBuffer,
    AutoLowRank,
    AutoMeanField,
    BayesianModule,
    PhasedSVI,
    Regroup,
    group_prior,
    init_to_weights,
    likelihoods,
)

Adam = partial(torch.optim.Adam, lr=0.02)
NUM_WEIGHTS = 31  # of the net below
THREE = torch.arange(NUM_WEIGHTS) % 3

GUIDES: dict[str, Any] = {
    "mean_field": AutoMeanField,
    "low_rank": partial(AutoLowRank, rank=2),
    "normal": partial(autoguide.AutoNormal, init_loc_fn=init_to_weights),
    "delta": partial(autoguide.AutoDelta, init_loc_fn=init_to_weights),
    "diagonal": partial(autoguide.AutoDiagonalNormal, init_loc_fn=init_to_weights),
    # Its rank is of the size of the square root of the number of latents, which changes.
    "low_rank_normal": partial(
        autoguide.AutoLowRankMultivariateNormal, init_loc_fn=init_to_weights
    ),
    "multivariate": partial(autoguide.AutoMultivariateNormal, init_loc_fn=init_to_weights),
    "laplace": partial(autoguide.AutoLaplaceApproximation, init_loc_fn=init_to_weights),
}


class Planned:
    """A strategy that proposes what it was told, one grouping after another."""

    def __init__(self, *indices: Tensor | Assignment) -> None:
        self.proposals = [i if isinstance(i, Assignment) else Assignment(i) for i in indices]

    def propose(self, posterior: Any) -> Assignment:
        return self.proposals.pop(0)


def data(num_rows: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(num_rows, 3, generator=generator)
    noise = 0.1 * torch.randn(num_rows, 1, generator=generator)
    return x, x[:, :1] * 2 - x[:, 1:2].sin() + noise


def regression(grouping: Any = THREE, likelihood: Any = None, **options: Any) -> BayesianModule:
    """A model of ``NUM_WEIGHTS`` weights."""
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))
    likelihood = likelihoods.Normal() if likelihood is None else likelihood
    return BayesianModule(net, likelihood, num_data=64, grouping=grouping, **options)


def function_model(buffer: AssignmentBuffer, **prior: Any) -> Any:
    """A regression written as a plain function."""

    def model(x: Tensor, y: Tensor | None = None) -> Any:
        beta = group_prior("beta", buffer, **prior)
        noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Normal(x @ beta, noise), obs=y)

    return model


def two_priors(buffers: Any) -> Any:
    """A regression on the sum of two vectors of weights."""

    def model(x: Tensor, y: Tensor) -> None:
        one = group_prior("one", buffers[0])
        two = group_prior("two", buffers[1])
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ one + x @ two, 1.0), obs=y)

    return model


def full_state(svi: PhasedSVI) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All that the future of a run depends on: tensors, and plain values."""
    assert svi.optimizer is not None
    tensors: dict[str, Tensor] = {}
    for part in ("model", "guide"):
        if isinstance(getattr(svi, part), nn.Module):
            state = getattr(svi, part).state_dict()
            tensors |= {f"{part}.{name}": value for name, value in state.items()}
    for name, value in pyro.get_param_store().named_parameters():
        tensors[f"store.{name}"] = value
    for name, parameter in svi.parameters.items():
        tensors[f"parameters.{name}"] = parameter
        for key, value in svi.optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = torch.as_tensor(value)
    for name, site in svi.groups.items():
        tensors[f"groups.{name}"] = site.assignment.dense()
    tensors["random.torch"] = torch.get_rng_state()
    tensors["random.numpy"] = torch.as_tensor(np.random.get_state()[1].astype(np.int64))
    tensors["random.python"] = torch.tensor(random.getstate()[1])
    groups = [{k: v for k, v in g.items() if k != "params"} for g in svi.optimizer.param_groups]
    plain = {
        "counters": (svi.step_count, svi.epoch, svi.phase, svi.batch_in_epoch),
        "history": svi.history.to_dict(),
        "optimizer": groups,
        "scheduler": None if svi.scheduler is None else svi.scheduler.state_dict(),
        "numpy": np.random.get_state()[2:],
        "epoch_loss": tuple(svi.epoch_loss),
    }
    return {name: value.detach().clone() for name, value in tensors.items()}, plain


def assert_same(one: Any, other: Any) -> None:
    """Bit by bit."""
    assert one[1] == other[1]
    assert set(one[0]) == set(other[0])
    for name, value in one[0].items():
        assert torch.equal(value, other[0][name]), name


def by_site(svi: PhasedSVI) -> dict[str, dict[str, Tensor]]:
    """
    Every parameter, cut into the rows of one site where it is a vector of all latents, with
    Adam's moments of these rows.
    """
    assert svi.optimizer is not None
    num_groups = svi.groups["weights"].assignment.num_groups
    sizes = {"weights_loc": num_groups, "weights_scale": num_groups}
    sizes |= {"weights": NUM_WEIGHTS, "noise": 1}
    result: dict[str, dict[str, Tensor]] = {}
    for name, parameter in svi.parameters.items():
        state = svi.optimizer.state[parameter]
        rows = {"value": parameter, "exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]}
        rows = {key: value.detach().clone() for key, value in rows.items()}
        if name in ("guide.loc", "guide.scale_unconstrained", "guide.cov_factor"):
            for number, site in enumerate(sizes):
                cut = {
                    key: value.split(list(sizes.values()))[number] for key, value in rows.items()
                }
                result[f"{name}/{site}"] = cut
        else:
            result[name] = rows
    return result


EVERY = partial(Regroup, steps=10**6)  # due only when a test says so

_grown = THREE.clone()
_grown[[1, 4]], _grown[[2, 5, 8]] = 3, 4
_shrunk = torch.where(THREE == 1, 0, THREE)
# Present group -> label in the proposal: a clusterer's labels mean nothing.
PROPOSALS = {
    "relabelled": (torch.tensor([2, 0, 1])[THREE], [0, 1, 2]),
    "grown": (torch.tensor([4, 0, 3, 1, 2])[_grown], [0, 1, 2, -1, -1]),
    "shrunk": (torch.tensor([1, 7, 0])[_shrunk], [0, 2]),
    "swapped": (torch.where(THREE == 2, 1, torch.where(THREE == 1, 3, 0)), [0, 1, 2, -1]),
}


def trained(
    guide: Any, proposal: Any, hyper: str = "carry", steps: int = 4, **prior: Any
) -> PhasedSVI:
    """A run of a few steps whose next regroup is planned."""
    model = regression(**prior)
    svi = PhasedSVI(model, guide, Adam, regroup=EVERY(Planned(proposal), hyper=hyper))
    for _ in range(steps):
        svi.step(*data())
    return svi
