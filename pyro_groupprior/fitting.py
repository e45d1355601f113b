# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A posterior by the means that suit a model's size."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from .guides import AutoMeanField, SiteGuide
from .mcmc import run_hmc
from .nn import BayesianModule
from .regrouping import Regroup
from .svi import PhasedSVI
from .svi.random_state import get_random_state, set_random_state

METHODS = ("auto", "hmc", "svi")
# Rows times weights: above it, HMC takes many minutes on one core.
LARGE = 10_000_000
WHOLE = 2048  # so many rows at most are one batch
BATCH = 256

Posterior = SiteGuide | dict[str, Tensor]


def fit(
    model: BayesianModule,
    x: Tensor,
    y: Tensor,
    *,
    regroup: Regroup | None = None,
    method: str = "auto",
    seed: int = 0,
    progress: bool = True,
) -> Posterior:
    """
    Find a net's posterior with no more to be said: by HMC where rows times weights are at most ten
    million, else by SVI with :class:`AutoMeanField` and local reparametrisation, until it has
    converged. HMC predicts better (``benchmarks/gap.py``): a mean-field posterior of a net has to
    give up most of what its weights know together.

    To regroup before HMC, the groups are found by SVI, and the chains start from its guide.

    Example::

        >>> x = torch.randn(40, 2)
        >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal(), num_data=40)
        >>> y = x[:, :1] + torch.randn(40, 1)
        >>> posterior = fit(model, x, y, method="svi", progress=False)  # for speed
        >>> predict(model, posterior, x).mean.shape
        torch.Size([40, 1])

    :param BayesianModule model: with a likelihood, and ``num_data`` if there are more than 2,048
        rows: these are taken in batches of 256.
    :param Tensor x: inputs, all of them.
    :param Tensor y: what was observed.
    :param Regroup regroup: groups to be found on the way; give it ``phases``.
    :param str method: ``"hmc"`` or ``"svi"``, or ``"auto"``.
    :param int seed: the same seed gives the same posterior. The process keeps its random state.
    :param bool progress: show progress bars.
    :return: a guide, or draws by site: what :func:`predict` and :func:`save_draws` take.
    :raises TypeError: if the model is no :class:`BayesianModule`.
    :raises ValueError: if the method is unknown, rows do not match, or data are not finite.
    """
    if not isinstance(model, BayesianModule):
        raise TypeError(f"model: expected a BayesianModule, got {type(model).__name__}")
    if method not in METHODS:
        raise ValueError(f"method: expected one of {METHODS}, got {method!r}")
    if len(x) != len(y):
        raise ValueError(f"x, y: expected as many rows, got {len(x)} and {len(y)}")
    if method == "auto":
        method = "hmc" if len(x) * model.layout.num_weights <= LARGE else "svi"
    if method == "hmc" and regroup is None:
        return run_hmc(model, x, y, seed=seed, progress=progress).get_samples()
    guide = _guide(model, x, y, regroup, seed, progress)
    if method == "svi":
        return guide
    # The guide's draws are where a posterior has its mass: there is nothing left to climb.
    result = run_hmc(model, x, y, start=guide, ascent_steps=0, seed=seed, progress=progress)
    return result.get_samples()


def _guide(
    model: BayesianModule, x: Tensor, y: Tensor, regroup: Regroup | None, seed: int, progress: bool
) -> SiteGuide:
    state = get_random_state()
    try:
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # clusterers may draw from it
        svi = PhasedSVI(model, AutoMeanField(model, local_reparam=True), regroup=regroup)
        svi.run(_batches(x, y), progress=progress)
    finally:
        set_random_state(*state)
    return svi.guide


def _batches(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]] | DataLoader[tuple[Tensor, ...]]:
    if len(x) <= WHOLE:
        return [(x, y)]
    data = TensorDataset(x, y)
    # Whole batches are taken at once: row by row takes longer than a step.
    sampler = BatchSampler(RandomSampler(data), BATCH, drop_last=False)
    return DataLoader(data, batch_size=None, sampler=sampler)
