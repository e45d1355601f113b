# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Pyro's own kernels over a fast potential, a process for each chain."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import torch
from pyro.infer import HMC, NUTS
from sklearn.utils.parallel import Parallel, delayed
from torch import Tensor

from ..batch import tensors_in
from ..digest import digest
from .chain import Chain, make_kernel
from .chain_files import ChainFiles, open_run
from .diagnostics import diagnose, without_labels
from .draws import ChainDraws
from .frame import all_rows, check_counts, undisturbed
from .gibbs import positive
from .gradient import recorded, value_and_gradient
from .hmc import ASCENT_STEPS
from .log_density import LogDensity
from .potential import Potential
from .starts import ascend, chain_starts, resolve_ascent
from .stored import StoredDraws


@dataclass(frozen=True, eq=False)
class MCMCResult(ChainDraws):
    """
    Draws of :func:`run_mcmc`.

    :param samples: the model's latent sites by name, each ``[chains, draws, ...]``.
    :param Tensor log_joint: log-density of every draw with respect to the unconstrained, decentred
        latents, but for a constant: ``[chains, draws]``.
    :param Tensor energy: of the Hamiltonian in the move that led to a draw: ``[chains, draws]``.
    :param Tensor diverging: whether that move diverged: ``[chains, draws]``.
    :param Tensor num_steps: its leapfrog steps: ``[chains, draws]``.
    :param Tensor step_size: of each chain after the warm-up.
    :param Tensor accept_prob: mean probability of acceptance of each chain after the warm-up.
    """

    log_joint: Tensor
    energy: Tensor
    diverging: Tensor
    num_steps: Tensor
    step_size: Tensor
    accept_prob: Tensor

    @property
    def divergences(self) -> Tensor:
        """Divergent moves of each chain, ``[chains]``."""
        return self.diverging.sum(1)

    def diagnostics(self, sites: Sequence[str] | None = None) -> pd.DataFrame:
        """
        R-hat and effective sample sizes of the log-density and of every site, the worst element of
        each. A net's weights are never found to agree before their units are in the same order
        (:func:`~pyro_groupprior.symmetry.align_draws`), nor need they to for its function to.

        :param sites: some sites only.
        :return: a row a quantity, with columns ``rhat``, ``ess_bulk`` and ``ess_tail``.
        :raises ValueError: if there are fewer than 8 draws a chain.
        """
        names = without_labels(self.samples) if sites is None else sites
        rows = [diagnose({"log_joint": self.log_joint})]
        return pd.concat([*rows, diagnose({name: self.samples[name] for name in names})])


def run_mcmc(
    model: Callable[..., Any],
    *args: Any,
    kernel: Callable[..., HMC] = NUTS,
    num_samples: int = 1000,
    warmup_steps: int = 1000,
    num_chains: int = 4,
    start: Any = None,
    ascent_steps: int | None = None,
    concentration: float | None = None,
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
        ``potential_fn``, and, where a chain goes on, with ``step_size``, ``adapt_step_size`` and
        ``adapt_mass_matrix`` too.
    :param int num_samples: draws of each chain.
    :param int warmup_steps: moves before, in which the kernel adapts.
    :param int num_chains: how many chains.
    :param start: as in :func:`run_hmc`; or ``"prior"``: a draw from the prior for each chain.
    :param int ascent_steps: likewise.
    :param float concentration: draw the assignments of the model's group priors too, between moves,
        with this concentration of the groups' proportions (:class:`GibbsGroups`); the draws then
        hold ``{site}_assignment`` and ``{site}_proportions``. The model keeps its own grouping,
        from which chains start. Default: the grouping is fixed.
    :param int seed: the same seed gives the same draws, whatever ``n_jobs`` is.
    :param int n_jobs: processes over which chains are spread, by joblib, whose backends of
        processes send them to clusters too (-1 for as many as there are); other than 1, model and
        arguments must be such that joblib can send them.
    :param path: a folder, which all processes see, in which draws are kept as they are made, 100 a
        file at most, so that memory does not grow with them. The same call goes on where it was
        stopped, with more samples if wished (those that are there stay); a chain that was stopped
        in its warm-up begins anew.
    :param bool progress: show progress bars.
    :return: all draws; with ``path``, what reads them.
    :raises TypeError: if ``start``, ``kernel`` or a number is of the wrong kind.
    :raises RuntimeError: under a joblib backend of threads.
    :raises ValueError: if a number is out of range, ``start`` has not a value for each site, data
        or the log-density at the start are not finite, ``path`` holds another run's draws, or the
        model has no latent sites, no observations, another ``num_data`` than rows, or cannot run
        under an outer plate.
    """
    check_counts(1, num_samples=num_samples, num_chains=num_chains)
    check_counts(0, warmup_steps=warmup_steps, seed=seed)
    ascent_steps = resolve_ascent(ascent_steps, start, ASCENT_STEPS)
    check_jobs(n_jobs)
    if concentration is not None:
        positive("concentration", concentration)
    made = make_kernel(kernel, Potential(_flat))
    args = all_rows(model, args)
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
        planned, files = warmup_steps + num_samples, None
        if path is not None:
            settings: dict[str, Any] = {
                "seed": seed,
                "num_chains": num_chains,
                "warmup_steps": warmup_steps,
                "kernel": digest(f"{type(made).__name__} {kernel!r}"),
                "args": _digest_of(args),
                "concentration": concentration,
                "sites": {name: list(shape) for name, shape in density.shapes.items()},
                "planned": planned,
            }
            starts = {"position": position, "log_joint": value}
            name, settings = open_run(Path(path), settings, starts)
            files = functools.partial(ChainFiles, path, run=name)
            planned = settings["planned"]
        # Learned points are not part of the model; other processes have a store of their own.
        store = pyro.get_param_store().get_state() if n_jobs != 1 else None
        steps = (warmup_steps, num_samples)
        chain = Chain(model, args, kernel, steps, planned, files, progress, store, concentration)
        run = delayed(chain)
        # Started from the parent's random state, which the chains in this process change.
        found = Parallel(n_jobs=n_jobs)(
            run(number, seed, position[number]) for number, seed in enumerate(seeds)
        )
    if path is not None:
        return StoredDraws(path)
    return MCMCResult(
        {name: torch.stack([chain.samples[name] for chain in found]) for name in found[0].samples},
        **{name: torch.stack([chain.stats[name] for chain in found]) for name in found[0].stats},
        step_size=torch.tensor([chain.step_size for chain in found]),
        accept_prob=torch.tensor([chain.accept_prob for chain in found]),
    )


def check_jobs(n_jobs: int) -> None:
    """
    Refuse what is no number of processes.

    :raises TypeError: if it is no integer.
    :raises ValueError: if it is 0.
    """
    if not isinstance(n_jobs, int) or isinstance(n_jobs, bool):
        raise TypeError(f"n_jobs: expected an integer, got {n_jobs!r}")
    if n_jobs == 0:
        raise ValueError("n_jobs: expected a number of processes, or -1 for all, got 0")


def _digest_of(args: tuple[Any, ...]) -> str:
    tensors = list(tensors_in(args))
    others = [value for value in args if not list(tensors_in(value))]
    return digest(repr([[(t.dtype, tuple(t.shape)) for t in tensors], others]), tensors)


def _flat(position: Tensor) -> tuple[Tensor, Tensor]:
    """A density that is the same everywhere, to see whether a kernel can be made at all."""
    return position.new_zeros(len(position)), torch.zeros_like(position)
