# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Whole units taken out of a net, which gets smaller by them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..symmetry.blocks import blocks
from ..symmetry.proof import prove
from ..symmetry.spec import Dim, Product, Symmetry, Whole, positions


def keep_units(scores: Mapping[str, Tensor], symmetry: Symmetry, share: float) -> dict[str, Tensor]:
    """
    Which units stay: along every axis those whose weights have the highest mean scores, at least
    one.

    Example::

        >>> from pyro_groupprior.symmetry import find_symmetry
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
        >>> symmetry = find_symmetry(net, torch.randn(1, 2))
        >>> scores = {name: value.abs() for name, value in net.state_dict().items()}
        >>> len(keep_units(scores, symmetry, 0.5)["0"])
        2

    :param scores: of all weights, by tensor, such as ``layout.unpack`` gives them.
    :param Symmetry symmetry: of the net: its axes are what can be shortened.
    :param float share: of the units of each axis that stay, between 0 and 1.
    :return: by axis the units that stay, in order.
    :raises ValueError: if the share is not between 0 and 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: expected a number between 0 and 1, got {share}")
    totals = {axis: torch.zeros(size) for axis, size in symmetry.axes.items()}
    counts = dict.fromkeys(symmetry.axes, 0)
    for block in blocks(symmetry, scores):
        for axis in {whole.axis for whole in block.wholes if whole.axis is not None}:
            for dim in block.dims(axis):
                rows = block.value.movedim(dim, 0).flatten(1) if block.value.dim() > 1 else None
                each = block.value if rows is None else rows.sum(1)
                totals[axis] = totals[axis] + each.cpu()
                counts[axis] += block.value.numel() // symmetry.axes[axis]
    kept = {}
    for axis, size in symmetry.axes.items():
        number = max(1, round(share * size))
        kept[axis] = (totals[axis] / counts[axis]).topk(number).indices.sort().values
    return kept


@torch.no_grad()
def shrink(net: nn.Module, symmetry: Symmetry, kept: Mapping[str, Tensor], *args: Any) -> nn.Module:
    """
    A smaller copy of a net, without some of its units.

    Example::

        >>> from pyro_groupprior.symmetry import find_symmetry
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
        >>> x = torch.randn(1, 2)
        >>> shrink(net, find_symmetry(net, x), {"0": torch.tensor([0, 3])}, x)
        Sequential(
          (0): Linear(in_features=2, out_features=2, bias=True)
          (1): ReLU()
          (2): Linear(in_features=2, out_features=1, bias=True)
        )

    :param Module net: the net.
    :param Symmetry symmetry: what belongs to which unit.
    :param kept: by axis the units that stay; all of those left out.
    :param args: what the net is called with, to see whether the smaller one works.
    :raises ValueError: if an axis or a unit is unknown, none is left, or the smaller net does not
        run, or not as it should, as where its ``forward`` has sizes written into it.
    """
    for axis, units in kept.items():
        size = symmetry.axes.get(axis)
        if size is None:
            raise ValueError(f"kept: expected some of {list(symmetry.axes)}, got {axis!r}")
        found = units.tolist()
        if not found or len(set(found)) < len(found) or not set(found) <= set(range(size)):
            raise ValueError(
                f"kept[{axis!r}]: expected some of 0 to {size - 1}, once each, got {found}"
            )
    kept = {axis: kept.get(axis, torch.arange(size)) for axis, size in symmetry.axes.items()}
    small = copy.deepcopy(net)
    done: dict[int, nn.Parameter | Tensor] = {}
    for name, dims in symmetry.tensors.items():
        path, _, own = name.rpartition(".")
        module = small.get_submodule(path)
        tensor = getattr(module, own)
        if id(tensor) not in done:
            value = tensor.detach()
            for number, dim in enumerate(dims):
                place = positions(dim, kept)
                if place is not None:
                    value = value.index_select(number, place.to(value.device))
            is_parameter = isinstance(tensor, nn.Parameter)
            done[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if is_parameter else value
        setattr(module, own, done[id(tensor)])  # tied ones stay tied
        _resize(module, own, dims, kept)
    try:
        prove(small, _shortened(symmetry, kept), *args)
    except Exception as error:
        raise ValueError(f"net: it does not work with fewer units: {error}") from error
    return small


def _shortened(symmetry: Symmetry, kept: Mapping[str, Tensor]) -> Symmetry:
    """What the smaller net's symmetry must be, if the units that are left do what they did."""

    def part(dim: Dim) -> Dim:
        if isinstance(dim, Whole):
            return dim if dim.axis is None else Whole(len(kept[dim.axis]), dim.axis, dim.sign)
        return type(dim)(tuple(map(part, dim.parts)))

    return Symmetry({name: list(map(part, dims)) for name, dims in symmetry.tensors.items()})


def _resize(module: nn.Module, own: str, dims: tuple[Dim, ...], kept: Mapping[str, Tensor]) -> None:
    """Make the sizes that a module of torch's own keeps fit its tensors."""
    value = getattr(module, own)
    for kind, resize in _SIZES.items():
        if isinstance(module, kind) and own in ("weight", "weight_hh_l0"):
            resize(module, value, dims, kept)


def _groups(number: int, dim: Dim, kept: Mapping[str, Tensor]) -> int:
    """Of how many groups of channels some remain."""
    first = dim.parts[0] if isinstance(dim, Product) else dim
    if isinstance(first, Whole) and first.axis is not None and first.size == number:
        return len(kept[first.axis])
    return number


def _linear(module: Any, value: Tensor, dims: tuple[Dim, ...], kept: Mapping[str, Tensor]) -> None:
    module.out_features, module.in_features = value.shape


def _conv(module: Any, value: Tensor, dims: tuple[Dim, ...], kept: Mapping[str, Tensor]) -> None:
    if module.groups > 1:
        module.groups = _groups(module.groups, dims[0], kept)
    first, second = value.shape[0], value.shape[1] * module.groups
    if module.transposed:
        module.in_channels, module.out_channels = first, second
    else:
        module.out_channels, module.in_channels = first, second


def _features(module: Any, value: Tensor, dims: Any, kept: Mapping[str, Tensor]) -> None:
    module.num_features = len(value)


def _normalized(module: Any, value: Tensor, dims: Any, kept: Mapping[str, Tensor]) -> None:
    module.normalized_shape = tuple(value.shape)


def _group_norm(
    module: Any, value: Tensor, dims: tuple[Dim, ...], kept: Mapping[str, Tensor]
) -> None:
    module.num_groups = _groups(module.num_groups, dims[0], kept)
    module.num_channels = len(value)


def _embedding(module: Any, value: Tensor, dims: Any, kept: Mapping[str, Tensor]) -> None:
    module.embedding_dim = value.shape[1]


def _recurrent(module: Any, value: Tensor, dims: Any, kept: Mapping[str, Tensor]) -> None:
    module.hidden_size = value.shape[1]


_SIZES: dict[Any, Callable[..., None]] = {
    nn.Linear: _linear,
    nn.modules.conv._ConvNd: _conv,  # the only common base of all
    nn.modules.batchnorm._NormBase: _features,  # likewise
    nn.LayerNorm: _normalized,
    nn.RMSNorm: _normalized,
    nn.GroupNorm: _group_norm,
    nn.Embedding: _embedding,
    nn.RNNBase: _recurrent,
}
