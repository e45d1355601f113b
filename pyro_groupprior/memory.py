# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""How many posterior draws of a net's weights fit into memory at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .nn import BayesianModule

# Bytes of activations beyond which a processor is no faster, and soon twice as slow: measured on
# the MLP 10-50-50-10 with 128, 1,000 and 5,000 rows.
CACHE = 2**24


def chunk_sizes(
    model: BayesianModule, weights: Tensor, inputs: Any, max_memory: float, num_copies: int
) -> tuple[int, int]:
    """
    Judged by the sizes of all modules' outputs for one draw.

    :param Tensor weights: one draw, shape ``[W]``.
    :param float max_memory: GiB for weights and activations.
    :param int num_copies: how many vectors like ``weights`` a draw takes in the making.
    :return: how many draws to hold at once, and of these how many to give to the net at once.
    :raises ValueError: if ``max_memory`` is not positive.
    """
    if not max_memory > 0:
        raise ValueError(f"max_memory: expected a positive number of GiB, got {max_memory}")
    outputs = _output_size(model, weights, inputs)
    held = num_copies * weights.numel() + outputs
    fitting = max(1, int(max_memory * 2**30 / (held * weights.element_size())))
    if weights.device.type != "cpu":
        return fitting, fitting
    at_once = int(CACHE / ((weights.numel() + outputs) * weights.element_size()))
    return fitting, max(1, min(fitting, at_once))


def in_chunks(
    work: Callable[[int, int], tuple[Tensor, dict[str, Tensor]]], total: int, size: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """
    Results for ``total`` draws, at most ``size`` of them at once.

    :param work: from the first and the end of some draws' numbers to a large tensor and small
        ones by name, all with one row for each draw.
    """
    rows, small = work(0, min(size, total))
    if size >= total:
        return rows, small
    # Filled as it grows: the pieces and their concatenation would take twice the memory.
    every, parts = rows.new_empty((total, *rows.shape[1:])), [small]
    every[:size] = rows
    del rows
    for start in range(size, total, size):
        stop = min(start + size, total)
        every[start:stop], small = work(start, stop)
        parts.append(small)
    return every, {name: torch.cat([part[name] for part in parts]) for name in small}


def _output_size(model: BayesianModule, weights: Tensor, inputs: Any) -> int:
    """Elements of all modules' outputs; what a container only passes on counts once."""
    size = 0
    seen: dict[int, weakref.ref[Tensor]] = {}

    def count(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal size
        if isinstance(output, Tensor):
            known = seen.get(id(output))
            if known is None or known() is not output:
                seen[id(output)] = weakref.ref(output)
                size += output.numel()
        elif isinstance(output, Mapping):
            for item in output.values():
                count(module, args, item)
        elif isinstance(output, (tuple, list)):
            for item in output:
                count(module, args, item)

    handles = [module.register_forward_hook(count) for module in model.net.modules()]
    try:
        model.call_net(weights, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return size
