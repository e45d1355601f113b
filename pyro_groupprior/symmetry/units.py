# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Which weights are a hidden unit's own."""

from __future__ import annotations

import torch
from torch import Tensor

from ..layout import Layout
from .spec import Dim, Product, Symmetry, Whole


def unit_blocks(symmetry: Symmetry, layout: Layout) -> Tensor:
    """
    A net's weights by hidden units: those that feed a unit which can be exchanged with others, its
    bias, and those that read it, where they feed none. The rest of each tensor is a block too.

    Example::

        >>> from pyro_groupprior.symmetry import posterior_symmetry, unit_blocks
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        >>> model = BayesianModule(net, likelihoods.Normal())
        >>> blocks = unit_blocks(posterior_symmetry(model, torch.randn(3, 4)), model.layout)
        >>> blocks.bincount().tolist()           # 4 + 1 + 2 for each unit, and the last biases
        [7, 7, 7, 7, 7, 7, 7, 7, 2]
        >>> guide = AutoBlockNormal(model, blocks=blocks)

    :param Symmetry symmetry: of the net.
    :param Layout layout: of its packed weights.
    :return: numbers of blocks, shape ``[W]``.
    """
    first, total = {}, 0
    for axis, size in symmetry.axes.items():
        first[axis], total = total, total + size
    blocks: list[Tensor] = []
    for entry in layout:
        units = torch.full(entry.shape, -1)
        dims = symmetry.tensors.get(entry.name, tuple(map(Whole, entry.shape)))
        for number, dim in enumerate(dims):
            along = _units(dim, first, total).reshape(-1, *[1] * (len(dims) - 1 - number))
            units = torch.where(units < 0, along.expand(units.shape), units)
        # The rest of each tensor comes last.
        blocks.append(torch.where(units < 0, 2**60 + len(blocks), units).flatten())
    return torch.cat(blocks).unique(return_inverse=True)[1]


def _units(dim: Dim, first: dict[str, int], total: int) -> Tensor:
    """
    The unit of each position along a dimension, -1 where there is none. What two axes number
    together, such as heads and what is in each, are units of their own.
    """
    if isinstance(dim, Whole):
        if dim.axis is None:
            return torch.full((dim.size,), -1)
        return first[dim.axis] + torch.arange(dim.size)
    parts = [_units(part, first, total) for part in dim.parts]
    if not isinstance(dim, Product):
        return torch.cat(parts)
    units = parts[0]
    for part in parts[1:]:
        outer, inner = units[:, None].expand(-1, len(part)), part.expand(len(units), -1)
        both = outer * total + inner + total
        one = torch.where(outer < 0, inner, outer)
        units = torch.where((outer < 0) | (inner < 0), one, both).flatten()
    return units
