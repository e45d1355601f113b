# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A model's packed weights, and their prior, from draws by site."""

from __future__ import annotations

from collections.abc import Mapping

import pyro
from pyro.distributions import constraints
from torch import Tensor

from .families import weight_loc_scale
from .hyperpriors import Learned, sample_hyper
from .nn import BayesianModule


def weight_site_names(model: BayesianModule) -> list[str]:
    """Sites that the weights may be made of."""
    return [model.site + ending for ending in ("", "_decentered", "_loc", "_scale")]


def weight_sites(model: BayesianModule, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """
    Views of what the weights are made of, with one dimension for the draws: the weights
    themselves, or standardised ones and their groups' parameters.

    :raises ValueError: if there are neither, or a shape does not fit.
    """
    weights, noise, *hyper = weight_site_names(model)
    num_weights = model.layout.num_weights
    if weights in draws:
        return {weights: flat_draws(draws, weights, num_weights)}
    if noise not in draws:
        raise ValueError(f"posterior: expected draws of {weights!r}, got those of {sorted(draws)}")
    groups = model.assignment.num_groups
    found = {name: flat_draws(draws, name, groups) for name in hyper if name in draws}
    return {noise: flat_draws(draws, noise, num_weights), **found}


def packed_weights(model: BayesianModule, draws: Mapping[str, Tensor]) -> Tensor:
    """
    Draws of the packed weights, shape ``[S, W]``; worked out from standardised ones where the
    model is not centered.

    :param draws: by site, ``[S, ...]`` or ``[chains, S, ...]``.
    :raises ValueError: if they are missing, or a shape does not fit.
    """
    found = weight_sites(model, draws)
    if model.site in found:
        return found[model.site]
    noise = found[f"{model.site}_decentered"]
    loc, scale = prior_of_weights(model, draws, noise)
    return loc + scale * noise


def prior_of_weights(
    model: BayesianModule, draws: Mapping[str, Tensor], like: Tensor
) -> tuple[Tensor, Tensor]:
    """
    Location and scale of every weight's prior given its group's, shape ``[S, W]``, or ``[W]``
    where these are no sample sites.

    :param draws: by site, as in :func:`packed_weights`.
    :param Tensor like: gives device and dtype.
    :raises ValueError: if those of a sample site are missing.
    """
    hyper = []
    for name, prior in (("loc", model.prior_loc), ("scale", model.prior_scale)):
        site = f"{model.site}_{name}"
        groups = model.assignment.num_groups
        if site in draws:
            hyper.append(flat_draws(draws, site, groups).to(like))
        elif isinstance(prior, (int, float, Tensor, Learned)):
            with pyro.poutine.block():
                support = constraints.positive if name == "scale" else constraints.real
                hyper.append(sample_hyper(site, prior, None, groups, like, support))
        else:
            raise ValueError(f"posterior: expected draws of {site!r}, got those of {sorted(draws)}")
    unit_variance = model.family.unit_variance if model.assignment.is_soft else 1.0
    return weight_loc_scale(model.assignment, hyper[0], hyper[1], model.base_scale, unit_variance)


def flat_draws(draws: Mapping[str, Tensor], site: str, size: int) -> Tensor:
    """
    Draws of a site with one dimension, shape ``[S, size]``; Pyro's vectorised Predictive leaves
    dimensions of size 1 in between, and several chains are one after the other.

    :raises ValueError: if the last dimension has another size.
    """
    value = draws[site]
    if not value.dim() or value.shape[-1] != size:
        raise ValueError(
            f"posterior: expected draws of shape [..., {size}] of {site!r}, "
            f"got {tuple(value.shape)}"
        )
    return value.reshape(-1, size)
