# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""All that an optimizer has to hold, wherever it is kept: modules or Pyro's ParamStore."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.poutine as poutine
import torch
from pyro.infer import ELBO
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn

from ..nn import evaluation_mode


@contextmanager
def quiet(model: Any) -> Iterator[None]:
    """Run a model without a trace: no gradients, no batch statistics, no random state used up."""
    # By default torch would start up every GPU of the machine to fork its state.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with evaluation_mode(model), torch.random.fork_rng(devices), torch.no_grad():
        yield


def collect_parameters(
    model: Any, guide: Any, loss: ELBO, batch: tuple[Any, Any], at_start: bool
) -> dict[str, Tensor]:
    """
    The trainable parameters of guide and model by name: those of modules as ``guide.NAME`` and
    ``model.NAME``, those made by ``pyro.param`` as ``store.NAME``. Sets up a guide that has none
    yet.

    :param batch: positional and keyword arguments of the model.
    :param bool at_start: warn if values in the ParamStore are those of an earlier model or guide.
    :raises ValueError: if there are none.
    """
    args, kwargs = batch
    fresh = isinstance(guide, AutoGuide) and guide.prototype_trace is None
    known = set(pyro.get_param_store().keys())
    with quiet(model), poutine.trace(param_only=True) as capture:
        loss.loss(model, guide, *args, **kwargs)
    captured = {
        name: node["value"].unconstrained()
        for name, node in capture.trace.nodes.items()
        if node["type"] == "param"
    }
    adopted = [
        name
        for name, node in capture.trace.nodes.items()
        if name in known and ((fresh and _is_of(guide, name)) or _differs_from_init(node))
    ]
    if adopted and at_start:
        warnings.warn(
            f"model, guide: they adopted the values of {sorted(adopted)[:3]} that an earlier model "
            "or guide left in Pyro's ParamStore under the same names; call "
            "pyro.clear_param_store() before making new ones",
            stacklevel=3,
        )
    parameters: dict[str, Tensor] = {}
    for prefix, module in (("guide", guide), ("model", model)):
        if isinstance(module, nn.Module):
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    parameters[f"{prefix}.{name}"] = parameter
    present = {id(parameter) for parameter in parameters.values()}
    for name, parameter in captured.items():
        if id(parameter) not in present:
            parameters[f"store.{name}"] = parameter
    if not parameters:
        raise ValueError("model, guide: expected trainable parameters, found none")
    return parameters


def _is_of(guide: Any, name: str) -> bool:
    return name.startswith(type(guide).__name__)


def _differs_from_init(node: Any) -> bool:
    """Whether a ``pyro.param`` statement's value is another than the first value it names."""
    init = node["args"][1] if node["type"] == "param" and len(node["args"]) > 1 else None
    if not isinstance(init, Tensor):
        return False
    value = node["value"].detach()
    return value.shape != init.shape or not torch.allclose(value, init.to(value), rtol=1e-4)
