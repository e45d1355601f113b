# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What the axes of a parameter mean, by module type: units, inputs, heads and fan-in."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from .selection import Owned

_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONV_TRANSPOSE = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Axes:
    """
    The structure of one parameter. Indices are within the layer and of a shape that broadcasts to
    the parameter's, so that they cost next to nothing for a large one.

    :param str layer: name of the layer: weights and biases that produce the same units.
    :param int fan_in: number of inputs that a unit of this parameter sums over.
    :param Tensor row: the unit that the element feeds (its incoming weights, bias included).
    :param Tensor column: the input that the element reads (its outgoing weights); a bias reads
        the constant input, which is numbered after the last real one.
    :param head: the attention head, or None where there are none.
    """

    layer: str
    fan_in: int
    row: Tensor
    column: Tensor
    head: Tensor | None = None


Rule: TypeAlias = "Callable[[Owned, nn.Module], Axes | None]"


def axes_of(owned: Owned, net: nn.Module) -> Axes:
    """
    The axes of a parameter: by the rule of its module's type, else by shape alone (the first
    dimension counts units, the second inputs, as torch's own layers have it).

    :param Owned owned: the parameter.
    :param Module net: the whole net, to find the parameter's parent module.
    """
    for rule in _RULES:
        axes = rule(owned, net)
        if axes is not None:
            return axes
    return _by_shape(owned)


def _along(shape: torch.Size, dim: int) -> Tensor:
    """Positions along one dimension, broadcastable over the others."""
    view = [1] * len(shape)
    view[dim] = -1
    return torch.arange(shape[dim]).reshape(view)


def _layer(owned: Owned) -> str:
    return owned.name.rpartition(".")[0]


def _local(owned: Owned) -> str:
    """The parameter's name within its module."""
    return owned.name.rpartition(".")[2]


def _dense(owned: Owned, layer: str, row_dim: int = 0, column_dim: int = 1) -> Axes:
    """A weight with one dimension of units and one of inputs; further ones are kernel sizes."""
    shape = owned.parameter.shape
    fan_in = shape.numel() // shape[row_dim]
    return Axes(layer, fan_in, _along(shape, row_dim), _along(shape, column_dim))


def _bias(owned: Owned, layer: str, fan_in: int, constant_column: int) -> Axes:
    shape = owned.parameter.shape
    rows = torch.arange(shape.numel()).reshape(shape)
    return Axes(layer, fan_in, rows, torch.tensor(constant_column))


def _by_shape(owned: Owned) -> Axes:
    layer, shape = _layer(owned), owned.parameter.shape
    if len(shape) >= 2:
        return _dense(owned, layer)
    weight = getattr(owned.module, "weight", None)
    if isinstance(weight, Tensor) and weight.dim() >= 2 and weight.shape[0] == shape.numel():
        return _bias(owned, layer, weight.numel() // weight.shape[0], weight.shape[1])
    return _bias(owned, layer, 1, 0)


def _conv(owned: Owned, net: nn.Module) -> Axes | None:
    module, layer = owned.module, _layer(owned)
    if not isinstance(module, _CONV) or _local(owned) not in ("weight", "bias"):
        return None
    if _local(owned) == "bias":
        fan_in = module.weight.numel() // module.out_channels
        return _bias(owned, layer, fan_in, module.in_channels)
    axes = _dense(owned, layer)
    if module.groups == 1:
        return axes
    # Output channels of group k read the k-th block of input channels.
    per_group_out = module.out_channels // module.groups
    per_group_in = module.in_channels // module.groups
    columns = axes.row // per_group_out * per_group_in + axes.column
    return Axes(layer, axes.fan_in, axes.row, columns)


def _conv_transpose(owned: Owned, net: nn.Module) -> Axes | None:
    module, layer = owned.module, _layer(owned)
    if not isinstance(module, _CONV_TRANSPOSE) or _local(owned) not in ("weight", "bias"):
        return None
    per_group_out = module.out_channels // module.groups
    per_group_in = module.in_channels // module.groups
    fan_in = module.weight.numel() // module.in_channels // per_group_out * per_group_in
    if _local(owned) == "bias":
        return _bias(owned, layer, fan_in, module.in_channels)
    axes = _dense(owned, layer, row_dim=1, column_dim=0)
    rows = axes.row
    if module.groups > 1:
        rows = axes.column // per_group_in * per_group_out + axes.row
    return Axes(layer, fan_in, rows, axes.column)


def _embedding(owned: Owned, net: nn.Module) -> Axes | None:
    if not isinstance(owned.module, (nn.Embedding, nn.EmbeddingBag)):
        return None
    # The inputs are tokens, the units features: weight[token, feature], transposed from linear
    # layers. A one-hot input reads exactly one token: nothing is summed over.
    axes = _dense(owned, _layer(owned), row_dim=1, column_dim=0)
    return Axes(axes.layer, 1, axes.row, axes.column)


def _bilinear(owned: Owned, net: nn.Module) -> Axes | None:
    module = owned.module
    if not isinstance(module, nn.Bilinear):
        return None
    fan_in = module.in1_features * module.in2_features
    if owned.name.endswith("bias"):
        return _bias(owned, _layer(owned), fan_in, fan_in)
    shape = owned.parameter.shape
    pairs = torch.arange(fan_in).reshape(1, *shape[1:])
    return Axes(_layer(owned), fan_in, _along(shape, 0), pairs)


def _recurrent(owned: Owned, net: nn.Module) -> Axes | None:
    module = owned.module
    if not isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return None
    local = owned.name.rpartition(".")[2]
    found = re.fullmatch(r"(weight|bias)_(ih|hh|hr)(_l\d+(?:_reverse)?)?", local)
    if found is None:
        return None
    kind, part, suffix = found.group(1), found.group(2), found.group(3) or ""
    layer = (_layer(owned) + suffix).lstrip(".")
    inputs = getattr(module, f"weight_ih{suffix}").shape[1]
    hidden = getattr(module, f"weight_hh{suffix}").shape[1]
    if kind == "bias":
        return _bias(owned, layer, inputs if part == "ih" else hidden, inputs + hidden)
    if part == "hr":  # the projection of the hidden state is a layer of its own
        return _dense(owned, layer + ".projection")
    axes = _dense(owned, layer)
    offset = 0 if part == "ih" else inputs
    return Axes(layer, axes.fan_in, axes.row, axes.column + offset)


def _attention(owned: Owned, net: nn.Module) -> Axes | None:
    """Projections into heads are split by output unit, the projection out of them by input."""
    path, _, local = owned.name.rpartition(".")
    parent_path, _, own = path.rpartition(".")
    parent = net.get_submodule(parent_path) if own == "out_proj" else None
    if isinstance(parent, nn.MultiheadAttention):
        axes = _by_shape(owned)
        width = parent.embed_dim // parent.num_heads
        # The output bias serves all heads: it gets a number of its own.
        constant = torch.tensor(parent.num_heads)
        return Axes(
            path,
            axes.fan_in,
            axes.row,
            axes.column,
            axes.column // width if local == "weight" else constant,
        )
    module = owned.module
    if not isinstance(module, nn.MultiheadAttention):
        return None
    embed, width = module.embed_dim, module.embed_dim // module.num_heads
    # Query, key and value units follow each other, as in in_proj_weight. Where they are separate
    # they read different inputs; else the same ones.
    part = "qkv".index(local[0]) if local.endswith("_proj_weight") and local[0] in "qkv" else 0
    part = {"bias_k": 1, "bias_v": 2}.get(local, part)
    separate = getattr(module, "in_proj_weight", None) is None
    constant = embed + module.kdim + module.vdim if separate else embed
    if owned.parameter.dim() == 2:
        axes = _dense(owned, path)
        offset = (0, embed, embed + module.kdim)[part]
    else:
        axes = _bias(owned, path, embed, constant)
        offset = 0
    head = axes.row % embed // width
    return Axes(path, axes.fan_in, axes.row + part * embed, axes.column + offset, head)


_RULES: tuple[Rule, ...] = (
    _conv,
    _conv_transpose,
    _embedding,
    _bilinear,
    _recurrent,
    _attention,
)
