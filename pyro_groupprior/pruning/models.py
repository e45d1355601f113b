# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Whole units taken out of a Bayesian model, and of draws from its posterior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..assignment import Assignment
from ..layout import Layout
from ..nn import BayesianModule
from ..symmetry.spec import Symmetry
from .shrinking import selected, shrink
from .units import check_kept


def shrink_model(
    model: BayesianModule, symmetry: Symmetry, kept: Mapping[str, Tensor], *args: Any
) -> BayesianModule:
    """
    A smaller copy of a model, without some of its units. Every weight that stays keeps its group
    and its base scale, so that draws of the groups' parameters go on to hold, and
    :func:`shrink_draws` makes draws of the smaller posterior.

    Example::

        >>> from pyro_groupprior.pruning import shrink_draws, shrink_model
        >>> from pyro_groupprior.symmetry import posterior_symmetry
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
        >>> model, x = BayesianModule(net, likelihoods.Normal()), torch.randn(5, 2)
        >>> symmetry, kept = posterior_symmetry(model, x), {"0": torch.tensor([0, 3])}
        >>> small = shrink_model(model, symmetry, kept, x)
        >>> draws = {"weights": torch.randn(9, 17), "noise": torch.ones(9)}
        >>> draws = shrink_draws(model, draws, symmetry, kept)
        >>> draws["weights"].shape, predict(small, draws, x).mean.shape
        (torch.Size([9, 9]), torch.Size([5, 1]))

    :param BayesianModule model: the model.
    :param Symmetry symmetry: what belongs to which unit.
    :param kept: by axis the units that stay; all of those left out.
    :param args: what the net is called with, to see whether the smaller one works.
    :raises TypeError: if units are no integers.
    :raises ValueError: as :func:`shrink`; also where units share an axis with tensors that are not
        in the posterior, such as the statistics of batch norm.
    """
    names = set(model.layout.names)
    index = kept_weights(model.layout, symmetry, kept).to(model.base_scale.device)
    grouping, responsibilities = model.assignment, model.assignment.responsibilities
    small = BayesianModule(
        shrink(model.net, symmetry, kept, *args),
        model.likelihood,
        num_data=model.num_data,
        bayesian=lambda name, module, parameter: name in names,
        grouping=Assignment(
            grouping.index[index],
            grouping.num_groups,
            None if responsibilities is None else responsibilities[index],
        ),
        base_scale=model.base_scale[index],
        name=model.site,
        loc=model.prior_loc,
        scale=model.prior_scale,
        family=model.family,
        centered=model.centered,
    )
    if model.mask is not None:
        small.mask = model.mask[index]
    return small


def shrink_draws(
    model: BayesianModule,
    draws: Mapping[str, Tensor],
    symmetry: Symmetry,
    kept: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """
    Draws for :func:`shrink_model`'s smaller model: those of the weights that stay, and of all other
    sites. An example is there.

    :param BayesianModule model: the whole one.
    :param draws: by site, of the whole one.
    :param Symmetry symmetry: what belongs to which unit.
    :param kept: by axis the units that stay.
    :raises ValueError: if an axis or a unit is unknown, or none is left, or draws are not of all
        weights.
    """
    index = kept_weights(model.layout, symmetry, kept)
    along = {model.site + ending for ending in ("", "_decentered", "_assignment")}
    for site in along & draws.keys():
        if draws[site].shape[-1:] != (model.layout.num_weights,):
            raise ValueError(
                f"draws[{site!r}]: expected [..., {model.layout.num_weights}], got "
                f"{tuple(draws[site].shape)}"
            )
    return {
        site: value[..., index.to(value.device)] if site in along else value
        for site, value in draws.items()
    }


def kept_weights(layout: Layout, symmetry: Symmetry, kept: Mapping[str, Tensor]) -> Tensor:
    """
    Where the packed weights of the smaller net stand among those of the whole one, shape ``[V]``.

    :param Layout layout: of the whole net.
    :param Symmetry symmetry: what belongs to which unit.
    :param kept: by axis the units that stay.
    """
    kept = check_kept(kept, symmetry)
    numbers = layout.unpack(torch.arange(layout.num_weights))
    parts = [
        selected(value, symmetry.tensors.get(name, ()), kept) for name, value in numbers.items()
    ]
    return torch.cat([part.flatten() for part in parts])
