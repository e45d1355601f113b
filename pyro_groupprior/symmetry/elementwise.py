# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Operations that act on every position by itself: they permute as their arguments do."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from .axes import Axis
from .derivation import Axes, Derivation, Operation, Rule, shape, uniform

#: f(-x) = -f(x); dropout is none in evaluation mode.
ODD = (
    "alias asin asinh atan atanh clone contiguous detach erf erfinv hardshrink neg sgn sign sin "
    "sinh softshrink tan tanh _to_copy round trunc lift_fresh_copy"
)
#: f(-x) = f(x).
EVEN = "abs cos cosh isfinite isinf isnan"
#: Neither.
OTHER = (
    "acos acosh bitwise_not ceil elu erfc exp exp2 expm1 floor frac gelu hardsigmoid hardswish "
    "leaky_relu lgamma log log10 log1p log2 logical_not logit log_sigmoid_forward mish reciprocal "
    "relu relu6 rsqrt selu celu sigmoid silu softplus sqrt threshold"
)
#: Of two arguments, position by position.
BINARY = (
    "atan2 bitwise_and bitwise_or bitwise_xor eq fmod ge gt le logical_and logical_or logical_xor "
    "lt maximum minimum ne remainder pow"
)


def _odd(of: Derivation, op: Operation) -> Axes:
    return of.axes(op.args[0])


def _even(of: Derivation, op: Operation) -> Axes:
    return of.unsigned(of.axes(op.args[0]))


def _other(of: Derivation, op: Operation) -> Axes:
    axes = of.axes(op.args[0])
    of.keep_sign(axes)
    return axes


def _hardtanh(of: Derivation, op: Operation) -> Axes:
    return _clamp(of, op, 1.0)


def _clamp(of: Derivation, op: Operation, default: float | None = None) -> Axes:
    low = op.argument(1, "min", None if default is None else -default)
    high = op.argument(2, "max", default)
    numbers = isinstance(low, (int, float)) and isinstance(high, (int, float))
    return _odd(of, op) if numbers and low == -high else _joined(of, op, signed=False)


def _pow(of: Derivation, op: Operation) -> Axes:
    exponent = op.args[1]
    if isinstance(exponent, (int, float)) and exponent == int(exponent):
        return _odd(of, op) if exponent % 2 else _even(of, op)
    return _joined(of, op, signed=False)


def _joined(of: Derivation, op: Operation, signed: bool) -> Axes:
    """Of arguments that broadcast; signed: flipping all of them flips the result."""
    operands = [argument for argument in op.args if isinstance(argument, (fx.Node, int, float))]
    numbers = any(not isinstance(operand, fx.Node) and operand != 0 for operand in operands[:2])
    return join(of, [of.axes(operand) for operand in operands], op.shape, signed and not numbers)


def join(of: Derivation, operands: Iterable[Axes], sizes: tuple[int, ...], signed: bool) -> Axes:
    """Tie the axes of tensors that broadcast to a shape; return those of the result."""
    found: list[Axis | None] = [None] * len(sizes)
    alone = [False] * len(sizes)  # beside others that are the same for all positions
    for axes in operands:
        missing = len(sizes) - len(axes)
        for dim, size in enumerate(sizes):
            axis = axes[dim - missing] if dim >= missing else None
            if size == 1:
                continue
            if axis is None or axis.size == 1:
                alone[dim] = True
                continue
            other = found[dim]
            found[dim] = axis if other is None else of.tie([other], [axis])[0]
    result = []
    for size, axis, lonely in zip(sizes, found, alone, strict=True):
        if axis is None:
            result.append(Axis(size, fixed=of.signs or size == 1))  # one number everywhere
            continue
        if lonely or not signed:
            of.keep_sign([axis])
        result.append(axis)
    return result


def _added(of: Derivation, op: Operation) -> Axes:
    return _joined(of, op, signed=True)


def _compared(of: Derivation, op: Operation) -> Axes:
    return _joined(of, op, signed=False)


def _where(of: Derivation, op: Operation) -> Axes:
    condition, *values = (of.axes(operand) for operand in op.args)
    of.keep_sign(condition)
    scalar = any(not shape(operand) for operand in op.args[1:])
    result = join(of, values, op.shape, signed=not scalar)
    of.tie_order(*_beside(condition, result))
    return result


def _beside(axes: Axes, others: Axes) -> tuple[Axes, Axes]:
    """The pairs, from the last, of which the first is not the same for all positions."""
    pairs = [
        (one, other)
        for one, other in zip(axes, others[len(others) - len(axes) :], strict=True)
        if one.size != 1
    ]
    return [one for one, _ in pairs], [other for _, other in pairs]


def multiply(of: Derivation, operands: list[Axes], sizes: tuple[int, ...]) -> Axes:
    """The axes of a product of tensors that broadcast to a shape."""
    result: list[Axis | None] = [None] * len(sizes)
    for axes in operands:
        missing = len(sizes) - len(axes)
        for dim, axis in enumerate(axes, missing):
            if axis.size != 1 or sizes[dim] == 1:
                other = result[dim]
                result[dim] = axis if other is None else of.multiplied(other, axis)
    return [Axis(size) if axis is None else axis for size, axis in zip(sizes, result, strict=True)]


def _multiplied(of: Derivation, op: Operation) -> Axes:
    nodes = [operand for operand in op.args if isinstance(operand, fx.Node)]
    # A parameter that scales something else is the one not to be flipped: it comes second.
    nodes.sort(key=lambda operand: operand.op == "placeholder")
    return multiply(of, [of.axes(operand) for operand in nodes], op.shape)


def _divided(of: Derivation, op: Operation) -> Axes:
    if op.argument(2, "rounding_mode") is not None:
        return _compared(of, op)
    return _multiplied(of, op)


def _filled(of: Derivation, op: Operation) -> Axes:
    """The same number everywhere."""
    return uniform(op.shape, zero=op.args[-1] == 0, signs=of.signs)


def _zeros(of: Derivation, op: Operation) -> Axes:
    return uniform(op.shape, zero=True, signs=of.signs)


def _ones(of: Derivation, op: Operation) -> Axes:
    return uniform(op.shape, zero=False, signs=of.signs)


RULES: dict[str, Rule] = {
    **dict.fromkeys(ODD.split(), _odd),
    **dict.fromkeys(EVEN.split(), _even),
    **dict.fromkeys(OTHER.split(), _other),
    **dict.fromkeys(BINARY.split(), _compared),
    "clamp": _clamp,
    "hardtanh": _hardtanh,
    **dict.fromkeys(("add", "sub", "rsub"), _added),
    "pow": _pow,
    "mul": _multiplied,
    "div": _divided,
    "where": _where,
    **dict.fromkeys(("full", "full_like", "new_full", "scalar_tensor"), _filled),
    **dict.fromkeys(("zeros", "zeros_like", "new_zeros"), _zeros),
    **dict.fromkeys(("ones", "ones_like", "new_ones"), _ones),
}
