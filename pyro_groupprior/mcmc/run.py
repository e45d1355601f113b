# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Chains of Gibbs within HMC, run and gathered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import MCMC, NUTS
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from sklearn.utils.parallel import Parallel, delayed
from torch import Tensor

from ..assignment import Assignment
from ..assignment_buffer import AssignmentBuffer
from ..svi.groups import GroupSite, find_groups
from ..svi.random_state import get_random_state, set_random_state
from .frame import check_counts
from .gibbs import GibbsGroups, positive
from .result import GibbsResult, collect_chains


def run_gibbs(
    model: Callable[..., Any],
    *args: Any,
    kernel: Callable[[Callable[..., Any]], MCMCKernel] | None = None,
    num_samples: int = 1000,
    warmup_steps: int = 500,
    num_chains: int = 1,
    seed: int = 0,
    concentration: float = 1.0,
    first: str | Mapping[str, Assignment] = "random",
    n_jobs: int = 1,
    progress: bool = True,
) -> GibbsResult:
    """
    Sample the assignments of a model along with all else, by :class:`GibbsGroups`: the reference
    for every faster way of grouping. For small models: a move costs some dozen runs of the model.

    The model keeps the grouping, and the process the random state, that they had before.

    Example::

        >>> groups = AssignmentBuffer(Assignment(torch.arange(4) % 2))
        >>> def model(y):
        ...     weights = group_prior("w", groups, scale=0.2)
        ...     pyro.sample("y", dist.Normal(weights, 0.1).to_event(1), obs=y)
        >>> y = torch.tensor([-1.0, -1.1, 1.0, 1.1])
        >>> result = run_gibbs(model, y, num_samples=50, warmup_steps=50, progress=False)
        >>> result.assignments["w"].shape
        torch.Size([1, 50, 4])
        >>> point = result.point_assignment("w")
        >>> point.num_groups
        2

    :param model: with :func:`~pyro_groupprior.group_prior` statements on an
        :class:`~pyro_groupprior.AssignmentBuffer`.
    :param args: what the model is run with.
    :param kernel: makes the kernel for all but the assignments from the model, such as
        ``functools.partial(pyro.infer.HMC, num_steps=10)``. Default: ``NUTS`` with trees of depth 4
        at most: the assignments change between moves, so that long ones are wasted.
    :param int num_samples: draws kept of each chain.
    :param int warmup_steps: moves before, in which the kernel adapts.
    :param int num_chains: how many chains, each with its own first values; at least 2, better 4,
        to see whether they agree (:attr:`GibbsResult.converged`).
    :param int seed: the same seed gives the same draws, whatever ``n_jobs`` is.
    :param float concentration: of the groups' proportions, see :class:`GibbsGroups`.
    :param first: ``"random"``: weights start in groups drawn at random; ``"present"``: as the model
        has them; or a grouping for each group prior by name, perhaps with more or fewer groups.
    :param int n_jobs: processes over which chains are spread; above 1, model and arguments must be
        such that joblib can send them.
    :param bool progress: show progress bars.
    :raises TypeError: if an argument is of the wrong kind.
    :raises ValueError: if an argument is out of range, or :class:`GibbsGroups` refuses the model.
    """
    check_counts(1, num_samples=num_samples, num_chains=num_chains)
    check_counts(0, warmup_steps=warmup_steps)
    positive("concentration", concentration)
    seeds = np.random.SeedSequence(seed).generate_state(num_chains).tolist()
    state, sites = get_random_state(), find_groups(model, *args)
    present = {name: site.assignment for name, site in sites.items()}
    # Learned points are not part of the model; other processes have a store of their own.
    store = pyro.get_param_store().get_state() if n_jobs != 1 else None
    chain = _Chain(
        model,
        args,
        partial(NUTS, max_tree_depth=4) if kernel is None else kernel,
        _first_groupings(first, present),
        concentration,
        (num_samples, warmup_steps),
        progress,
        store,
    )
    try:
        chains = Parallel(n_jobs=n_jobs)(delayed(chain)(seed) for seed in seeds)
    finally:
        for name, site in sites.items():
            if isinstance(site.source, AssignmentBuffer):
                site.source.assignment = present[name]
        set_random_state(*state)
    return collect_chains(chains, list(sites))


@dataclass(frozen=True)
class _Chain:
    """All that a chain needs but its seed; may be sent to another process."""

    model: Callable[..., Any]
    args: tuple[Any, ...]
    kernel: Callable[[Callable[..., Any]], MCMCKernel]
    first: Mapping[str, Assignment | int]
    concentration: float
    steps: tuple[int, int]
    progress: bool
    store: Any

    def __call__(self, seed: int) -> tuple[dict[str, Tensor], int]:
        """The chain's draws, each ``[1, draws, ...]``, and the number of its divergent moves."""
        if self.store is not None:
            pyro.get_param_store().set_state(self.store)
        pyro.set_rng_seed(seed)
        num_samples, warmup_steps = self.steps
        for site in find_groups(self.model, *self.args).values():
            if isinstance(site.source, AssignmentBuffer):  # the kernel refuses others
                site.source.assignment = self._first_grouping(site)
        divergences: list[int] = []

        def count_divergences(kernel: MCMCKernel, params: Any, stage: str, i: int) -> None:
            # Before the first draw the kernel's rate of acceptance would divide by zero.
            if stage.startswith("Sample") and i == num_samples - 1:
                divergences.extend(kernel.diagnostics().get("divergences", ()))

        mcmc = MCMC(
            GibbsGroups(self.kernel(self.model), self.concentration),
            num_samples,
            warmup_steps,
            hook_fn=count_divergences,
            disable_progbar=not self.progress,
        )
        mcmc.run(*self.args)
        return mcmc.get_samples(group_by_chain=True), len(divergences)

    def _first_grouping(self, site: GroupSite) -> Assignment:
        first = self.first[site.name]
        if isinstance(first, Assignment):
            return first
        index = torch.randint(first, (site.assignment.num_weights,), device=site.assignment.device)
        return Assignment(index, first)


def _first_groupings(
    first: str | Mapping[str, Assignment], present: Mapping[str, Assignment]
) -> dict[str, Assignment | int]:
    """By group prior: a grouping, or the number of groups of a random one."""
    if isinstance(first, str):
        if first not in ("random", "present"):
            raise ValueError(f"first: expected 'random', 'present' or groupings, got {first!r}")
        return {name: a.num_groups if first == "random" else a for name, a in present.items()}
    if not isinstance(first, Mapping):
        raise TypeError(f"first: expected a name or a mapping, got {type(first).__name__}")
    if set(first) != set(present):
        raise ValueError(
            f"first: expected a grouping for each of {sorted(present)}, got {sorted(first)}"
        )
    for name, assignment in first.items():
        if not isinstance(assignment, Assignment):
            raise TypeError(
                f"first[{name!r}]: expected an Assignment, got {type(assignment).__name__}"
            )
        if assignment.num_weights != present[name].num_weights:
            raise ValueError(
                f"first[{name!r}]: expected one for {present[name].num_weights} weights, got one "
                f"for {assignment.num_weights}"
            )
    return dict(first)
