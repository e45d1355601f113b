# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Which units a net can do without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ..symmetry.blocks import blocks
from ..symmetry.spec import Symmetry, wholes


def shrinkable_axes(net: nn.Module, symmetry: Symmetry) -> list[str]:
    """
    The axes along which units can be taken out of a net: not those of
    :class:`torch.nn.MultiheadAttention`, whose width must be that of its heads together.

    Example::

        >>> from pyro_groupprior.pruning import shrinkable_axes
        >>> from pyro_groupprior.symmetry import find_symmetry
        >>> net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> symmetry = find_symmetry(net, torch.randn(2, 3, 8))
        >>> symmetry.axes
        {'self_attn': 2, 'self_attn:1': 4, 'linear1': 16}
        >>> shrinkable_axes(net, symmetry)
        ['linear1']

    :param Module net: the net.
    :param Symmetry symmetry: of the net.
    """
    fixed = set()
    for path, module in net.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            for name, dims in symmetry.tensors.items():
                if name.startswith(f"{path}.") or not path:
                    fixed |= {whole.axis for dim in dims for whole in wholes(dim)}
    return [axis for axis in symmetry.axes if axis not in fixed]


def keep_units(
    scores: Mapping[str, Tensor],
    symmetry: Symmetry,
    share: float,
    axes: Iterable[str] | None = None,
) -> dict[str, Tensor]:
    """
    Which units stay: along every axis those whose weights have the highest mean scores, at least
    one.

    Example::

        >>> from pyro_groupprior.pruning import keep_units
        >>> from pyro_groupprior.symmetry import find_symmetry
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
        >>> symmetry = find_symmetry(net, torch.randn(1, 2))
        >>> scores = {name: value.abs() for name, value in net.state_dict().items()}
        >>> len(keep_units(scores, symmetry, 0.5)["0"])
        2

    :param scores: of all weights, by tensor, such as ``layout.unpack`` gives them.
    :param Symmetry symmetry: of the net: its axes are what can be shortened.
    :param float share: of the units of each axis that stay, between 0 and 1.
    :param axes: those to shorten, such as of :func:`shrinkable_axes`. Default: all.
    :return: by axis the units that stay, in order.
    :raises ValueError: if the share is not between 0 and 1, an axis is unknown, or scores are NaN,
        of other shapes, or of no weight of some axis.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: expected a number between 0 and 1, got {share}")
    chosen = list(symmetry.axes if axes is None else axes)
    for axis in chosen:
        if axis not in symmetry.axes:
            raise ValueError(f"axes: expected some of {list(symmetry.axes)}, got {axis!r}")
    scores = {name: value.detach().cpu() for name, value in scores.items()}
    for name, dims in symmetry.tensors.items():
        expected = tuple(dim.size for dim in dims)
        if name in scores and (scores[name].shape != expected or bool(scores[name].isnan().any())):
            raise ValueError(
                f"scores[{name!r}]: expected numbers of shape {expected}, got "
                f"{tuple(scores[name].shape)} with {int(scores[name].isnan().sum())} NaN"
            )
    totals = {axis: torch.zeros(symmetry.axes[axis]) for axis in chosen}
    counts = dict.fromkeys(chosen, 0)
    for block in blocks(symmetry, scores):
        for axis in {whole.axis for whole in block.wholes if whole.axis in totals}:
            assert axis is not None
            for dim in block.dims(axis):
                totals[axis] += block.value.movedim(dim, 0).reshape(len(totals[axis]), -1).sum(1)
                counts[axis] += block.value.numel() // symmetry.axes[axis]
    kept = {}
    for axis in chosen:
        if not counts[axis]:
            raise ValueError(f"scores: expected some of weights along {axis!r}, got {list(scores)}")
        number = max(1, round(share * symmetry.axes[axis]))
        kept[axis] = (totals[axis] / counts[axis]).topk(number).indices.sort().values
    return kept


def check_kept(
    kept: Mapping[str, Tensor], symmetry: Symmetry, axes: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """
    The units that stay along every axis: all, where nothing else is said.

    :param kept: by axis.
    :param Symmetry symmetry: of the net.
    :param axes: those that can be shortened. Default: all.
    :raises TypeError: if units are no integers.
    :raises ValueError: if an axis or a unit is unknown, or none is left.
    """
    whole = {axis: torch.arange(size) for axis, size in symmetry.axes.items()}
    axes = list(whole if axes is None else axes)
    for axis, units in kept.items():
        if axis not in axes:
            why = ", whose size cannot change" if axis in whole else ""
            raise ValueError(f"kept: expected some of {axes}, got {axis!r}{why}")
        units = torch.as_tensor(units)
        if units.dtype == torch.bool or (units.is_floating_point() and len(units)):
            raise TypeError(f"kept[{axis!r}]: expected numbers of units, got {units.dtype}")
        size, found = symmetry.axes[axis], units.flatten().tolist()
        if not found or len(set(found)) < len(found) or not set(found) <= set(range(size)):
            raise ValueError(
                f"kept[{axis!r}]: expected some of 0 to {size - 1}, once each, got {found}"
            )
        whole[axis] = units.flatten().long().cpu()
    return whole
