# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The symmetry of any net, derived from the graph of what it computes."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from . import elementwise, layers, shapes
from .axes import Axis, concatenation, product
from .derivation import Axes, Derivation, Operation, Rule, fresh, uniform
from .proof import prove
from .spec import Dim, Product, Sum, Symmetry, Whole

RULES: dict[str, Rule] = {**elementwise.RULES, **layers.RULES, **shapes.RULES}


def find_symmetry(
    net: nn.Module, *args: Any, movable: Callable[[str], bool] | Iterable[str] | None = None
) -> Symmetry:
    """
    Derive which axes of a net's parameters may be permuted together, from a trace of the net (by
    :func:`torch.export.export`, in evaluation mode).

    Example::

        >>> from pyro_groupprior.symmetry import find_symmetry
        >>> net = nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 1))
        >>> symmetry = find_symmetry(net, torch.randn(2, 4))
        >>> symmetry.axes
        {'0': 50}

    :param args: what the net is called with.
    :param movable: which tensors may be rearranged, by name; others stay as they are, so that an
        axis is fixed where one of them is not the same all along it. Default: all parameters and
        the statistics of norm layers.
    :raises ValueError: if it cannot be derived; the message names the module.
    """
    was_training = net.training
    net.eval()
    try:
        with warnings.catch_warnings():
            # Torch warns of its own deprecated calls, and of recurrent layers' bookkeeping.
            warnings.simplefilter("ignore")
            program = torch.export.export(net, args, strict=False).run_decompositions()
    except Exception as error:
        raise ValueError(
            f"net: {type(net).__name__} cannot be traced by torch.export: {error}"
        ) from error
    finally:
        net.train(was_training)
    tensors = {
        **program.state_dict,
        **{name: value for name, value in program.constants.items() if isinstance(value, Tensor)},
    }
    if movable is None:
        chosen = {name for name, _ in net.named_parameters(remove_duplicate=False)}
        chosen |= _statistics(net)
    elif callable(movable):
        chosen = {name for name in tensors if movable(name)}
    else:
        chosen = set(movable)
    inputs = {
        spec.arg.name: spec.target
        for spec in program.graph_signature.input_specs
        if spec.kind != InputKind.USER_INPUT and spec.target is not None
    }
    order: dict[str, Axes] = {}
    tied: dict[int, Axes] = {}  # by identity: a tensor of several names has its axes once
    for name in tensors:
        if name in chosen:
            tensor = operator.attrgetter(name)(net)
            order[name] = tied.setdefault(id(tensor), fresh(tensor.shape))
    _go_through(program.graph, inputs, tensors, order, Derivation(signs=False))
    separate: dict[int, Axes] = {}
    sign = {
        name: separate.setdefault(id(axes), [_separate(axis) for axis in axes])
        for name, axes in order.items()
    }
    _go_through(program.graph, inputs, tensors, sign, Derivation(signs=True))
    symmetry = _specify(order, sign)
    prove(net, symmetry, *args)
    return symmetry


def _statistics(net: nn.Module) -> set[str]:
    """Names of the buffers that go with units, as do the parameters of the same modules."""
    return {
        f"{path}.{name}".lstrip(".")
        for path, module in net.named_modules()
        for name in ("running_mean", "running_var")
        if isinstance(getattr(module, name, None), Tensor)
    }


def _go_through(
    graph: fx.Graph,
    inputs: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    known: Mapping[str, Axes],
    of: Derivation,
) -> None:
    """Apply the rule of every operation."""
    for node in graph.nodes:
        if node.op == "placeholder":
            name = inputs.get(node.name)
            if name is None:
                of.values[node] = _input(node)
            else:
                of.values[node] = known.get(name) or _constant(tensors[name], of)
        elif node.op == "call_function":
            of.values[node] = _apply(of, node)
        elif node.op == "output":
            for value in node.all_input_nodes:
                of.fix(of.axes(value))


def _input(node: fx.Node) -> Axes:
    value = node.meta["val"]
    return fresh(value.shape, fixed=True) if isinstance(value, Tensor) else []


def _constant(tensor: Tensor, of: Derivation) -> Axes:
    """Of a tensor that stays as it is: it is fixed but where it is the same everywhere."""
    free = uniform(tensor.shape, zero=not bool(tensor.any()), signs=of.signs)
    same = [
        not size or bool((tensor == tensor.narrow(dim, 0, 1)).all())
        for dim, size in enumerate(tensor.shape)
    ]
    fixed = fresh(tensor.shape, fixed=True)
    return [
        one if is_same else other for one, other, is_same in zip(free, fixed, same, strict=True)
    ]


def _apply(of: Derivation, node: fx.Node) -> Any:
    args: tuple[Any, ...] = node.args
    target: Any = node.target
    if target is operator.getitem:
        found = of.values[args[0]][args[1]]
        if found is None:
            raise _refusal(node, "looks at what depends on the order of units")
        return found
    name = target.name().partition("::")[2].partition(".")[0]
    value = node.meta["val"]
    if name in RULES:
        return RULES[name](of, Operation(args, node.kwargs, value))
    if not all(axis.is_fixed for source in node.all_input_nodes for axis in of.axes(source)):
        raise _refusal(node, f"runs {name}, of which it is not known how it treats units")
    if isinstance(value, Tensor):
        return fresh(value.shape, fixed=True)
    return [fresh(item.shape, fixed=True) if isinstance(item, Tensor) else [] for item in value]


def _refusal(node: fx.Node, reason: str) -> ValueError:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "net")
    kind = kind if isinstance(kind, str) else kind.__name__
    return ValueError(
        f"net: its symmetry cannot be derived, as {path or 'it'!r} ({kind.rpartition('.')[2]}) "
        f"{reason}; write a Symmetry by hand"
    )


def _separate(axis: Axis) -> Axis:
    """The same structure of axes that are not tied to any other."""
    if not axis.parts:
        return Axis(axis.size, fixed=axis.is_fixed)
    parts = [_separate(part) for part in axis.parts]
    return product(parts) if axis.is_product else concatenation(parts)


def _specify(order: Mapping[str, Axes], sign: Mapping[str, Axes]) -> Symmetry:
    """Give names to the axes that were found."""
    names = _names(order)
    flipped: dict[Axis, str] = {}
    tensors = {}
    for name, axes in order.items():
        dims = []
        for axis, signed in zip(axes, sign[name], strict=True):
            leaves = iter(list(signed.leaves()))
            dims.append(_dim(axis, leaves, names, flipped))
        tensors[name] = tuple(dims)
    return Symmetry(tensors)


def _names(order: Mapping[str, Axes]) -> dict[Axis, str]:
    """Name axes after the layers whose units they count, else after those that read them."""
    names: dict[Axis, str] = {}
    dims = [(name, axes, 0) for name, axes in order.items() if len(axes) > 1]
    dims += [(name, axes, dim) for name, axes in order.items() for dim in range(len(axes))]
    for name, axes, dim in dims:
        for leaf in axes[dim].leaves():
            if not leaf.is_fixed and leaf not in names:
                layer = name.rpartition(".")[0] or name
                taken = sum(
                    other == layer or other.startswith(f"{layer}:") for other in names.values()
                )
                names[leaf] = f"{layer}:{taken}" if taken else layer
    return names


def _dim(axis: Axis, signs: Any, names: Mapping[Axis, str], flipped: dict[Axis, str]) -> Dim:
    if axis.parts:
        parts = tuple(_dim(part, signs, names, flipped) for part in axis.parts)
        return Product(parts) if axis.is_product else Sum(parts)
    sign = next(signs)
    name = names.get(axis.root)
    if name is None or sign.is_fixed:
        return Whole(axis.size, name)
    if sign.root not in flipped:
        taken = sum(other == name or other.startswith(f"{name}~") for other in flipped.values())
        flipped[sign.root] = f"{name}~{taken}" if taken else name
    return Whole(axis.size, name, flipped[sign.root])
