# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Plain ``nn.Parameter`` s as Pyro param sites, past the global ParamStore."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from pyro.poutine.runtime import am_i_wrapped, effectful
from torch import Tensor, nn

# Whether the engine that is running holds the modules' parameters already.
_PARAMETERS_HELD: ContextVar[bool] = ContextVar("parameters_held", default=False)


@contextmanager
def parameters_held() -> Iterator[None]:
    """For an engine whose optimizer holds all parameters: spare :func:`expose_parameters`."""
    token = _PARAMETERS_HELD.set(True)
    try:
        yield
    finally:
        _PARAMETERS_HELD.reset(token)


def expose_parameters(module: nn.Module, prefix: str) -> None:
    """
    State a module's own trainable parameters as param sites, so that :class:`pyro.infer.SVI`
    finds them, without Pyro's global ParamStore: there, a second module of the same name would
    silently adopt the values of the first.

    :param str prefix: put before the parameters' names.
    """
    if _PARAMETERS_HELD.get() or not am_i_wrapped():
        return
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            value = parameter.view_as(parameter)
            value.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]
            _param(value, name=f"{prefix}.{name}")


@effectful(type="param")
def _param(value: Tensor) -> Tensor:
    return value
