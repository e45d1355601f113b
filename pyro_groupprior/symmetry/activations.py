# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What a net's units do: their activations, for any weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from .blocks import Block, blocks
from .graph import operation_name
from .spec import Dim, Symmetry, wholes
from .tracing import derive

#: Operations that sum over units: what they read are activations.
_READERS = {"mm", "addmm", "bmm", "mv", "dot", "convolution"}


class Activations:
    """
    The activations of a net at given inputs, wherever a layer reads units that may be permuted.

    Example::

        >>> from pyro_groupprior.symmetry import Activations
        >>> net = nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 1))
        >>> activations = Activations(net, torch.randn(20, 4))
        >>> [tuple(block.value.shape) for block in activations(dict(net.named_parameters()))]
        [(20, 50)]

    :param Module net: the net.
    :param args: what it is called with.
    :param kwargs: what it is called with by name.
    :param bool standardize: of each unit, over all that the net is called with, take the mean out
        and divide by the standard deviation, so that inner products are correlations.
    :param movable: as in :func:`find_symmetry`.
    :raises ValueError: if the net's symmetry cannot be derived.
    """

    def __init__(
        self,
        net: nn.Module,
        *args: Any,
        kwargs: Mapping[str, Any] | None = None,
        standardize: bool = False,
        movable: Callable[[str], bool] | Iterable[str] | None = None,
    ) -> None:
        self.standardize = standardize
        derived = derive(net, args, kwargs or {}, movable)
        self.symmetry, self._graph = derived.symmetry, derived.graph
        self._given = args, dict(kwargs or {})
        floats = (value.dtype for value in net.parameters() if value.is_floating_point())
        self._dtype = next(floats, torch.get_default_dtype())
        inputs = {node for node in derived.graph.module.graph.nodes if node.op == "placeholder"}
        own = {node for node in inputs if node.name in derived.graph.inputs}
        from_data = inputs - own
        found: dict[str, fx.Node] = {}
        for node in derived.graph.module.graph.nodes:
            if from_data.intersection(node.all_input_nodes):
                from_data.add(node)
            if node.op == "call_function" and _name(node) in _READERS:
                for source in node.all_input_nodes:
                    if source in from_data and source in derived.values:
                        found[source.name] = source
        dims = {name: derived.values[node] for name, node in found.items()}
        # Units that no layer reads, as where they are weighted and summed: wherever they are last.
        missing = set(derived.symmetry.axes) - _axes(dims)
        for node, of in reversed(list(derived.values.items())):
            if node in from_data and _axes({"": of}) & missing:
                dims[node.name] = of
                missing -= _axes({"": of})
        self._dims = Symmetry({name: of for name, of in dims.items() if _axes({name: of})})

    @torch.no_grad()
    def __call__(self, tensors: Mapping[str, Tensor]) -> list[Block]:
        """
        The activations for given weights, in blocks.

        :param tensors: parameters and buffers by name; the net's own for those left out.
        """
        tensors = {
            name: value.to(self._dtype) if value.is_floating_point() else value
            for name, value in tensors.items()
        }
        recorder = _Recorder(self._graph.module, set(self._dims.tensors))
        recorder.run(*self._graph.arguments(tensors, *self._given))
        found = blocks(self._dims, recorder.values)
        return list(map(_standardized, found)) if self.standardize else found


def _axes(dims: Mapping[str, tuple[Dim, ...]]) -> set[str]:
    """Those that tensors follow."""
    each = (whole.axis for of in dims.values() for dim in of for whole in wholes(dim))
    return {axis for axis in each if axis is not None}


def _standardized(block: Block) -> Block:
    """Mean 0 and squares that sum to 1 over all dimensions along which nothing is permuted."""
    dims = [dim for dim, whole in enumerate(block.wholes) if whole.axis is None]
    value = block.value - block.value.mean(dims, keepdim=True)
    # A unit that is off for all inputs is like no other: it stays at zero.
    norm = value.square().sum(dims, keepdim=True).sqrt()
    return Block(value / norm.clamp(min=torch.finfo(value.dtype).tiny), block.wholes)


def _name(node: fx.Node) -> str:
    target: Any = node.target
    return operation_name(target) if hasattr(target, "name") else ""


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps the results of some nodes."""

    def __init__(self, module: fx.GraphModule, names: set[str]) -> None:
        super().__init__(module)
        self.names, self.values = names, dict[str, Tensor]()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self.names:
            self.values[n.name] = result
        return result
