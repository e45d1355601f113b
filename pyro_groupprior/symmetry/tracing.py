# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The symmetry of any net, derived from the graph of what it computes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from . import elementwise, layers, shapes
from .axes import Axis, concatenation, product
from .derivation import Axes, Derivation, Operation, Rule, fresh, uniform
from .graph import Graph, module_of, operation_name, trace
from .proof import prove
from .spec import Dim, Product, Sum, Symmetry, Whole

RULES: dict[str, Rule] = {**elementwise.RULES, **layers.RULES, **shapes.RULES}


def find_symmetry(
    net: nn.Module,
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    movable: Callable[[str], bool] | Iterable[str] | None = None,
) -> Symmetry:
    """
    Derive which axes of a net's parameters may be permuted together, from a trace of the net (by
    :func:`torch.export.export`, in evaluation mode; recurrent layers are unrolled: give them short
    sequences). All that is found is proved, but more may be there: what is within attention heads,
    or within groups of channels, is permuted alike in all of them.

    Example::

        >>> from pyro_groupprior.symmetry import find_symmetry
        >>> net = nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 1))
        >>> symmetry = find_symmetry(net, torch.randn(2, 4))
        >>> symmetry.axes
        {'0': 50}

    :param Module net: the net.
    :param args: what the net is called with.
    :param kwargs: what it is called with by name.
    :param movable: which tensors may be rearranged, by name; others stay as they are, so that an
        axis is fixed where one of them is not the same all along it. Default: all parameters and
        the statistics of norm layers. Names of the same tensor go together.
    :raises TypeError: if ``movable`` is a single name.
    :raises ValueError: if it cannot be derived, where the message names the module; or a name in
        ``movable`` is none of the net's.
    """
    return derive(net, args, kwargs or {}, movable).symmetry


@dataclass(frozen=True)
class Derived:
    """
    What has been derived from a net's graph.

    :param Graph graph: the graph.
    :param Symmetry symmetry: of its tensors.
    :param values: of each operation's result, what its dimensions follow.
    """

    graph: Graph
    symmetry: Symmetry
    values: Mapping[fx.Node, tuple[Dim, ...]]


def derive(
    net: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    movable: Callable[[str], bool] | Iterable[str] | None,
) -> Derived:
    """Derive, and prove, what :func:`find_symmetry` gives."""
    graph = trace(net, args, kwargs)
    if isinstance(movable, str):
        raise TypeError(f"movable: expected several names, or a function of one, got {movable!r}")
    own: dict[str, Tensor] = dict(net.named_parameters(remove_duplicate=False))
    own |= dict(net.named_buffers(remove_duplicate=False))
    if movable is None:
        chosen = {name for name, _ in net.named_parameters(remove_duplicate=False)}
        chosen |= _statistics(net)
    elif callable(movable):
        chosen = {name for name in own if movable(name)}
    else:
        chosen = set(movable)
        unknown = sorted(chosen - set(own))
        if unknown:
            raise ValueError(f"movable: expected some of {sorted(own)}, got {unknown}")
    # By identity: a tensor of several names has its axes once, and moves under all of them.
    owners = {name: id(own.get(name, tensor)) for name, tensor in graph.tensors.items()}
    moving = {owners[name] for name in chosen if name in owners}
    known: dict[str, Axes] = {}
    firsts: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, tensor in graph.tensors.items():
        if owners[name] in moving:
            first = firsts.setdefault(owners[name], name)
            known[name] = known.get(first) or fresh(tensor.shape)
            if first != name:
                tied[name] = first
    order = Derivation(signs=False)
    _go_through(graph, known, order)
    separate: dict[int, Axes] = {}
    signed = {
        name: separate.setdefault(id(axes), [_separate(axis) for axis in axes])
        for name, axes in known.items()
    }
    signs = Derivation(signs=True)
    _go_through(graph, signed, signs)
    names = _Names(known)
    tensors = {name: names.dims(axes, signed[name]) for name, axes in known.items()}
    values = {
        node: names.dims(order.axes(node), signs.axes(node))
        for node in graph.module.graph.nodes
        if node.op == "call_function" and isinstance(node.meta.get("val"), Tensor)
    }
    symmetry = Symmetry(tensors, tied=tied)
    prove(net, symmetry, *args, kwargs=kwargs)
    return Derived(graph, symmetry, values)


def _statistics(net: nn.Module) -> set[str]:
    """Names of the buffers that go with units, as do the parameters of the same modules."""
    return {
        f"{path}.{name}".lstrip(".")
        for path, module in net.named_modules()
        for name in ("running_mean", "running_var")
        if isinstance(getattr(module, name, None), Tensor)
    }


def _go_through(graph: Graph, known: Mapping[str, Axes], of: Derivation) -> None:
    """Apply the rule of every operation."""
    for node in graph.module.graph.nodes:
        if node.op == "placeholder":
            name = graph.inputs.get(node.name)
            if name is None:
                of.values[node] = _input(node)
            else:
                of.values[node] = known.get(name) or _constant(graph.tensors[name], of)
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
    name = operation_name(target)
    value = node.meta.get("val")
    if value is None and not node.users:  # a check, such as that of a dtype
        return []
    if name in RULES:
        return RULES[name](of, Operation(args, node.kwargs, value))
    if not all(axis.is_fixed for source in node.all_input_nodes for axis in of.axes(source)):
        raise _refusal(node, f"runs {name}, of which it is not known how it treats units")
    if isinstance(value, Tensor):
        return fresh(value.shape, fixed=True)
    items = value or ()
    return [fresh(item.shape, fixed=True) if isinstance(item, Tensor) else [] for item in items]


def _refusal(node: fx.Node, reason: str) -> ValueError:
    return ValueError(
        f"net: its symmetry cannot be derived, as {module_of(node)} {reason}; write a Symmetry by "
        "hand"
    )


def _separate(axis: Axis) -> Axis:
    """The same structure of axes that are not tied to any other."""
    if not axis.parts:
        return Axis(axis.size, fixed=axis.is_fixed)
    parts = [_separate(part) for part in axis.parts]
    return product(parts) if axis.is_product else concatenation(parts)


class _Names:
    """Names of axes: those of the layers whose units they count, else of those that read them."""

    def __init__(self, known: Mapping[str, Axes]) -> None:
        self.axes: dict[Axis, str] = {}
        self.signs: dict[Axis, str] = {}
        dims = [(name, axes, 0) for name, axes in known.items() if len(axes) > 1]
        dims += [(name, axes, dim) for name, axes in known.items() for dim in range(len(axes))]
        for name, axes, dim in dims:
            layer = name.rpartition(".")[0] or name
            for leaf in axes[dim].leaves():
                if not leaf.is_fixed and leaf not in self.axes:
                    self.axes[leaf] = _numbered(layer, ":", self.axes.values())

    def dims(self, order: Axes, signs: Axes) -> tuple[Dim, ...]:
        """What the dimensions of a tensor follow."""
        found = []
        for axis, signed in zip(order, signs, strict=True):
            leaves = list(signed.leaves())
            if len(leaves) != len(list(axis.leaves())):  # nothing of it can be flipped
                leaves = [Axis(leaf.size, fixed=True) for leaf in axis.leaves()]
            found.append(self._dim(axis, iter(leaves)))
        return tuple(found)

    def _dim(self, axis: Axis, signs: Iterator[Axis]) -> Dim:
        if axis.parts:
            parts = tuple(self._dim(part, signs) for part in axis.parts)
            return Product(parts) if axis.is_product else Sum(parts)
        sign, name = next(signs).root, self.axes.get(axis.root)
        if name is None or sign.is_fixed:
            return Whole(axis.size, name)
        if sign not in self.signs:
            self.signs[sign] = _numbered(name, "~", self.signs.values())
        return Whole(axis.size, name, self.signs[sign])


def _numbered(name: str, mark: str, taken: Iterable[str]) -> str:
    """A name that is not taken: the first has no number."""
    number = sum(other.partition(mark)[0] == name for other in taken)
    return f"{name}{mark}{number}" if number else name
