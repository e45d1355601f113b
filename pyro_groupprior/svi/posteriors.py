# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What a posterior says about grouped weights, from any guide or from MCMC draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.infer.autoguide import AutoLaplaceApproximation, AutoMultivariateNormal
from torch import Tensor

from ..guides import posterior_draws, posterior_moments, posterior_quantiles
from ..regrouping import WeightPosterior
from .groups import GroupSite, find_groups
from .parameters import quiet

MAX_LAPLACE = 5000  # weights; the Hessian has their square of entries


def weight_posteriors(
    model: Callable[..., Any], guide: Any, *args: Any, **kwargs: Any
) -> dict[str, WeightPosterior]:
    """
    Posterior statistics of every group prior's weights, and the priors that they had, so that
    :meth:`WeightPosterior.evidence` can take these out.

    Example::

        >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal())
        >>> data = torch.zeros(3, 2), torch.zeros(3, 1)
        >>> guide = AutoMeanField(model)
        >>> guide.setup(*data)
        >>> weight_posteriors(model, guide, *data)["weights"].evidence().noise.shape
        torch.Size([3])

    :param callable model: a Pyro model.
    :param guide: its guide, trained: one of this package's or any of Pyro's autoguides
        (normal ones exactly; AutoLaplaceApproximation by its Hessian, so give it all the data;
        others by 100 draws); or posterior draws from MCMC by site name, as
        ``MCMC.get_samples()`` gives them, each of shape ``[S, ...]``.
    :param args: arguments of the model.
    :raises ValueError: if the model states no group prior, the draws lack a site, or a Hessian
        would be too large.
    """
    with quiet(model):
        sites = find_groups(model, *args, **kwargs)
    if not sites:
        raise ValueError("model: it states no group_prior")
    if isinstance(guide, Mapping):
        return {name: _from_draws(site, guide) for name, site in sites.items()}
    largest = max(site.assignment.num_weights for site in sites.values())
    if isinstance(guide, AutoLaplaceApproximation):
        if largest > MAX_LAPLACE:
            raise ValueError(
                f"guide: the Hessian over {largest} weights is too large; expected at most "
                f"{MAX_LAPLACE}"
            )
        guide = laplace(model, guide, *args, **kwargs)
        if guide is None:
            raise ValueError("guide: its Hessian is not positive definite; it has no mode there")
    return {name: posterior_of(model, guide, site, *args, **kwargs) for name, site in sites.items()}


@torch.no_grad()
def posterior_of(
    model: Callable[..., Any],
    guide: Any,
    site: GroupSite,
    *args: Any,
    trajectory: Tensor | None = None,
    phase: int = 0,
    **kwargs: Any,
) -> WeightPosterior:
    """
    Posterior statistics of one group prior's weights.

    :param trajectory: snapshots of the posterior means, shape ``[T, W]``.
    :param int phase: the number of regroups so far.
    """
    if isinstance(guide, AutoLaplaceApproximation) and site.assignment.num_weights <= MAX_LAPLACE:
        # Away from a mode it has no deviations yet: it stays the point that it is.
        guide = laplace(model, guide, *args, **kwargs) or guide
    mean, sd = posterior_moments(guide, site.name, *args, **kwargs)
    group_loc, group_scale = effective_prior(model, guide, site, *args, **kwargs)

    def draw(num_draws: int) -> Tensor:
        return posterior_draws(guide, num_draws, *args, **kwargs)[site.name]

    return site.posterior(
        mean, sd, group_loc, group_scale, trajectory=trajectory, draw=draw, phase=phase
    )


def laplace(
    model: Callable[..., Any], guide: AutoLaplaceApproximation, *args: Any, **kwargs: Any
) -> AutoMultivariateNormal | None:
    """The normal approximation at a mode; None where the Hessian is not positive definite."""
    with quiet(model), torch.enable_grad():
        try:
            return guide.laplace_approximation(*args, **kwargs)
        except torch.linalg.LinAlgError:
            return None


def effective_prior(
    model: Callable[..., Any], guide: Any, site: GroupSite, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """
    The normal prior that a group's weights see on average over the posterior of its parameters:
    the mean of ``loc``, and the root of the harmonic mean of ``scale^2``, as it is the precision
    that enters the weights' posterior. Shape ``[G]`` both.
    """
    names = (f"{site.name}_loc", f"{site.name}_scale")
    found = posterior_quantiles(guide, names, *args, **kwargs)
    missing = [name for name in names if name not in found]
    if missing:
        # Fixed or learned points are no latent sites: the model itself knows them.
        found |= site.point_parameters(model, missing, *args, **kwargs)
    num_groups = site.assignment.num_groups
    loc = found[names[0]][1]
    low, middle, high = found[names[1]]
    # Log-normal to second order: E[scale^-2] = median^-2 exp(2 s^2), s the deviation of its log.
    spread = (high / low).log() / 2
    return loc.expand(num_groups), (middle * (-spread.square()).exp()).expand(num_groups)


def _from_draws(site: GroupSite, draws: Mapping[str, Tensor]) -> WeightPosterior:
    names = (f"{site.name}_loc", f"{site.name}_scale", site.name)
    missing = [name for name in names if name not in draws]
    if missing:
        raise ValueError(f"guide: posterior draws of {missing} are missing; there are {[*draws]}")
    num_groups, num_weights = site.assignment.num_groups, site.assignment.num_weights
    loc, scale = (draws[name].reshape(-1, num_groups) for name in names[:2])
    weights = draws[site.name].reshape(-1, num_weights)
    if len(weights) < 2:
        raise ValueError(f"guide: expected at least 2 draws of {site.name!r}, got {len(weights)}")
    precision = scale.square().reciprocal()
    mean_precision = precision.mean(0)
    group_loc = (loc * precision).mean(0) / mean_precision
    moments = weights.mean(0), weights.std(0), group_loc, mean_precision.rsqrt()
    return site.posterior(*moments, trajectory=None, draw=lambda n: weights[-n:], phase=0)
