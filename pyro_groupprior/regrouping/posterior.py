# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What a regrouping strategy sees, and group parameters by moments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..assignment import Assignment
from ..layout import Layout
from .evidence import Evidence, cavity


@dataclass(frozen=True)
class WeightPosterior:
    """
    Posterior statistics of a set of grouped weights, as a regrouping strategy sees them.

    :param Tensor mean: posterior means, shape ``[W]``.
    :param Tensor sd: posterior standard deviations, shape ``[W]``.
    :param Tensor base_scale: shape ``[W]``; ones where the model has none.
    :param Assignment assignment: the present grouping.
    :param layout: names and shapes, where the weights are a net's.
    :param prior_loc: mean of each weight's present prior, shape ``[W]``, where it is known.
    :param prior_scale: its standard deviation, likewise.
    :param partition: for a net's weights, a function from a name such as ``"layer"`` or ``"row"``
        (see :class:`~pyro_groupprior.BayesianModule`) to the grouping of that name.
    :param trajectory: snapshots of the posterior means during training, shape ``[T, W]``, where a
        :class:`~pyro_groupprior.Monitor` has taken some.
    :param draw: a function that gives so many posterior draws, shape ``[S, W]``.
    :param int phase: the number of regroups so far.
    """

    mean: Tensor
    sd: Tensor
    base_scale: Tensor
    assignment: Assignment
    layout: Layout | None = None
    prior_loc: Tensor | None = None
    prior_scale: Tensor | None = None
    partition: Callable[[str], Assignment] | None = None
    trajectory: Tensor | None = None
    draw: Callable[[int], Tensor] | None = None
    phase: int = 0

    def evidence(self) -> Evidence:
        """
        What the data alone say about each weight, in units of the base scale; see
        :func:`~pyro_groupprior.regrouping.cavity`.

        :raises ValueError: if the present prior is not known.
        """
        if self.prior_loc is None or self.prior_scale is None:
            raise ValueError("prior_loc, prior_scale: the evidence needs the present prior")
        found = cavity(self.mean, self.sd, self.prior_loc, self.prior_scale)
        # In place: they are ours, and there may be many.
        return Evidence(*(value.div_(self.base_scale) for value in found))


def group_moments(posterior: WeightPosterior, assignment: Assignment) -> tuple[Tensor, Tensor]:
    """
    Location and scale of each group by the posterior moments of its members, in units of the base
    scale; 0 and 1 for an empty group.

    Example::

        >>> a = Assignment(torch.tensor([0, 0]))
        >>> one = torch.ones(2)
        >>> group_moments(WeightPosterior(torch.tensor([1.0, 3.0]), 0 * one, one, a), a)
        (tensor([2.]), tensor([1.]))

    :param Assignment assignment: the grouping, ``G`` groups.
    :return: two tensors of shape ``[G]``.
    """
    mean, sd = posterior.mean / posterior.base_scale, posterior.sd / posterior.base_scale
    index = assignment.index.long().reshape(assignment.num_weights, -1)
    shares = assignment.responsibilities
    shares = torch.ones_like(index, dtype=mean.dtype) if shares is None else shares.to(mean)
    sums = mean.new_zeros(3, assignment.num_groups)
    # Variances about the group's own mean, in two passes: the one-pass form cancels.
    sums[0].index_add_(0, index.reshape(-1), shares.reshape(-1))
    sums[1].index_add_(0, index.reshape(-1), (shares * mean.unsqueeze(-1)).reshape(-1))
    size = sums[0].clamp(min=torch.finfo(mean.dtype).tiny)
    loc = sums[1] / size
    squares = (mean.unsqueeze(-1) - loc[index]).square() + sd.square().unsqueeze(-1)
    sums[2].index_add_(0, index.reshape(-1), (shares * squares).reshape(-1))
    empty = sums[0] <= 0
    scale = (sums[2] / size).sqrt().clamp(min=1e-6)
    return loc.masked_fill(empty, 0.0), scale.masked_fill(empty, 1.0)
