# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Operations that sum over inputs, and those that normalise: what makes and reads units."""

from __future__ import annotations

from torch import fx

from .axes import Axis, product, regroup_factors
from .derivation import Axes, Derivation, Operation, Rule, fresh, position
from .elementwise import join


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
        of.tie([channels], of.axes(bias))
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
            of.tie_order(of.axes(value), [x[1]])
            of.keep_sign(of.axes(value))
    for value in (shift, *statistics[:1]):
        if value is not None:
            of.tie(of.axes(value), [x[1]])
    if not statistics:  # those of the batch, as instance norm has them
        of.fix(x[2:])
    return [x, None, None, None, None]


def _layer_norm(of: Derivation, op: Operation) -> list[Axes | None]:
    x = of.axes(op.args[0])
    last = x[len(x) - len(op.args[1]) :]
    of.keep_sign(last)  # a mean is taken over them
    for value in op.args[2:4]:
        if value is not None:
            of.tie(of.axes(value), last)
    return [x, None, None]


def _group_norm(of: Derivation, op: Operation) -> list[Axes | None]:
    x, groups = of.axes(op.args[0]), int(op.args[6])
    regroup_factors([x[1]], [groups, x[1].size // groups])
    of.keep_sign([x[1]])
    for value in op.args[1:3]:
        if value is not None:
            of.tie(of.axes(value), [x[1]])
    return [x, None, None]


def _softmax(of: Derivation, op: Operation) -> Axes:
    axes = of.axes(op.args[0])
    of.keep_sign(axes)
    return axes


def _reduced(of: Derivation, op: Operation, linear: bool) -> Axes:
    axes = of.axes(op.args[0])
    dims = op.argument(1, "dim")
    if dims is None or dims == []:
        dims = range(len(axes))
    dims = {position(dim, len(axes)) for dim in ([dims] if isinstance(dims, int) else dims)}
    of.keep_sign(axis for dim, axis in enumerate(axes) if dim in dims or not linear)
    kept = [axis for dim, axis in enumerate(axes) if dim not in dims]
    if len(op.shape) == len(kept):
        return kept
    return [Axis(1) if dim in dims else axis for dim, axis in enumerate(axes)]


def _summed(of: Derivation, op: Operation) -> Axes:
    return _reduced(of, op, linear=True)


def _folded(of: Derivation, op: Operation) -> Axes:
    return _reduced(of, op, linear=False)


def _pooled(of: Derivation, op: Operation) -> Axes:
    """Channels stay, places do not; pooling is linear or, like sampling anew, nearly so."""
    axes, sizes = of.axes(op.args[0]), op.shape
    of.fix(axes[2:])
    return [*axes[:2], *fresh(sizes[2:], fixed=True)]


def _max_pooled(of: Derivation, op: Operation) -> list[Axes | None]:
    axes, sizes = of.axes(op.args[0]), op.value[0].shape
    of.keep_sign(axes)
    of.fix(axes[2:])
    return [[*axes[:2], *fresh(sizes[2:], fixed=True)], None]


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
    **dict.fromkeys(_LINEAR_POOLS.split(), _pooled),
    **dict.fromkeys(_MAX_POOLS.split(), _max_pooled),
}
