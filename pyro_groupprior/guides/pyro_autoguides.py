# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Pyro's own autoguides: posterior moments, draws, and what to do with them at a regroup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import (
    AutoContinuous,
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuide,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn
from torch.distributions import biject_to

from .base import ParameterMove, SiteGuide
from .latent import unconstrained_start

_POINTS = (AutoDelta, AutoLaplaceApproximation)
_NORMAL = (AutoDiagonalNormal, AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoNormal)
RESIZABLE = _POINTS + _NORMAL  # those that :func:`carry_over` knows

# The levels one standard deviation below and above the median of a normal.
_ONE_SD = (0.15865525393145707, 0.5, 0.8413447460685429)


@torch.no_grad()
def posterior_moments(guide: Any, name: str, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """
    Posterior mean and standard deviation of a real-valued site's elements, from any guide:
    exactly for normal ones and points, by 100 draws for all others.

    :param str name: the site.
    :param args: arguments of the model, which some guides need.
    """
    if isinstance(guide, SiteGuide):
        return guide.moments(name)
    if isinstance(guide, _POINTS):
        median = posterior_medians(guide, *args, **kwargs)[name]
        return median, torch.zeros_like(median)
    if isinstance(guide, _NORMAL):
        low, median, high = guide.quantiles(_ONE_SD, *args, **kwargs)[name]
        return median, (high - low) / 2
    values = posterior_draws(guide, 100, *args, **kwargs)[name]
    return values.mean(0), values.std(0)


@torch.no_grad()
def posterior_medians(guide: Any, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    """
    Posterior medians by site, from any guide: exactly for normal ones and points, by 100 draws for
    all others.

    :param args: arguments of the model, which some guides need.
    """
    if isinstance(guide, (SiteGuide, *_NORMAL)):
        return dict(guide.median(*args, **kwargs))
    if isinstance(guide, _POINTS):
        with poutine.block():
            values = guide(*args, **kwargs)
        return {name: value.detach().clone() for name, value in values.items()}
    draws = posterior_draws(guide, 100, *args, **kwargs)
    return {name: value.median(0).values for name, value in draws.items()}


@torch.no_grad()
def posterior_quantiles(
    guide: Any, names: Sequence[str], *args: Any, **kwargs: Any
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """
    Posterior medians of some sites between their quantiles one standard deviation of a normal
    below and above, from any guide: by 100 draws where it is neither normal nor a point. Sites
    that are not the guide's are left out.

    :param names: the sites.
    :param args: arguments of the model, which some guides need.
    """
    if isinstance(guide, SiteGuide):
        found: dict[str, Any] = {}
        for site in guide.sites:
            if site.name in names:
                loc, sd = guide.marginals(site)
                values = torch.stack([loc - sd, loc, loc + sd])
                found[site.name] = biject_to(site.support)(values)
    elif isinstance(guide, _POINTS):
        medians = posterior_medians(guide, *args, **kwargs)
        found = {name: (value,) * 3 for name, value in medians.items()}
    elif isinstance(guide, _NORMAL):
        found = guide.quantiles(_ONE_SD, *args, **kwargs)
    else:
        levels = torch.tensor(_ONE_SD)
        draws = posterior_draws(guide, 100, *args, **kwargs)
        found = {
            name: draws[name].quantile(levels.to(draws[name]), 0) for name in names if name in draws
        }
    return {name: tuple(found[name]) for name in names if name in found}


@torch.no_grad()
def posterior_draws(guide: Any, num_draws: int, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    """
    Independent draws of all latent sites of any guide, each of shape ``[num_draws, *site]``;
    auxiliary sites, which are no latents of the model, are left out.

    :param args: arguments of the model, which the guide is called with.
    """
    if isinstance(guide, SiteGuide):
        if not guide.is_set_up:
            guide.setup(*args, **kwargs)
        return guide.draws(num_draws)
    draws: dict[str, Tensor] = {}
    for number in range(num_draws):
        # One trace at a time: Pyro's Predictive keeps them all, with their auxiliary values.
        with poutine.block():
            trace = poutine.trace(guide).get_trace(*args, **kwargs)
        for name, node in prune_subsample_sites(trace).iter_stochastic_nodes():
            if not node["infer"].get("is_auxiliary"):
                value = node["value"].detach()
                if not number:
                    draws[name] = value.new_empty((num_draws, *value.shape))
                draws[name][number] = value
    return draws


@torch.no_grad()
def carry_over(
    old: AutoGuide, new: AutoGuide, name: str, source: Tensor, first: Mapping[str, Tensor]
) -> list[ParameterMove]:
    """
    Copy the parameters of one of Pyro's autoguides into one of the same kind that was set up for
    another number of groups of the weights ``name``. New groups start at ``first``, with the
    spread that ``new`` has.

    :param Tensor source: shape ``[G_new]``: the old group that each new one continues, or -1.
    :param first: start values, shape ``[G_new]``, by site name, for the groups that are new.
    :return: what moved where, for the optimizer's state to follow.
    :raises TypeError: if the guides are of different kinds.
    """
    if type(old) is not type(new):
        raise TypeError(f"new: expected a {type(old).__name__}, got {type(new).__name__}")
    latents = dict(new.prototype_trace.iter_stochastic_nodes())
    starts = {
        site: unconstrained_start(latents[site]["fn"].support, value)
        for site, value in first.items()
        if site in latents
    }
    if isinstance(old, AutoContinuous) and isinstance(new, AutoContinuous):
        return _carry_flat(old, new, source, starts)
    before, moves = dict(old.named_parameters()), []
    for path, parameter in new.named_parameters():
        site = _ends_in(path.removesuffix("_unconstrained"), starts)
        rows = torch.arange(parameter.shape[0] if parameter.dim() else 0)
        if site is not None:
            rows = source
            if not path.startswith("scales."):
                parameter.copy_(starts[site])
        moves.append(_move(before[path], parameter, rows))
    return moves


def _ends_in(path: str, sites: Mapping[str, Tensor]) -> str | None:
    return next((site for site in sites if f".{path}".endswith(f".{site}")), None)


def _move(old: nn.Parameter, new: nn.Parameter, source: Tensor) -> ParameterMove:
    with torch.no_grad():
        if new.dim() == 0:
            new.copy_(old)
        else:
            kept = source >= 0
            new[kept] = old[source[kept]]
    return ParameterMove(old, new, source)


def _carry_flat(
    old: AutoContinuous, new: AutoContinuous, source: Tensor, starts: Mapping[str, Tensor]
) -> list[ParameterMove]:
    """For guides with one vector of all latents; the group parameters are stretches of it."""
    offsets, position = {}, 0
    for site, node in old.prototype_trace.iter_stochastic_nodes():
        offsets[site] = position
        position += _unconstrained(node).numel()
    pieces = []
    for site, node in new.prototype_trace.iter_stochastic_nodes():
        rows = source if site in starts else torch.arange(_unconstrained(node).numel())
        pieces.append(torch.where(rows < 0, rows, rows + offsets[site]))
    rows, position = torch.cat(pieces), 0
    for (site, _), piece in zip(new.prototype_trace.iter_stochastic_nodes(), pieces):
        if site in starts:
            new.loc[position : position + len(piece)] = starts[site]
        position += len(piece)
    if isinstance(old, AutoMultivariateNormal) and isinstance(new, AutoMultivariateNormal):
        return _carry_multivariate(old, new, rows)
    before = dict(old.named_parameters())
    return [_move(before[path], parameter, rows) for path, parameter in new.named_parameters()]


def _unconstrained(node: Any) -> Tensor:
    return biject_to(node["fn"].support).inv(node["value"])


def _carry_multivariate(
    old: AutoMultivariateNormal, new: AutoMultivariateNormal, source: Tensor
) -> list[ParameterMove]:
    """Marginal covariance of what stays, independent start values for what is new."""
    kept = (source >= 0).nonzero().squeeze(-1)
    from_old = source[kept]
    covariance = torch.diag(new.scale.square())
    tril = old.scale.unsqueeze(-1) * old.scale_tril
    covariance[kept.unsqueeze(-1), kept] = (tril @ tril.T)[from_old.unsqueeze(-1), from_old]
    # Row-major as all else, or a run resumed from a file would round differently.
    cholesky = torch.linalg.cholesky(covariance).contiguous()
    scale = cholesky.diagonal().clone()
    new.scale, new.scale_tril = scale, cholesky / scale.unsqueeze(-1)
    # The factor's rows mix, so its optimizer state starts anew; the mean's follows.
    before, anew = dict(old.named_parameters()), torch.full_like(source, -1)
    return [
        _move(old.loc, parameter, source)
        if path == "loc"
        else ParameterMove(before[path], parameter, anew)
        for path, parameter in new.named_parameters()
    ]
