# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Pyro's own autoguides: posterior moments, draws, and what to do with them at a regroup."""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer import Predictive
from pyro.infer.autoguide import AutoGuide, AutoMultivariateNormal
from torch import Tensor, nn
from torch.distributions import biject_to

from .base import ParameterMove, SiteGuide

# The levels one standard deviation below and above the median of a normal.
_ONE_SD = (0.15865525393145707, 0.5, 0.8413447460685429)


@torch.no_grad()
def posterior_moments(guide: Any, name: str, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """
    Posterior mean and standard deviation of a real-valued site's elements, from any guide:
    exactly for normal ones, by 100 draws for a guide that is no autoguide.

    :param str name: the site.
    :param args: arguments of the model, which some guides need.
    """
    if isinstance(guide, SiteGuide):
        return guide.moments(name)
    if isinstance(guide, AutoGuide):
        try:
            low, median, high = guide.quantiles(_ONE_SD, *args, **kwargs)[name]
            return median, (high - low) / 2
        except (AttributeError, NotImplementedError):  # guides of points have no quantiles
            median = guide.median(*args, **kwargs)[name]
            return median, torch.zeros_like(median)
    values = posterior_draws(guide, 100, *args, **kwargs)[name]
    return values.mean(0), values.std(0)


@torch.no_grad()
def posterior_draws(guide: Any, num_draws: int, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    """
    Independent draws of all sites of any guide, each of shape ``[num_draws, *site]``.

    :param args: arguments of the model, which the guide is called with.
    """
    if isinstance(guide, SiteGuide):
        if not guide.is_set_up:
            guide.setup(*args, **kwargs)
        return guide.draws(num_draws)
    draws = Predictive(guide, num_samples=num_draws)(*args, **kwargs)
    return {name: value.detach() for name, value in draws.items()}


def carry_over(old: AutoGuide, new: AutoGuide, name: str, source: Tensor) -> list[ParameterMove]:
    """
    Copy the parameters of one of Pyro's autoguides into one of the same kind that was set up for
    another number of groups of the weights ``name``. New groups keep ``new``'s start values.

    :param Tensor source: shape ``[G_new]``: the old group that each new one continues, or -1.
    :return: what moved where, for the optimizer's state to follow.
    :raises TypeError: if the guides are of different kinds.
    """
    if type(old) is not type(new):
        raise TypeError(f"new: expected a {type(old).__name__}, got {type(new).__name__}")
    if isinstance(old, AutoMultivariateNormal) and isinstance(new, AutoMultivariateNormal):
        return _carry_multivariate(old, new, _flat_source(old, new, name, source))
    before, moves = dict(old.named_parameters()), []
    flat = None
    for path, parameter in new.named_parameters():
        rows = torch.arange(parameter.shape[0] if parameter.dim() else 0)
        if path.startswith(("loc", "scale", "cov_factor")) and "." not in path:
            # One vector of all latents; the groups' parameters are some stretches of it.
            flat = _flat_source(old, new, name, source) if flat is None else flat
            rows = flat
        elif path.split(".")[-1].removesuffix("_unconstrained") in (f"{name}_loc", f"{name}_scale"):
            rows = source
        moves.append(_move(before[path], parameter, rows))
    return moves


def _move(old: nn.Parameter, new: nn.Parameter, source: Tensor) -> ParameterMove:
    with torch.no_grad():
        if new.dim() == 0:
            new.copy_(old)
        else:
            kept = source >= 0
            new[kept] = old[source[kept]]
    return ParameterMove(old, new, source)


def _flat_source(old: AutoGuide, new: AutoGuide, name: str, source: Tensor) -> Tensor:
    """For each element of the new vector of latents, its place in the old one, or -1."""
    offsets, position = {}, 0
    for site, node in old.prototype_trace.iter_stochastic_nodes():
        offsets[site] = position
        position += _unconstrained(node).numel()
    pieces = []
    for site, node in new.prototype_trace.iter_stochastic_nodes():
        rows = torch.arange(_unconstrained(node).numel())
        if site in (f"{name}_loc", f"{name}_scale"):
            rows = source
        pieces.append(torch.where(rows < 0, rows, rows + offsets[site]))
    return torch.cat(pieces)


def _unconstrained(node: Any) -> Tensor:
    return biject_to(node["fn"].support).inv(node["value"])


@torch.no_grad()
def _carry_multivariate(
    old: AutoMultivariateNormal, new: AutoMultivariateNormal, source: Tensor
) -> list[ParameterMove]:
    """Marginal covariance of what stays, independent start values for what is new."""
    kept = (source >= 0).nonzero().squeeze(-1)
    from_old = source[kept]
    covariance = torch.diag(new.scale.square())
    tril = old.scale.unsqueeze(-1) * old.scale_tril
    covariance[kept.unsqueeze(-1), kept] = (tril @ tril.T)[from_old.unsqueeze(-1), from_old]
    cholesky = torch.linalg.cholesky(covariance)
    scale = cholesky.diagonal().clone()
    new.scale, new.scale_tril = scale, cholesky / scale.unsqueeze(-1)
    # The factor's rows mix, so its optimizer state starts anew; the mean's follows.
    return [_move(old.loc, new.loc, source)]
