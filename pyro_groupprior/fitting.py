# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A posterior by the means that suit a model's size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from .batch import device_of, move_batch
from .digest import digest
from .guides import AutoMeanField, SiteGuide
from .hyperpriors import Learned, tensors_of
from .mcmc import HMCResult, SGMCMCResult, run_hmc, run_sgmcmc
from .nn import BayesianModule, evaluation_mode
from .regrouping import Cluster, Regroup
from .svi import Checkpoint, PhasedSVI
from .svi.checks import check_num_rows
from .svi.random_state import get_random_state, set_random_state

METHODS = ("auto", "hmc", "sgmcmc", "svi")
# Floating-point operations of the net: for all rows, and for one batch. On one core HMC takes a
# few minutes at the first, stochastic-gradient MCMC some twelve at the second.
MOST_FOR_HMC, MOST_FOR_SGMCMC = 10_000_000, 50_000_000
WHOLE = 2048  # so many rows at most are one batch of SVI
BATCH = 256
STEPS_KEPT = 1000  # of SVI between two checkpoints

Batches = list[tuple[Tensor, Tensor]] | DataLoader[tuple[Tensor, ...]]
Posterior = SiteGuide | HMCResult | SGMCMCResult


def fit(
    model: BayesianModule,
    x: Tensor,
    y: Tensor,
    *,
    regroup: Regroup | None = None,
    method: str = "auto",
    seed: int = 0,
    progress: bool = True,
    checkpoint: str | Path | None = None,
) -> Posterior:
    """
    Find a net's posterior with no more to be said: by eight chains, as far as they are affordable,
    since a mean-field posterior of a net has to give up most of what its weights know together
    (``benchmarks/gap.py``).

    ====================  =========================================================================
    ``"hmc"``             :func:`~pyro_groupprior.mcmc.run_hmc`, where the net takes at most ten
                          million floating-point operations for all rows: with dense layers, rows
                          times weights of five million
    ``"sgmcmc"``          :func:`~pyro_groupprior.mcmc.run_sgmcmc`, where it takes at most fifty
                          million for a batch of 256 rows: 100,000 weights in dense layers
    ``"svi"``             else: SVI with :class:`AutoMeanField` and local reparametrisation, until
                          it has converged
    ====================  =========================================================================

    Groups, and point parameters such as those of norm layers and :class:`Learned` ones, are found
    by SVI; chains then start from its guide.

    Example::

        >>> x = torch.randn(40, 2)
        >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal(), num_data=40)
        >>> y = x[:, :1] + torch.randn(40, 1)
        >>> posterior = fit(model, x, y, method="svi", progress=False)  # for speed
        >>> predict(model, posterior, x).mean.shape
        torch.Size([40, 1])

    :param BayesianModule model: with a likelihood, and with ``num_data``, unless it is small:
        many rows are taken in batches of at most 256.
    :param Tensor x: inputs, all of them.
    :param Tensor y: what was observed.
    :param Regroup regroup: groups to be found on the way; give it ``phases``.
    :param str method: one of the table, or ``"auto"`` to choose by size.
    :param int seed: the same seed gives the same posterior. The process keeps its random state.
    :param bool progress: show progress bars.
    :param checkpoint: a file in which SVI keeps where it stands; if it is there, the same call, by
        data, seed, model, prior and ``regroup``, goes on from it, whatever weights the net has.
        Chains begin anew.
    :return: a guide, or what the chains have drawn, with how they fared: a mapping from site to
        draws, which :func:`~pyro_groupprior.predict` and :func:`save_draws` take, with
        ``samples`` by chain. There is a warning if a chain has hardly moved, run hot, or a loss was
        still falling.
    :raises TypeError: if the model is no :class:`BayesianModule`.
    :raises ValueError: if the method is unknown, the model has no likelihood, rows do not match
        each other or ``num_data``, data are not finite, or the checkpoint is that of another call.
    """
    if not isinstance(model, BayesianModule):
        raise TypeError(f"model: expected a BayesianModule, got {type(model).__name__}")
    if method not in METHODS:
        raise ValueError(f"method: expected one of {METHODS}, got {method!r}")
    if model.likelihood is None:
        raise ValueError("model: expected a BayesianModule with a likelihood, got one without")
    if len(x) != len(y) or not len(x):
        raise ValueError(f"x, y: expected as many rows, and some, got {len(x)} and {len(y)}")
    if method == "auto":
        method = _by_size(model, x)
    trained = method == "svi" or regroup is not None or _has_points(model)
    in_batches = method == "sgmcmc" or (trained and len(x) > WHOLE)
    check_num_rows(model, len(x), BATCH if in_batches else len(x))
    guide = _guide(model, x, y, regroup, seed, progress, checkpoint) if trained else None
    if guide is not None and method == "svi":
        return guide
    options: dict[str, Any] = {"start": guide, "seed": seed, "progress": progress}
    if method == "hmc":
        return run_hmc(model, x, y, **options)
    return run_sgmcmc(model, x, y, batch_size=BATCH, **options)


def _has_points(model: BayesianModule) -> bool:
    """Whether anything is learned as a point, which chains would leave where it is."""
    stated = [model.prior_loc, model.prior_scale, *vars(model.likelihood).values()]
    learned = any(isinstance(value, Learned) for value in stated)
    return learned or any(parameter.requires_grad for parameter in model.parameters())


def _by_size(model: BayesianModule, x: Tensor) -> str:
    weights = model.initial_weights()
    rows = x[:BATCH].to(weights.device)
    with torch.no_grad(), evaluation_mode(model), FlopCounterMode(display=False) as counter:
        model.call_net(weights, rows)
    # Some layers are not counted, such as recurrent ones.
    for_one = max(counter.get_total_flops() / max(len(rows), 1), 2 * len(weights))
    if for_one * len(x) <= MOST_FOR_HMC:
        return "hmc"
    return "sgmcmc" if for_one * BATCH <= MOST_FOR_SGMCMC else "svi"


def _guide(
    model: BayesianModule,
    x: Tensor,
    y: Tensor,
    regroup: Regroup | None,
    seed: int,
    progress: bool,
    checkpoint: str | Path | None,
) -> SiteGuide:
    state = get_random_state()
    try:
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # clusterers may draw from it
        guide = AutoMeanField(model, local_reparam=model.centered)
        svi = PhasedSVI(model, guide, regroup=regroup)
        if checkpoint is not None:
            svi.label = _digest(model, x, y, seed, regroup)
            svi.callbacks.append(Checkpoint(checkpoint, steps=STEPS_KEPT))
            if Path(checkpoint).exists():
                svi.load(checkpoint, *move_batch((x[:BATCH], y[:BATCH]), device_of(model)))
        if svi.convergence.stage != "done":
            svi.run(_batches(x, y), progress=progress)
            if checkpoint is not None:
                svi.save(checkpoint)
    finally:
        set_random_state(*state)
    return svi.guide


def _digest(model: BayesianModule, x: Tensor, y: Tensor, seed: int, regroup: Regroup | None) -> str:
    """What tells one call from another."""
    net = [repr(model.net), model.site, [(e.name, tuple(e.shape)) for e in model.layout]]
    prior = [model.prior_loc, model.prior_scale, model.family, model.centered]
    likelihood = [type(model.likelihood).__name__, vars(model.likelihood)]
    values = [x, y, model.base_scale, *tensors_of([model.prior_loc, model.prior_scale])]
    if regroup is None:  # else the groups are those of an interrupted call, if it was this model
        values.append(model.assignment.index)
    return digest(repr([*net, *prior, *likelihood, seed, _settings(regroup)]), values)


def _settings(part: Any) -> Any:
    """What a schedule, and the strategy and the clusterer in it, have been made with."""
    if isinstance(part, BaseEstimator):
        return type(part).__name__, part.get_params()
    if isinstance(part, (Regroup, Cluster)):
        named = vars(part).items()
        return type(part).__name__, [(name, _settings(value)) for name, value in named]
    return part


def _batches(x: Tensor, y: Tensor) -> Batches:
    if len(x) <= WHOLE:
        return [(x, y)]
    # Whole batches are taken at once: row by row takes longer than a step.
    return DataLoader(TensorDataset(x, y), batch_size=None, sampler=_EvenBatches(len(x)))


class _EvenBatches(Sampler[Tensor]):
    """Shuffled rows in batches of nearly equal size: a last one of one row would upset a net."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def __len__(self) -> int:
        return -(-self.num_rows // BATCH)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.randperm(self.num_rows).tensor_split(len(self)))
