# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Operations that sum over inputs, and those that normalise: what makes and reads units."""

from __future__ import annotations

from typing import Any

from torch import fx

from .axes import Axis, product, regroup_factors
from .derivation import Axes, Derivation, Operation, Rule, fresh, position
from .elementwise import join, multiply


def _mm(of: Derivation, op: Operation) -> Axes:
    (rows, inner), (other, columns) = of.axes(op.args[0]), of.axes(op.args[1])
    of.tie([inner], [other])
    return [rows, columns]


def _addmm(of: Derivation, op: Operation) -> Axes:
    bias, first, second = (of.axes(value) for value in op.args[:3])
    of.tie([first[1]], [second[0]])
    return join(of, [[first[0], second[1]], bias], op.shape, signed=True)


def _mv(of: Derivation, op: Operation) -> Axes:
    (rows, inner), vector = of.axes(op.args[0]), of.axes(op.args[1])
    of.tie([inner], vector)
    return [rows]


def _dot(of: Derivation, op: Operation) -> Axes:
    of.tie(of.axes(op.args[0]), of.axes(op.args[1]))
    return []


def _bmm(of: Derivation, op: Operation) -> Axes:
    (batch, rows, inner), (side, other, columns) = (of.axes(value) for value in op.args[:2])
    of.tie([inner], [other])
    return [of.multiplied(batch, side), rows, columns]


def _convolution(of: Derivation, op: Operation) -> Axes:
    x, weight = of.axes(op.args[0]), of.axes(op.args[1])
    bias, transposed, groups = op.args[2], bool(op.args[6]), int(op.args[8])
    of.fix(x[2:])
    of.fix(weight[2:])
    inputs, outputs = (0, 1) if transposed else (1, 0)  # dimensions of the weight
    if groups == 1:
        of.tie([x[1]], [weight[inputs]])
        channels = weight[outputs]
    else:
        # One dimension of the weight runs over groups and what is in each, the other over the
        # latter only: the groups are those of both the channels read and the channels made.
        both = weight[0]
        blocks, within = regroup_factors([both], [groups, both.size // groups])
        read, within_read = regroup_factors([x[1]], [groups, x[1].size // groups])
        if transposed:
            of.tie([within_read], [within])
            channels = product([of.multiplied(read, blocks), weight[1]])
        else:
            of.tie([within_read], [weight[1]])
            channels = product([of.multiplied(read, blocks), within])
    if bias is not None:
        (channels,) = of.tie([channels], of.axes(bias))
        of.keep_sign([x[0]])
    return [x[0], channels, *fresh(op.shape[2:], fixed=True)]


def _embedding(of: Derivation, op: Operation) -> Axes:
    tokens, features = of.axes(op.args[0])
    tokens.fix()
    return [*of.axes(op.args[1]), features]


def _batch_norm(of: Derivation, op: Operation) -> list[Axes | None]:
    x = of.axes(op.args[0])
    scale, shift = op.argument(1, "weight"), op.argument(2, "bias")
    statistics = [value for value in op.args[3:5] if isinstance(value, fx.Node)]
    for value in (scale, *statistics[1:]):  # neither a scale nor a variance has a sign
        if value is not None:
            x[1:2] = of.tie_order(of.axes(value), [x[1]])
            of.keep_sign(of.axes(value))
    for value in (shift, *statistics[:1]):
        if value is not None:
            x[1:2] = of.tie(of.axes(value), [x[1]])
    if shift is not None or statistics:
        of.keep_sign([x[0], *x[2:]])  # along which the same is added
    if not statistics:  # those of the batch, as instance norm has them
        of.fix(x[2:])
    return [x, None, None, None, None]


def _layer_norm(of: Derivation, op: Operation) -> list[Axes | None]:
    x = of.axes(op.args[0])
    first, last = x[: len(x) - len(op.args[1])], x[len(x) - len(op.args[1]) :]
    of.keep_sign(last)  # a mean is taken over them
    if op.args[3] is not None:
        of.keep_sign(first)  # along which the same is added
    for value in op.args[2:4]:
        if value is not None:
            last = of.tie(of.axes(value), last)
    return [[*first, *last], None, None]


def _group_norm(of: Derivation, op: Operation) -> list[Axes | None]:
    x, groups = of.axes(op.args[0]), int(op.args[6])
    regroup_factors([x[1]], [groups, x[1].size // groups])
    of.keep_sign(x[1:])  # a mean is taken over them
    if op.args[2] is not None:
        of.keep_sign([x[0]])
    for value in op.args[1:3]:
        if value is not None:
            x[1:2] = of.tie(of.axes(value), [x[1]])
    return [x, None, None]


def _softmax(of: Derivation, op: Operation) -> Axes:
    axes = of.axes(op.args[0])
    of.keep_sign(axes)
    return axes


def _reduced(of: Derivation, op: Operation, linear: bool) -> Axes:
    axes = of.axes(op.args[0])
    kept, summed = _apart(axes, op.argument(1, "dim"), op)
    of.keep_sign(summed if linear else axes)
    return kept


def _summed(of: Derivation, op: Operation) -> Axes:
    return _reduced(of, op, linear=True)


def _folded(of: Derivation, op: Operation) -> Axes:
    return _reduced(of, op, linear=False)


def _places(op: Operation, number: int) -> int:
    """Where the dimensions of places begin: there may be none for rows of data."""
    return number - len(op.args[1]) if isinstance(op.args[1], (tuple, list)) else 2


def _pooled(of: Derivation, op: Operation) -> Axes:
    """Channels stay, places do not; pooling is linear or, like sampling anew, nearly so."""
    axes, sizes = of.axes(op.args[0]), op.shape
    first = _places(op, len(axes))
    of.fix(axes[first:])
    return [*axes[:first], *fresh(sizes[first:], fixed=True)]


def _max_pooled(of: Derivation, op: Operation) -> list[Axes | None]:
    axes, sizes = of.axes(op.args[0]), op.value[0].shape
    first = _places(op, len(axes))
    of.keep_sign(axes)
    of.fix(axes[first:])
    return [[*axes[:first], *fresh(sizes[first:], fixed=True)], None]


def _norm(of: Derivation, op: Operation) -> Axes:
    """The root of a sum of powers of absolute values: whatever the signs are."""
    axes, dims = of.axes(op.args[0]), op.argument(2, "dim")
    return of.unsigned(_apart(axes, dims, op)[0])


def _apart(axes: Axes, dims: Any, op: Operation) -> tuple[Axes, Axes]:
    """The axes that are left when some dimensions are summed over, and those of the latter."""
    if dims is None or dims == []:
        dims = range(len(axes))
    dims = {position(dim, len(axes)) for dim in ([dims] if isinstance(dims, int) else dims)}
    kept = [axis for dim, axis in enumerate(axes) if dim not in dims]
    if len(op.shape) != len(kept):
        kept = [Axis(1) if dim in dims else axis for dim, axis in enumerate(axes)]
    return kept, [axes[dim] for dim in dims]


def _extreme(of: Derivation, op: Operation) -> Axes | list[Axes | None]:
    """The largest value, or that in the middle; of one dimension, with where it is, or of all."""
    axes = of.axes(op.args[0])
    of.keep_sign(axes)
    if not isinstance(op.value, (tuple, list)):
        return []
    dim = position(int(op.argument(1, "dim", -1)), len(axes))
    kept = axes[:dim] + axes[dim + 1 :]
    if len(op.value[0].shape) == len(axes):
        kept.insert(dim, Axis(1))
    return [kept, None]


def _sorted(of: Derivation, op: Operation, dim: int) -> list[Axes | None]:
    """Values in order, wherever they stood."""
    axes = of.axes(op.args[0])
    of.keep_sign(axes)
    dim = position(dim, len(axes))
    axes[dim] = Axis(op.value[0].shape[dim], fixed=True)
    return [axes, None]


def _sort(of: Derivation, op: Operation) -> list[Axes | None]:
    return _sorted(of, op, int(op.argument(1, "dim", -1)))


def _topk(of: Derivation, op: Operation) -> list[Axes | None]:
    return _sorted(of, op, int(op.argument(2, "dim", -1)))


def _cumulated(of: Derivation, op: Operation) -> Axes:
    axes = of.axes(op.args[0])
    axes[position(int(op.args[1]), len(axes))].fix()
    return axes


def _cumulated_products(of: Derivation, op: Operation) -> Axes:
    of.keep_sign(of.axes(op.args[0]))
    return _cumulated(of, op)


def _embedding_bag(of: Derivation, op: Operation) -> list[Axes | None]:
    tokens, features = of.axes(op.args[0])
    tokens.fix()
    if int(op.argument(4, "mode", 0)) == 2:  # the largest
        of.keep_sign([features])
    return [[Axis(op.value[0].shape[0], fixed=True), features], None, None, None]


def _trilinear(of: Derivation, op: Operation) -> Axes:
    """The product of three tensors, summed over some dimensions: a bilinear layer."""
    operands = []
    for node, added in zip(op.args[:3], op.args[3:6], strict=True):
        axes = of.axes(node)
        for dim in sorted(added):
            axes.insert(dim, Axis(1))
        operands.append(axes)
    sizes = tuple(max(axes[dim].size for axes in operands) for dim in range(len(operands[0])))
    found = multiply(of, operands, sizes)
    of.keep_sign(found[dim] for dim in op.args[6])
    return [axis for dim, axis in enumerate(found) if dim not in op.args[6]]


_LINEAR_POOLS = (
    "avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d "
    "upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d "
    "upsample_nearest2d upsample_nearest3d upsample_trilinear3d"
)
_MAX_POOLS = (
    "max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool2d adaptive_max_pool3d"
)

RULES: dict[str, Rule] = {
    "mm": _mm,
    "addmm": _addmm,
    "mv": _mv,
    "dot": _dot,
    "bmm": _bmm,
    "convolution": _convolution,
    "embedding": _embedding,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "_native_batch_norm_legit": _batch_norm,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    **dict.fromkeys(("_softmax", "_log_softmax"), _softmax),
    **dict.fromkeys(("mean", "sum"), _summed),
    **dict.fromkeys(["all", "amax", "amin", "any", "logsumexp", "prod", "var"], _folded),
    "linalg_vector_norm": _norm,
    **dict.fromkeys(("max", "min", "median", "nanmedian", "mode"), _extreme),
    "sort": _sort,
    "topk": _topk,
    "cumsum": _cumulated,
    "cumprod": _cumulated_products,
    "_embedding_bag": _embedding_bag,
    "_trilinear": _trilinear,
    **dict.fromkeys(_LINEAR_POOLS.split(), _pooled),
    **dict.fromkeys(_MAX_POOLS.split(), _max_pooled),
}
