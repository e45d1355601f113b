# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Single weights set to zero."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from ..assignment import Assignment
from ..layout import Layout
from ..nn import BayesianModule


def keep_mask(scores: Tensor, share: float, within: Assignment | None = None) -> Tensor:
    """
    Which weights stay: those with the highest scores.

    Example::

        >>> keep_mask(torch.tensor([3.0, 1.0, 2.0, 4.0]), 0.5)
        tensor([ True, False, False,  True])

    :param Tensor scores: shape ``[W]``.
    :param float share: of the weights that stay, between 0 and 1.
    :param Assignment within: keep this share in each group by itself, such as
        ``model.partition("layer")``. Default: of all.
    :return: booleans ``[W]``.
    :raises ValueError: if the share is not between 0 and 1, or scores are NaN.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: expected a number between 0 and 1, got {share}")
    if bool(scores.isnan().any()):
        raise ValueError(f"scores: expected numbers, got {int(scores.isnan().sum())} NaN")
    index = torch.zeros_like(scores, dtype=torch.long)
    if within is not None:
        index = within.hard().index.long().to(scores.device)
    # By group, and by score within it: a weight's place among its group's decides.
    order = scores.argsort(descending=True, stable=True)
    order = order[index[order].argsort(stable=True)]
    sizes = torch.bincount(index)
    first = sizes.cumsum(0) - sizes
    place = torch.empty_like(index)
    place[order] = torch.arange(len(index), device=index.device) - first[index[order]]
    return place < (share * sizes).round()[index]


def prune_draws(
    model: BayesianModule, draws: Mapping[str, Tensor], mask: Tensor
) -> dict[str, Tensor]:
    """
    Draws in which only some weights are other than zero.

    Example::

        >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal())
        >>> prune_draws(model, {"weights": torch.ones(1, 3)}, torch.tensor([True, False, True]))
        {'weights': tensor([[1., 0., 1.]])}

    :param BayesianModule model: the net.
    :param draws: by site, such as ``guide.draws(200)`` or of MCMC.
    :param Tensor mask: the weights that stay, ``[W]``.
    """
    weights = draws[model.site]
    return {**draws, model.site: weights * mask.to(weights)}


def prune_net(net: nn.Module, layout: Layout, mask: Tensor) -> nn.Module:
    """
    A copy of a plain net in which only some weights are other than zero, and stay so while it is
    trained further (:mod:`torch.nn.utils.prune`); ``torch.nn.utils.prune.remove`` makes an
    ordinary net of it.

    Example::

        >>> net = nn.Linear(2, 1)
        >>> layout = BayesianModule(net, likelihoods.Normal()).layout
        >>> prune_net(net, layout, torch.tensor([True, False, True])).weight[0, 1].item()
        0.0

    :param Module net: the net.
    :param Layout layout: of its packed weights.
    :param Tensor mask: the weights that stay, ``[W]``.
    """
    net = copy.deepcopy(net)
    for name, part in layout.unpack(mask, aliases=True).items():
        path, _, own = name.rpartition(".")
        prune.custom_from_mask(net.get_submodule(path), own, part)
    return net
