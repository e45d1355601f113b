# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""How much signal a posterior has left, by layer and by group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..guides import posterior_moments
from ..regrouping import WeightPosterior
from ..svi.groups import GroupSite, find_groups
from ..svi.parameters import quiet

LAYER, GROUP, WHOLE = "layer", "group", "whole"
_ROUNDS = 8  # of the power iteration; a signal worth the name stands out after two or three


@dataclass(frozen=True)
class Signal:
    """
    How much of one part of a site's weights is signal.

    :param str site: the weights' site.
    :param str kind: ``"layer"``: a weight matrix of a net; ``"group"``; or ``"whole"``: all weights
        of a site that is no net's.
    :param str part: name of the tensor, or number of the group.
    :param float signal: see :func:`weight_signals`.
    :param groups: the groups that its weights are in.
    """

    site: str
    kind: str
    part: str
    signal: float
    groups: tuple[int, ...]


@torch.no_grad()
def weight_signals(posterior: WeightPosterior, site: str = "weights") -> list[Signal]:
    r"""
    The signal of every layer and group: a ratio that is near 1 or above where the data have shaped
    a part, and near 0 where the posterior has fallen back onto a prior around zero.

    For a layer with posterior means :math:`M` (outputs by inputs) and standard deviations
    :math:`S` it is

    .. math:: \sigma_1(M)^2 \,/\, (\max_i \|S_{i:}\| + \max_j \|S_{:j}\|)^2,

    the largest singular value against a bound on that of the noise (Bandeira, van Handel 2016,
    "Sharp nonasymptotic bounds on the norm of random matrices with independent entries"). A layer
    that passes on no more than one direction, all else pruned, keeps its signal; one without has
    means that are noise. For a group it is :math:`\sum m^2 / \sum s^2`: a group that is pruned in
    a healthy net is near 0 too.

    Example::

        >>> layout = Layout([("alive", torch.Size([9, 9])), ("dead", torch.Size([9, 9]))])
        >>> mean = torch.cat([torch.ones(81), 0.01 * torch.randn(81)])
        >>> a = Assignment(torch.arange(162) // 81)
        >>> found = weight_signals(WeightPosterior(mean, 0 * mean + 0.5, 0 * mean + 1, a, layout))
        >>> {s.part: s.signal > 0.05 for s in found if s.kind == "layer"}
        {'alive': True, 'dead': False}

    :param WeightPosterior posterior: moments, grouping and, for a net, layout. Tensors with fewer
        than two dimensions are no layers; of more, all but the first count as inputs.
    :param str site: name of the site, for the records.
    :return: layers in packing order, or the whole where there are none, then groups.
    """
    mean, variance = posterior.mean, posterior.sd.square()
    index = posterior.assignment.hard().index.long()
    signals = []
    for entry in posterior.layout or ():
        if len(entry.shape) > 1:
            rows = entry.shape[0], -1
            value = _spectral(mean[entry.slice].view(rows), variance[entry.slice].view(rows))
            groups = tuple(index[entry.slice].unique().tolist())
            signals.append(Signal(site, LAYER, entry.name, value, groups))
    everything = tuple(range(posterior.assignment.num_groups))
    sums = mean.new_zeros(2, len(everything))
    sums[0].index_add_(0, index, mean.square())
    sums[1].index_add_(0, index, variance)
    if not signals:
        signals.append(Signal(site, WHOLE, site, float(_ratio(*sums.sum(1))), everything))
    for group, value in enumerate(_ratio(*sums).tolist()):
        signals.append(Signal(site, GROUP, str(group), value, (group,)))
    return signals


def collapse_report(
    model: Callable[..., Any], guide: Any, *args: Any, **kwargs: Any
) -> list[Signal]:
    """
    The signal of every layer and group of all group priors of a model, under any guide; see
    :func:`weight_signals`. Neither random state nor batch statistics move.

    Example::

        >>> model = BayesianModule(nn.Linear(4, 4), likelihoods.Normal(), grouping="layer")
        >>> x, y = torch.randn(9, 4), torch.randn(9, 4)
        >>> guide = AutoMeanField(model)
        >>> guide.setup(x, y)
        >>> [(s.kind, s.part) for s in collapse_report(model, guide, x, y)]
        [('layer', 'weight'), ('group', '0')]

    :param callable model: a Pyro model.
    :param guide: its guide.
    :param args: one batch: the arguments of the model.
    """
    with quiet(model):
        return signals_of(find_groups(model, *args, **kwargs), guide, *args, **kwargs)


def signals_of(groups: dict[str, GroupSite], guide: Any, *args: Any, **kwargs: Any) -> list[Signal]:
    """As :func:`collapse_report`, for group priors that are known; the centred ones only."""
    signals = []
    for name, site in groups.items():
        if site.centered:
            mean, sd = posterior_moments(guide, name, *args, **kwargs)
            if site.mask is not None:  # what the net does not read has the prior for a posterior
                mean, sd = mean * site.mask, sd * site.mask
            unit = torch.ones_like(mean)  # ratios within a tensor: the base scale cancels
            posterior = WeightPosterior(mean, sd, unit, site.assignment, site.layout)
            signals += weight_signals(posterior, name)
    return signals


def _spectral(mean: Tensor, variance: Tensor) -> float:
    noise = (variance.sum(1).max().sqrt() + variance.sum(0).max().sqrt()).square()
    # The longest row as the start: no random numbers, and never orthogonal to all of the matrix.
    vector = mean[mean.square().sum(1).argmax()]
    for _ in range(_ROUNDS):
        vector = mean.T @ (mean @ torch.nn.functional.normalize(vector, dim=0))
    return float(_ratio(vector.norm(), noise))


def _ratio(signal: Tensor, noise: Tensor) -> Tensor:
    """Infinite for points, which have no noise, unless they are zero themselves."""
    return torch.where(signal > 0, signal / noise, torch.zeros_like(signal))
