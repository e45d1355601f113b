# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""First groupings of a net's weights, and their base scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ..assignment import Assignment
from ..layout import Layout
from .axes import axes_of
from .selection import Owned

Grouping: TypeAlias = "str | Callable[[Layout], Tensor | Assignment] | Tensor | Assignment"

GROUPINGS = ("all", "tensor", "layer", "row", "column", "channel", "head")


def initial_assignment(
    grouping: Grouping, net: nn.Module, owned: Sequence[Owned], layout: Layout
) -> Assignment:
    """
    The first assignment of the packed weights.

    :param grouping: one of

        - ``"all"``: one group;
        - ``"tensor"``: one for each parameter tensor;
        - ``"layer"``: one for each layer, its weights and bias together;
        - ``"row"``: a unit's incoming weights and its bias;
        - ``"column"``: a unit's outgoing weights (automatic relevance determination); the biases
          of a layer are the outgoing weights of a constant unit;
        - ``"channel"``: rows of convolutions, all else by layer;
        - ``"head"``: heads of attention layers, all else by layer;
        - a callable from :class:`~pyro_groupprior.Layout` to indices or an assignment;
        - indices of shape ``[W]``, or an :class:`~pyro_groupprior.Assignment`.
    :raises TypeError: if ``grouping`` is of another kind.
    :raises ValueError: if the name is unknown or the indices do not fit ``W`` weights.
    """
    if isinstance(grouping, str):
        if grouping not in GROUPINGS:
            raise ValueError(f"grouping: expected one of {GROUPINGS}, got {grouping!r}")
        return _by_keys([_keys(grouping, item, net) for item in owned], owned)
    if callable(grouping) and not isinstance(grouping, Tensor):
        grouping = grouping(layout)
    if isinstance(grouping, (Tensor, Sequence)) and not isinstance(grouping, str):
        grouping = Assignment(torch.as_tensor(grouping))
    if not isinstance(grouping, Assignment):
        raise TypeError(
            f"grouping: expected a name, a callable, indices or an Assignment, "
            f"got {type(grouping).__name__}"
        )
    if grouping.num_weights != layout.num_weights:
        raise ValueError(
            f"grouping: expected one for {layout.num_weights} weights, "
            f"got one for {grouping.num_weights}"
        )
    return grouping


def fan_in_scale(net: nn.Module, owned: Sequence[Owned]) -> Tensor:
    """
    ``1 / sqrt(fan_in)`` for every packed weight, shape ``[W]``: the size at which a sum over a
    unit's inputs has unit variance (LeCun et al. 1998, "Efficient backprop").
    """
    return torch.cat(
        [
            item.parameter.detach().new_full((item.parameter.numel(),), fan_in**-0.5)
            for item in owned
            for fan_in in [axes_of(item, net).fan_in]
        ]
    )


def _keys(grouping: str, item: Owned, net: nn.Module) -> tuple[str, Tensor]:
    """
    A name and, within it, numbers that broadcast to the parameter's shape: together they make the
    group.
    """
    axes = axes_of(item, net)
    zeros = torch.zeros((), dtype=torch.long)
    if grouping == "all":
        return "", zeros
    if grouping == "tensor":
        return item.name, zeros
    is_conv = isinstance(item.module, nn.modules.conv._ConvNd)  # the only common base of all
    if grouping == "row" or (grouping == "channel" and is_conv):
        return axes.layer, axes.row
    if grouping == "column":
        return axes.layer, axes.column
    if grouping == "head" and axes.head is not None:
        return axes.layer, axes.head
    return axes.layer, zeros


def _by_keys(keys: Sequence[tuple[str, Tensor]], owned: Sequence[Owned]) -> Assignment:
    """
    Number the groups in the order in which names, and numbers within them, appear. Only the keys
    as they are before broadcasting are sorted.
    """
    parts: dict[str, list[Tensor]] = {}
    for name, numbers in keys:
        parts.setdefault(name, []).append(numbers.reshape(-1))
    present = {name: torch.cat(part).unique() for name, part in parts.items()}
    offsets, num_groups = {}, 0
    for name, numbers in present.items():
        offsets[name] = num_groups
        num_groups += len(numbers)
    index = torch.empty(sum(item.parameter.numel() for item in owned), dtype=torch.int32)
    start = 0
    for (name, numbers), item in zip(keys, owned):
        group = torch.searchsorted(present[name], numbers) + offsets[name]
        shape = item.parameter.shape
        index[start : start + shape.numel()].view(shape).copy_(group)
        start += shape.numel()
    return Assignment.trusted(index, num_groups, None)


__all__ = ["GROUPINGS", "Grouping", "fan_in_scale", "initial_assignment"]
