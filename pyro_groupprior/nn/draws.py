# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A net's outputs for many draws of its packed weights at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# What torch raises where an operation has no batching rule, or works on values or in place.
NOT_BATCHABLE = (RuntimeError, NotImplementedError, ValueError)


def map_draws(
    call_net: Callable[[Tensor], Any], draws: Tensor, chunk_size: int | None = None
) -> Any:
    """
    Apply a function of packed weights to every draw: vectorised with :func:`torch.vmap` where the
    net's operations allow it, else one draw at a time.

    Example::

        >>> map_draws(lambda w: w.sum(), torch.ones(5, 3))
        tensor([3., 3., 3., 3., 3.])

    :param call_net: from packed weights ``[W]`` to a tensor.
    :param Tensor draws: shape ``[S, W]``.
    :param int chunk_size: at most this many draws at once; default: all.
    :return: the outputs, stacked along a new first dimension.
    """
    try:
        with warnings.catch_warnings():
            # A missing batching rule falls back on a slow loop inside torch: ours is no slower.
            warnings.filterwarnings("error", message="There is a performance drop")
            return torch.vmap(call_net, randomness="different", chunk_size=chunk_size)(draws)
    except (*NOT_BATCHABLE, UserWarning):
        # A true error of the net shows again here, outside of vmap.
        outputs = [call_net(draw) for draw in draws]
    return torch.stack(outputs)
