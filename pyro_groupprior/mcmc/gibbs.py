# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Gibbs within HMC: assignments drawn from their exact conditionals between moves of HMC."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor

from ..assignment import Assignment
from ..assignment_buffer import AssignmentBuffer
from ..families import weight_loc_scale
from ..svi.groups import GroupSite, find_groups
from .result import LOG_JOINT


class GibbsGroups(MCMCKernel):
    r"""
    Alternates one move of HMC on everything continuous with a draw of the assignments, for models
    with :func:`~pyro_groupprior.group_prior` statements on an
    :class:`~pyro_groupprior.AssignmentBuffer`. The groups are then part of the posterior:

    .. math:: \pi \sim Dirichlet(c, \dots, c), \quad z_i \sim Categorical(\pi), \quad
        w_i \sim family(b_i loc_{z_i}, b_i scale_{z_i}).

    After a move of the wrapped kernel, :math:`\pi` is drawn from
    :math:`Dirichlet(c + sizes)` and every :math:`z_i` from a categorical with logits
    :math:`\log \pi_g + \log p(w_i \mid b_i loc_g, b_i scale_g)`. All conditionals are exact, so
    the chain's limit is the exact posterior. (Neal 2011, "MCMC using Hamiltonian dynamics",
    section 5.5.1, on mixing HMC with other updates.)

    It is a Pyro kernel for :class:`~pyro.infer.MCMC`; the draws then hold, beside the latent sites,
    ``{name}_assignment`` (group indices as floating-point numbers, since ``MCMC`` keeps all sites
    in one tensor), ``{name}_proportions`` (:math:`\pi`) and ``log_joint``. :func:`run_gibbs` is
    the easier way.

    Example::

        >>> groups = AssignmentBuffer(Assignment(torch.arange(4) % 2))
        >>> def model(y):
        ...     weights = group_prior("w", groups)
        ...     pyro.sample("y", dist.Normal(weights, 0.1).to_event(1), obs=y)
        >>> kernel = GibbsGroups(pyro.infer.NUTS(model))
        >>> mcmc = pyro.infer.MCMC(kernel, num_samples=5, warmup_steps=5, disable_progbar=True)
        >>> mcmc.run(torch.tensor([-1.0, -1.1, 1.0, 1.1]))
        >>> mcmc.get_samples()["w_assignment"].shape
        torch.Size([5, 4])

    :param kernel: Pyro's ``HMC(model, ...)`` or ``NUTS(model, ...)``, not compiled by ``jit``.
    :param float concentration: ``c`` above, positive. 1: all proportions are equally likely; one
        over the number of groups, or less: groups that are not needed stay empty (Rousseau and
        Mengersen 2011, "Asymptotic behaviour of the posterior distribution in overfitted mixture
        models").
    :raises TypeError: if ``kernel`` is no kernel.
    :raises ValueError: if the kernel has no model or the concentration is not positive; in
        :meth:`setup`, if the model has no group prior whose assignment can be drawn exactly.
    """

    def __init__(self, kernel: MCMCKernel, concentration: float = 1.0) -> None:
        if not isinstance(kernel, MCMCKernel):
            raise TypeError(f"kernel: expected HMC(model) or NUTS(model), got {kernel!r}")
        if getattr(kernel, "model", None) is None or not hasattr(kernel, "clear_cache"):
            raise ValueError(
                f"kernel: expected HMC(model) or NUTS(model), got a {type(kernel).__name__} "
                "without a model"
            )
        self.kernel, self.concentration = kernel, positive("concentration", concentration)
        self._sites: dict[str, GroupSite] = {}
        self._before: list[tuple[AssignmentBuffer, Assignment]] = []
        self._recorded: dict[str, Tensor] = {}
        super().__init__()

    @property
    def model(self) -> Callable[..., Any]:
        """The model of the wrapped kernel."""
        return self.kernel.model

    @property
    def transforms(self) -> dict[str, Any] | None:
        """Of the wrapped kernel: from each latent site's support to the reals."""
        return self.kernel.transforms

    @property
    def initial_params(self) -> dict[str, Tensor]:
        """Those of the wrapped kernel, with what is recorded of the first grouping."""
        return {**self.kernel.initial_params, **self._recorded}

    @initial_params.setter
    def initial_params(self, params: dict[str, Tensor]) -> None:
        self.kernel.initial_params = params

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Start from the grouping that the model holds, a soft one made hard."""
        self._args, self._kwargs = args, kwargs
        self._sites = find_groups(self.model, *args, **kwargs)
        if not self._sites:
            raise ValueError("model: expected a group_prior statement, found none")
        for site in self._sites.values():
            site.check_regroupable()
        self._before = [(buffer, buffer.assignment) for buffer in self._buffers()]
        try:
            for buffer, assignment in self._before:
                buffer.assignment = assignment.hard()
            self.kernel.setup(warmup_steps, *args, **kwargs)
            latents = {k: v.detach() for k, v in self.kernel.initial_params.items()}
            self._check_conditionals(latents)
            self._recorded = self._record(latents, dict.fromkeys(self._sites))
        except BaseException:
            self._restore()
            raise
        taken = sorted(set(self._recorded) & set(latents))
        if taken:
            self._restore()
            raise ValueError(f"model: expected no sites named {taken}: draws are kept under them")

    def cleanup(self) -> None:
        """Leave the model with the grouping that it had before :meth:`setup`."""
        self.kernel.cleanup()
        self._restore()

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """One move of the wrapped kernel, then one of the assignments."""
        latents = {name: v for name, v in params.items() if name not in self._recorded}
        latents = self.kernel.sample(latents)
        proportions = self._draw_assignments(latents)
        # Energy and gradient at this point were those under the former grouping.
        self.kernel.clear_cache()
        return {**latents, **self._record(latents, proportions)}

    def logging(self) -> dict[str, str] | None:
        """What the wrapped kernel shows beside the progress bar."""
        return self.kernel.logging()

    def diagnostics(self) -> dict[str, Any]:
        """Those of the wrapped kernel."""
        return self.kernel.diagnostics()

    def _buffers(self) -> list[AssignmentBuffer]:
        sources = {id(site.source): site.source for site in self._sites.values()}
        return [source for source in sources.values() if isinstance(source, AssignmentBuffer)]

    def _restore(self) -> None:
        for buffer, assignment in self._before:
            buffer.assignment = assignment
        self._before = []

    @torch.no_grad()
    def _densities(self, latents: Mapping[str, Tensor]) -> dict[int, Tensor]:
        """For each buffer: the log densities of its weights under each group, ``[G, W]``."""
        values = {name: self.transforms[name].inv(v) for name, v in latents.items()}  # type: ignore[index]
        with poutine.block():
            trace = poutine.trace(poutine.condition(self.model, values)).get_trace(
                *self._args, **self._kwargs
            )
        present = {name: site.assignment for name, site in self._sites.items()}
        return group_tables(self._sites, trace, present)

    @torch.no_grad()
    def _draw_assignments(self, latents: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
        """Write new groupings to the buffers; the proportions by the name of the group prior."""
        tables, drawn = self._densities(latents), {}
        for buffer in self._buffers():
            counts = buffer.assignment.sizes()
            index, proportions = draw_groups(tables[id(buffer)], counts, self.concentration)
            buffer.assignment = Assignment.trusted(index.int(), len(counts), None)
            drawn[id(buffer)] = proportions
        return {name: drawn[id(site.source)] for name, site in self._sites.items()}

    @torch.no_grad()
    def _record(
        self, latents: Mapping[str, Tensor], proportions: Mapping[str, Tensor | None]
    ) -> dict[str, Tensor]:
        """What is kept of a draw beside the latent sites, all floating-point."""
        energy, recorded = self.kernel.potential_fn(dict(latents)), {}
        log_joint = -energy.double()
        for buffer in self._buffers():
            log_joint += log_partition_prior(buffer.assignment.sizes(), self.concentration)
        for name, site in self._sites.items():
            shares, sizes = proportions[name], site.assignment.sizes()
            shares = sizes / sizes.sum() if shares is None else shares
            recorded[f"{name}_assignment"] = site.assignment.index.to(energy.dtype)
            recorded[f"{name}_proportions"] = shares.to(energy.dtype)
        return {**recorded, LOG_JOINT: log_joint.to(energy.dtype)}

    @torch.no_grad()
    def _check_conditionals(self, latents: dict[str, Tensor]) -> None:
        """
        Draw an assignment and see whether the wrapped kernel's energy changes as it should: not so
        under ``jit``, which froze the first one, in a model that is random in itself, or in one
        that reads the grouping elsewhere too. Leaves the groupings as they were.
        """
        present = {buffer: buffer.assignment for buffer in self._buffers()}
        tables = self._densities(latents)
        before, expected = float(self.kernel.potential_fn(dict(latents))), 0.0
        for buffer, assignment in present.items():
            index = torch.randint_like(assignment.index, assignment.num_groups)
            buffer.assignment = Assignment.trusted(index, assignment.num_groups, None)
            table = tables[id(buffer)]
            for sign, groups in ((1, assignment.index), (-1, index)):
                expected += sign * float(table.gather(0, groups.long()[None]).sum())
        after = float(self.kernel.potential_fn(dict(latents)))
        for buffer, assignment in present.items():
            buffer.assignment = assignment
        if abs(after - before - expected) > 1e-3 + 1e-5 * (abs(before) + abs(after)):
            raise ValueError(
                "kernel: expected a density that depends on the assignment through the group prior "
                f"alone (a change of {-expected:.6g}), got a change of {before - after:.6g}; use "
                "no jit_compile, and a model that is not random given its latent sites"
            )


def positive(argument: str, value: float) -> float:
    """
    :raises ValueError: if ``value`` is not finite and positive.
    """
    if not 0 < value < math.inf:
        raise ValueError(f"{argument}: expected a finite positive number, got {value}")
    return float(value)


def log_partition_prior(sizes: Tensor, concentration: float) -> Tensor:
    r"""
    Log probability of a labelled assignment with these group sizes, the proportions integrated out:
    :math:`\log \Gamma(Gc) - \log \Gamma(Gc + W) + \sum_g [\log \Gamma(c + n_g) - \log \Gamma(c)]`.

    Example::

        >>> from pyro_groupprior.mcmc.gibbs import log_partition_prior
        >>> log_partition_prior(torch.tensor([1.0, 0.0]), 1.0).exp()
        tensor(0.5000)

    :param Tensor sizes: shape ``[..., G]``, floating-point.
    :param float concentration: of the symmetric Dirichlet prior, positive.
    :return: shape ``[...]``.
    """
    total = sizes.shape[-1] * concentration
    each = (sizes + concentration).lgamma() - math.lgamma(concentration)
    return each.sum(-1) + math.lgamma(total) - (sizes.sum(-1) + total).lgamma()


def group_tables(
    sites: Mapping[str, GroupSite], trace: Any, present: Mapping[str, Assignment]
) -> dict[int, Tensor]:
    """
    The log densities of weights under each group, ``[G, W]``, by the identity of the grouping,
    which several group priors may share.

    :param sites: the group priors, by name.
    :param trace: of the model, at the weights' values.
    :param present: the groupings that it ran with, by group prior.
    """
    tables: dict[int, Tensor] = {}
    for name, site in sites.items():
        table, key = _log_densities(site, trace, present[name]), id(site.source)
        tables[key] = tables[key] + table if key in tables else table
    return tables


def draw_groups(table: Tensor, sizes: Tensor, concentration: float) -> tuple[Tensor, Tensor]:
    """
    Draw proportions, and then a group for each weight.

    :param Tensor table: the weights' log densities under each group, ``[G, W]``.
    :param Tensor sizes: of the present groups, ``[G]``.
    :param float concentration: of the symmetric Dirichlet prior.
    :return: indices ``[W]`` and proportions ``[G]``.
    """
    proportions = torch.distributions.Dirichlet(sizes + concentration).sample()
    # A proportion that has underflowed must not make 0 times infinity.
    logits = table.T + proportions.clamp(min=1e-300).log()
    return torch.distributions.Categorical(logits=logits).sample(), proportions


def _log_densities(site: GroupSite, trace: Any, assignment: Assignment) -> Tensor:
    """
    The log density of every weight under every group, shape ``[G, W]``. The prior that the trace
    holds is a location-scale family, so that moving a weight in it gives its density in another
    group, whatever the family; in double precision, where that cancels nothing.
    """
    node = trace.nodes[site.name]
    loc, scale = (trace.nodes[f"{site.name}_{kind}"]["value"] for kind in ("loc", "scale"))
    if node["value"].shape != (assignment.num_weights,) or loc.dim() > 1 or scale.dim() > 1:
        raise ValueError(
            f"{site.name}: expected weights of shape [{assignment.num_weights}], got "
            f"{tuple(node['value'].shape)}; outer plates are not supported"
        )
    prior = node["fn"].base_dist
    members = weight_loc_scale(assignment, loc, scale, site.base_scale)
    present_loc, present_scale = (value.double() for value in members)
    weights = node["value"].double()
    base = torch.as_tensor(site.base_scale).to(weights)
    scales = base * scale.double().unsqueeze(-1)
    standard = (weights - base * loc.double().unsqueeze(-1)) / scales
    density = prior.log_prob(present_loc + present_scale * standard)
    return density + present_scale.log() - scales.log()
