# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Pyro's own kernels over a fast potential, a process for each chain."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import torch
from pyro.infer import NUTS
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from sklearn.utils.parallel import Parallel, delayed
from torch import Tensor

from ..batch import count_rows
from ..nn import BayesianModule
from ..svi.checks import check_num_rows
from .chain import Chain
from .diagnostics import diagnose
from .draws import ChainDraws
from .frame import check_counts, placed, undisturbed
from .gradient import recorded, value_and_gradient
from .hmc import ASCENT_STEPS
from .log_density import LogDensity
from .starts import ascend, chain_starts
from .stored import StoredDraws, check_settings


@dataclass(frozen=True)
class MCMCResult(ChainDraws):
    """
    Draws of :func:`run_mcmc`.

    :param samples: the model's latent sites by name, each ``[chains, draws, ...]``.
    :param Tensor log_joint: log-density of every draw with respect to the unconstrained, decentred
        latents, but for a constant: ``[chains, draws]``.
    :param Tensor energy: of the Hamiltonian in the move that led to a draw: ``[chains, draws]``.
    :param Tensor divergences: divergent moves of each chain after the warm-up.
    :param Tensor num_steps: leapfrog steps of each chain after the warm-up.
    :param Tensor step_size: of each chain after the warm-up.
    """

    log_joint: Tensor
    energy: Tensor
    divergences: Tensor
    num_steps: Tensor
    step_size: Tensor

    def diagnostics(self) -> pd.DataFrame:
        """
        R-hat and effective sample sizes of the log-density and of every site, the worst element of
        each. A net's weights are never found to agree before their units are in the same order
        (:func:`~pyro_groupprior.symmetry.align_draws`), nor need they to for its function to.

        :return: a row a quantity, with columns ``rhat``, ``ess_bulk`` and ``ess_tail``.
        :raises ValueError: if there are fewer than 8 draws a chain.
        """
        return diagnose({"log_joint": self.log_joint, **self.samples})


def run_mcmc(
    model: Callable[..., Any],
    *args: Any,
    kernel: Callable[..., MCMCKernel] = NUTS,
    num_samples: int = 1000,
    warmup_steps: int = 1000,
    num_chains: int = 4,
    start: Any = None,
    ascent_steps: int | None = None,
    seed: int = 0,
    n_jobs: int = 1,
    path: str | Path | None = None,
    progress: bool = True,
) -> MCMCResult | StoredDraws:
    """
    Sample a posterior by one of Pyro's own kernels, by default NUTS (Hoffman and Gelman 2014, "The
    No-U-Turn sampler"), over a potential that is recorded, and compiled where that pays: the
    reference for :func:`run_hmc`, which is faster since it runs its chains side by side, and for
    every guide. The model is decentred and in the unconstrained space, as there.

    Example::

        >>> def model(y):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(z, 1.0), obs=y)
        >>> options = {"num_samples": 60, "warmup_steps": 30, "num_chains": 2, "progress": False}
        >>> result = mcmc.run_mcmc(model, torch.tensor(2.0), **options)
        >>> result.samples["z"].shape
        torch.Size([2, 60])
        >>> abs(result.samples["z"].mean().item() - 1.0) < 0.5
        True

    :param callable model: a Pyro model that allows outer plates, such as a
        :class:`~pyro_groupprior.BayesianModule`; it runs in evaluation mode.
    :param args: what it is run with, all data; moved to the model's device.
    :param kernel: makes the kernel: ``functools.partial(pyro.infer.NUTS, max_tree_depth=8)``,
        ``functools.partial(pyro.infer.HMC, num_steps=50, step_size=0.01)``; it is called with
        ``potential_fn``.
    :param int num_samples: draws of each chain.
    :param int warmup_steps: moves before, in which the kernel adapts.
    :param int num_chains: how many chains.
    :param start: as in :func:`run_hmc`.
    :param int ascent_steps: likewise.
    :param int seed: the same seed gives the same draws, whatever ``n_jobs`` is.
    :param int n_jobs: processes over which chains are spread, by joblib, whose backends send them
        to clusters too; above 1, model and arguments must be such that joblib can send them.
    :param path: a folder in which draws are kept as they are made, 100 a file, so that memory does
        not grow with them. The same call goes on where it was stopped, with more samples if wished;
        a chain that was stopped in its warm-up begins anew.
    :param bool progress: show progress bars.
    :return: all draws; with ``path``, what reads them.
    :raises TypeError: if ``start`` or a number is of the wrong kind.
    :raises ValueError: if a number is out of range, ``start`` has not a value for each site, data
        or the log-density at the start are not finite, ``path`` holds another run's draws, or the
        model has no latent sites, no observations, another ``num_data`` than rows, or cannot run
        under an outer plate.
    """
    check_counts(1, num_samples=num_samples, num_chains=num_chains)
    if ascent_steps is None:
        ascent_steps = ASCENT_STEPS if start is None else 0
    check_counts(0, warmup_steps=warmup_steps, ascent_steps=ascent_steps)
    if isinstance(model, BayesianModule):
        check_num_rows(model, num_rows := count_rows(args, "args"), num_rows)
    args = placed(model, args)
    seeds = np.random.SeedSequence(seed).generate_state(num_chains).tolist()
    with undisturbed(model, seed):
        density = LogDensity(model, args)
        with pyro.validation_enabled(False):
            position = density.unconstrain(chain_starts(density, start, num_chains))
            density.check_chains(position)
            evaluate = recorded(value_and_gradient(density), position)
            position = ascend(evaluate, position, itertools.repeat((), ascent_steps))
            value, _ = evaluate(position)
        if not bool(value.isfinite().all()):
            raise ValueError(
                f"model: its log-density where the chains start is not finite: {value.tolist()}"
            )
        if path is not None:
            shapes = {name: list(shape) for name, shape in density.shapes.items()}
            settings = {"seed": seed, "num_chains": num_chains, "warmup_steps": warmup_steps}
            check_settings(Path(path), {**settings, "sites": shapes})
        steps = (warmup_steps, num_samples)
        run = delayed(Chain(model, args, kernel, steps, path, progress))
        # Started from the parent's random state, which the chains in this process change.
        found = Parallel(n_jobs=n_jobs)(
            run(number, seed, position[number]) for number, seed in enumerate(seeds)
        )
    if path is not None:
        return StoredDraws(path)
    return MCMCResult(
        {name: torch.stack([chain.samples[name] for chain in found]) for name in density.shapes},
        torch.stack([chain.log_joint for chain in found]),
        torch.stack([chain.energy for chain in found]),
        torch.tensor([chain.divergences for chain in found]),
        torch.tensor([chain.num_steps for chain in found]),
        torch.tensor([chain.step_size for chain in found]),
    )
