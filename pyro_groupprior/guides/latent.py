# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What a guide knows of a model's latent sites, and the maps to its unconstrained space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import biject_to


@dataclass(frozen=True)
class LatentSite:
    """What a guide knows of one latent site of the model."""

    name: str
    support: constraints.Constraint
    event_dim: int  # of the value
    unconstrained_event_dim: int
    plates: tuple[tuple[str, int], ...]  # name and (negative) dim, outermost first

    @property
    def key(self) -> str:
        """The name in a form that torch takes for a parameter."""
        return self.name.replace(".", "/")

    @property
    def is_group_parameter(self) -> bool:
        """Whether it is the ``loc`` or ``scale`` of a group prior: one row for each group."""
        weights, _, parameter = self.name.rpartition("_")
        plates = [name for name, _ in self.plates]
        return parameter in ("loc", "scale") and f"{weights}_groups" in plates


def latent_site(name: str, node: Mapping[str, Any]) -> LatentSite:
    """
    Read a latent site off its node in a trace.

    :raises ValueError: if it is discrete, or local to a subsampled plate.
    """
    fn = node["fn"]
    support = fn.support
    if fn.has_enumerate_support or getattr(support, "is_discrete", False):
        raise ValueError(
            f"model: latent site {name!r} is discrete; marginalise it or use a guide for it"
        )
    frames = sorted(
        (frame for frame in node["cond_indep_stack"] if frame.vectorized),
        key=lambda frame: frame.dim,
    )
    for frame in frames:
        if frame.full_size is not None and frame.full_size != frame.size:
            raise ValueError(
                f"model: latent site {name!r} is local to the subsampled plate {frame.name!r}; "
                "this guide is for global latents"
            )
    event_dim = fn.event_dim
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if not (is_real(support) or is_positive(support)):
        support = fn.support
    shape = biject_to(support).inverse_shape(node["value"].shape)
    unconstrained = event_dim + len(shape) - node["value"].dim()
    plates = tuple((frame.name, frame.dim) for frame in frames)
    return LatentSite(name, support, event_dim, unconstrained, plates)


# By type, not by identity, which a copy of the guide would lose.
def is_real(support: constraints.Constraint) -> bool:
    """Whether the support is the whole line."""
    return type(support) is type(constraints.real)


def is_positive(support: constraints.Constraint) -> bool:
    """Whether the support is all positive numbers, zero or not."""
    kinds = (type(constraints.positive), type(constraints.nonnegative))
    return type(support) in kinds and support.lower_bound == 0


def unconstrained_start(support: constraints.Constraint, value: Tensor) -> Tensor:
    """
    Where a group parameter starts in the unconstrained space: at ``value``, or in the middle of
    its support where the value is outside or so near the edge that no gradient would move it.
    """
    start = biject_to(support).inv(value)
    usable = support.check(value) & start.isfinite()
    if not is_real(support):
        usable = usable & (start.abs() < 15)  # single precision ends at 1 - exp(-15.9)
    return torch.where(usable, start, 0.0)


def inverse_softplus(positive: Tensor) -> Tensor:
    """The number whose softplus is ``positive``, without overflow."""
    return positive + torch.log(-torch.expm1(-positive))
