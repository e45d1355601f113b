# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Posteriors side by side in the space of weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Normal

from ..nn import BayesianModule
from ..nn.grouping import Grouping
from .moments import Posterior, WeightMoments, weight_moments


@torch.no_grad()
def compare_weights(
    model: BayesianModule,
    posteriors: Mapping[str, Posterior],
    reference: str,
    by: Grouping = "layer",
) -> pd.DataFrame:
    """
    Posteriors of a net's weights beside a reference, each as independent normal distributions: how
    far apart, in what, and where. They are to be in one frame before, as
    :func:`~pyro_groupprior.symmetry.in_one_frame` brings them: a unit's weights mean nothing where
    another has taken its place.

    - ``kl``: Kullback-Leibler divergence ``KL(posterior || reference)``, summed, in nats;
    - ``w2``: Wasserstein-2 distance in units of the base scale, the root of the mean of squares;
    - ``overlap``: the area below both densities, between 0 and 1, the mean;
    - ``snr``: the weights' median ``|mean| / sd``;
    - ``sd_ratio``: the geometric mean of the standard deviation over the reference's.

    Example::

        >>> from pyro_groupprior.comparison import WeightMoments, compare_weights
        >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal())
        >>> one = WeightMoments(torch.zeros(3), torch.ones(3))
        >>> two = WeightMoments(torch.ones(3), torch.ones(3))
        >>> table = compare_weights(model, {"one": one, "two": two}, "one")
        >>> table[["posterior", "kl", "overlap"]].round(2).values.tolist()
        [['one', 0.0, 1.0], ['two', 1.5, 0.62]]

    :param BayesianModule model: the net.
    :param posteriors: by name, as in :func:`weight_moments`.
    :param str reference: one of the names.
    :param by: weights to take together, as ``grouping`` in
        :class:`~pyro_groupprior.BayesianModule`: ``"all"``, ``"layer"``, ``"row"`` for units, or
        ``torch.arange(W)`` for weight by weight.
    :return: a row for each posterior and each group of weights, with the name of the ``tensor``
        that holds the first of these, its ``place`` among the groups that begin there, such as a
        unit's number, and how many ``weights`` they are.
    :raises TypeError: if a posterior is a point.
    :raises ValueError: if there is no such reference, a posterior does not fit the net, or groups
        are soft.
    """
    if reference not in posteriors:
        raise ValueError(f"reference: expected one of {list(posteriors)}, got {reference!r}")
    found = {}
    for name, posterior in posteriors.items():
        try:
            found[name] = weight_moments(model, posterior)
        except (TypeError, ValueError) as error:
            raise type(error)(f"posteriors[{name!r}]: {error}") from error
    groups = _Groups(model, by)
    tables = []
    for name, moments in found.items():
        table = groups.table(moments, found[reference])
        table.insert(0, "posterior", name)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


class _Groups:
    """Weights to take together, and figures of theirs."""

    def __init__(self, model: BayesianModule, by: Grouping) -> None:
        assignment = model.partition(by)
        if assignment.is_soft:
            raise ValueError("by: expected a hard grouping, got a soft one")
        index = assignment.index.long().cpu()
        self.index, self.number = index, assignment.num_groups
        self.sizes = index.bincount(minlength=self.number)
        self.base_scale = model.base_scale.cpu().double()
        firsts = torch.full((self.number,), len(index)).scatter_reduce(
            0, index, torch.arange(len(index)), "amin"
        )
        starts = torch.tensor([entry.start for entry in model.layout])
        tensors = torch.searchsorted(starts, firsts, right=True) - 1
        order = tensors.argsort(stable=True)
        before = tensors.bincount(minlength=len(starts)).cumsum(0).roll(1)
        before[0] = 0
        place = torch.empty_like(order)
        place[order] = torch.arange(self.number) - before[tensors[order]]
        names = np.array(model.layout.names)
        self.labels = {
            "group": np.arange(self.number),
            "tensor": names[tensors.numpy()],
            "place": place.numpy(),
            "weights": self.sizes.numpy(),
        }

    def table(self, moments: WeightMoments, reference: WeightMoments) -> pd.DataFrame:
        """A row for each group. One column at a time: there may be millions of weights."""
        one, two = _normal(reference), _normal(moments)
        square = (two.mean - one.mean).square().add_((two.scale - one.scale).square())
        columns = {
            "kl": self._sum(kl_divergence(two, one)),
            "w2": (self._sum(square.div_(self.base_scale.square())) / self.sizes).sqrt(),
            "overlap": self._sum(overlap(two, one)) / self.sizes,
            "snr": self._median(moments.snr.cpu().double()),
            "sd_ratio": (self._sum(_log_ratio(two.scale, one.scale)) / self.sizes).exp(),
        }
        found = pd.DataFrame(self.labels | {k: v.numpy() for k, v in columns.items()})
        return found[found.weights > 0]

    def _sum(self, values: Tensor) -> Tensor:
        return values.new_zeros(self.number).index_add_(0, self.index, values)

    def _median(self, values: Tensor) -> Tensor:
        """Of each group, the mean of the two in the middle, as pandas has it."""
        order = values.argsort()
        order = order[self.index[order].argsort(stable=True)]
        last = (self.sizes.cumsum(0) - 1).clamp(min=0)
        low, high = last - self.sizes // 2, last - (self.sizes - 1).clamp(min=0) // 2
        return (values[order[low.clamp(min=0)]] + values[order[high]]) / 2


def kl_divergence(first: Normal, second: Normal) -> Tensor:
    """
    ``KL(first || second)`` of normal distributions, in nats; of points 0 where they are the same,
    and infinite where they are not.

    Example::

        >>> from pyro_groupprior.comparison.weights import kl_divergence
        >>> from torch.distributions import Normal
        >>> kl_divergence(Normal(1.0, 1.0), Normal(0.0, 1.0))
        tensor(0.5000)
    """
    found = torch.distributions.kl_divergence(first, second)
    same = (first.mean == second.mean) & (first.scale == second.scale)
    return torch.where(same, 0.0, torch.where(second.scale == 0, torch.inf, found))


def overlap(first: Normal, second: Normal) -> Tensor:
    """
    The area below both of two normal densities: one less their total variation distance.

    Example::

        >>> from pyro_groupprior.comparison import overlap
        >>> from torch.distributions import Normal
        >>> round(float(overlap(Normal(0.0, 1.0), Normal(2.0, 1.0))), 4)      # 2 Phi(-1)
        0.3173
    """
    dtype = torch.result_type(first.mean, first.scale)
    narrow = first.scale <= second.scale
    mean, sd = _pair(narrow, first.mean, second.mean), _pair(narrow, first.scale, second.scale)
    # In units of the narrower one, the other at N(shift, width): where are the densities equal?
    # In double: there is a difference of nearly equal numbers.
    shift, width = (mean[1] - mean[0]).double() / sd[0], sd[1].double() / sd[0]
    equal = width - 1 < 1e-6
    square = torch.where(equal, 2.0, width.square())
    root = (square * (shift.square() + (square - 1) * square.log())).sqrt()
    low, high = (-shift - root) / (square - 1), (-shift + root) / (square - 1)
    standard = Normal(torch.zeros_like(shift), 1.0, validate_args=False)
    inside = standard.cdf(high) - standard.cdf(low)
    wide = standard.cdf((high - shift) / square.sqrt()) - standard.cdf(
        (low - shift) / square.sqrt()
    )
    found = torch.where(equal, 2 * standard.cdf(-shift.abs() / 2), 1 - inside + wide)
    known = first.mean.eq(second.mean) & first.scale.eq(second.scale)
    point = ~known & (sd[0] == 0)  # no area, unless they are the same
    return torch.where(known, 1.0, torch.where(point, 0.0, found)).to(dtype)


def _normal(moments: WeightMoments) -> Normal:
    return Normal(moments.mean.cpu().double(), moments.sd.cpu().double(), validate_args=False)


def _log_ratio(first: Tensor, second: Tensor) -> Tensor:
    return torch.where(first == second, 0.0, first.log() - second.log())


def _pair(condition: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(condition, first, second), torch.where(condition, second, first)
