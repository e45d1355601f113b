# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The graph of what a net computes, in torch's core operations."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from ..batch import tensors_in
from ..nn import evaluation_mode


@dataclass(frozen=True)
class Graph:
    """
    What a net computes in evaluation mode, for arguments of certain shapes.

    :param module: the graph.
    :param inputs: of the placeholders that are tensors of the net, their names.
    :param tensors: those tensors: parameters, buffers and constants.
    """

    module: fx.GraphModule
    inputs: Mapping[str, str]
    tensors: Mapping[str, Tensor]

    def arguments(self, tensors: Mapping[str, Tensor], *given: Any) -> list[Any]:
        """What the graph is called with, for other values of the net's tensors."""
        found, values = tensors_in(given), {**self.tensors, **tensors}
        nodes = [node for node in self.module.graph.nodes if node.op == "placeholder"]
        return [
            values[self.inputs[node.name]]
            if node.name in self.inputs
            # Numbers and None have been written into the graph.
            else (next(found) if isinstance(node.meta["val"], Tensor) else node.meta["val"])
            for node in nodes
        ]


def trace(net: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Graph:
    """
    Trace a net.

    :raises ValueError: if :func:`torch.export.export` cannot.
    """
    with evaluation_mode(net), warnings.catch_warnings():
        # Torch warns of its own deprecated calls, and of recurrent layers' bookkeeping.
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(
                net, args, dict(kwargs), strict=False
            ).run_decompositions()
        except Exception as error:
            raise ValueError(
                f"net: {type(net).__name__} cannot be traced by torch.export: {error}"
            ) from error
    constants = {k: value for k, value in program.constants.items() if isinstance(value, Tensor)}
    inputs = {
        spec.arg.name: spec.target
        for spec in program.graph_signature.input_specs
        if spec.kind != InputKind.USER_INPUT and spec.target is not None
    }
    return Graph(program.graph_module, inputs, {**program.state_dict, **constants})


def operation_name(target: Any) -> str:
    """The name of a core operation, whatever its overload."""
    return str(target.name()).partition("::")[2].partition(".")[0]


def module_of(node: fx.Node) -> str:
    """The path and type of the module that runs an operation."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "the net")
    kind = kind if isinstance(kind, str) else kind.__name__
    return f"{path or 'it'!r} ({kind.rpartition('.')[2]})"
