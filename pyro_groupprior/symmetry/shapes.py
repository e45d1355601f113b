# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Operations that only move values: views, slices, and tensors put together."""

from __future__ import annotations

import itertools

from .axes import Axis, concatenation, cut, regroup_factors
from .derivation import Axes, Derivation, Operation, Rule, fresh, position, shape, uniform


def _view(of: Derivation, op: Operation) -> Axes:
    return regroup_factors(of.axes(op.args[0]), op.shape)


def _permute(of: Derivation, op: Operation) -> Axes:
    axes = of.axes(op.args[0])
    return [axes[dim] for dim in op.args[1]]


def _transpose(of: Derivation, op: Operation) -> Axes:
    axes = of.axes(op.args[0])
    first, second = (position(dim, len(axes)) for dim in op.args[1:3])
    axes[first], axes[second] = axes[second], axes[first]
    return axes


def _expand(of: Derivation, op: Operation) -> Axes:
    return _expanded(of, of.axes(op.args[0]), op.shape)


def _expanded(of: Derivation, axes: Axes, sizes: tuple[int, ...]) -> Axes:
    axes = [Axis(1)] * (len(sizes) - len(axes)) + axes
    # A copy of one value is the same however it is permuted; flipped it is not.
    copies = uniform(sizes, zero=False, signs=of.signs)
    return [
        axis if axis.size == size else copy
        for axis, size, copy in zip(axes, sizes, copies, strict=True)
    ]


def _unsqueeze(of: Derivation, op: Operation) -> Axes:
    axes, dim = of.axes(op.args[0]), int(op.args[1])
    axes.insert(position(dim, len(axes) + 1), Axis(1))
    return axes


def _squeeze(of: Derivation, op: Operation) -> Axes:
    axes = of.axes(op.args[0])
    dims = op.argument(1, "dim", range(len(axes)))
    dims = {position(dim, len(axes)) for dim in ([dims] if isinstance(dims, int) else dims)}
    return [axis for dim, axis in enumerate(axes) if dim not in dims or axis.size != 1]


def _select(of: Derivation, op: Operation) -> Axes:
    axes = of.axes(op.args[0])
    axes.pop(position(int(op.args[1]), len(axes))).fix()
    return axes


def parts(axis: Axis, sizes: list[int]) -> list[Axis]:
    """An axis in parts one after another."""
    cut(axis, sizes)
    found: list[Axis] = []
    terms = axis.terms()
    for size in sizes:
        members: list[Axis] = []
        while sum(member.size for member in members) < size:
            members.append(terms.pop(0))
        found.append(concatenation(members) if size else Axis(0))
    return found


def _slice(of: Derivation, op: Operation) -> Axes:
    axes = of.axes(op.args[0])
    dim = position(int(op.argument(1, "dim", 0)), len(axes))
    axis = axes[dim]
    step = op.argument(4, "step", 1)
    start, stop, _ = slice(op.argument(2, "start"), op.argument(3, "end")).indices(axis.size)
    if step == 1:
        axes[dim] = parts(axis, [start, max(stop - start, 0), axis.size - max(stop, start)])[1]
    else:
        axis.fix()
        axes[dim] = Axis(op.shape[dim], fixed=True)
    return axes


def _split(of: Derivation, op: Operation) -> list[Axes | None]:
    axes = of.axes(op.args[0])
    dim = position(int(op.argument(2, "dim", 0)), len(axes))
    pieces = parts(axes[dim], list(op.args[1]))
    return [[*axes[:dim], piece, *axes[dim + 1 :]] for piece in pieces]


def _cat(of: Derivation, op: Operation) -> Axes:
    pieces = [of.axes(piece) for piece in op.args[0] if shape(piece) != (0,)]
    dim = position(int(op.argument(1, "dim", 0)), len(pieces[0]))
    for first, second in itertools.pairwise(pieces):
        of.tie(first[:dim] + first[dim + 1 :], second[:dim] + second[dim + 1 :])
    joined = concatenation([piece[dim] for piece in pieces])
    return [*pieces[0][:dim], joined, *pieces[0][dim + 1 :]]


def _pad(of: Derivation, op: Operation) -> Axes:
    axes, pad = of.axes(op.args[0]), list(op.args[1])
    if op.argument(2, "value", 0) != 0:
        of.keep_sign(axes)
    for number, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        dim = len(axes) - 1 - number
        if before < 0 or after < 0:
            axes[dim].fix()
            axes[dim] = Axis(axes[dim].size + before + after, fixed=True)
        elif before or after:
            ends = [Axis(size, fixed=True) for size in (before, after)]
            axes[dim] = concatenation([ends[0], axes[dim], ends[1]])
    return axes


def _flip(of: Derivation, op: Operation) -> Axes:
    axes = of.axes(op.args[0])
    of.fix(axes[position(dim, len(axes))] for dim in op.args[1])
    return axes


def _index(of: Derivation, op: Operation) -> Axes:
    """Values at places that are given: no axis that is looked up can be permuted."""
    axes, places = of.axes(op.args[0]), list(op.args[1])
    looked_up = [dim for dim, place in enumerate(places) if place is not None]
    of.fix(axes[dim] for dim in looked_up)
    kept = [axis for dim, axis in enumerate(axes) if dim not in looked_up]
    # Their own dimensions stand where the first stood, or in front where they are not neighbours.
    neighbours = looked_up == list(range(looked_up[0], looked_up[-1] + 1))
    start = looked_up[0] if neighbours else 0
    number = len(op.shape) - len(kept)
    for place in places:
        of.fix(of.axes(place))
    sizes = op.shape[start : start + number]
    return [*kept[:start], *fresh(sizes, fixed=True), *kept[start:]]


def _index_select(of: Derivation, op: Operation) -> Axes:
    axes, dim = of.axes(op.args[0]), int(op.args[1])
    of.fix([axes[dim], *of.axes(op.args[2])])
    axes[dim] = Axis(op.shape[dim], fixed=True)
    return axes


def _repeat(of: Derivation, op: Operation) -> Axes:
    axes, times = of.axes(op.args[0]), list(op.args[1])
    axes = [Axis(1)] * (len(times) - len(axes)) + axes
    copies = uniform(op.shape, zero=False, signs=of.signs)
    return [
        copy if axis.size == 1 and number != 1 else concatenation([axis] * number)
        for axis, number, copy in zip(axes, times, copies, strict=True)
    ]


def _copied(of: Derivation, op: Operation) -> Axes:
    """The second's values in the first's shape."""
    return _expanded(of, of.axes(op.args[1]), op.shape)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), _view),
    **dict.fromkeys(("permute",), _permute),
    "transpose": _transpose,
    "expand": _expand,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "select": _select,
    "slice": _slice,
    "split_with_sizes": _split,
    "cat": _cat,
    "constant_pad_nd": _pad,
    "flip": _flip,
    "index": _index,
    "index_select": _index_select,
    "repeat": _repeat,
    "copy": _copied,
}
