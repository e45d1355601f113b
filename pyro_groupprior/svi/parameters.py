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
    with evaluation_mode(model), torch.random.fork_rng(), torch.no_grad():
        yield


def collect_parameters(
    model: Any, guide: Any, loss: ELBO, *args: Any, **kwargs: Any
) -> dict[str, Tensor]:
    """
    The trainable parameters of guide and model by name: those of modules as ``guide.NAME`` and
    ``model.NAME``, those made by ``pyro.param`` as ``store.NAME``. Sets up a guide that has none
    yet.

    :raises ValueError: if there are none.
    """
    fresh = isinstance(guide, AutoGuide) and guide.prototype_trace is None
    known = set(pyro.get_param_store().keys())
    with quiet(model), poutine.trace(param_only=True) as capture:
        loss.loss(model, guide, *args, **kwargs)
    captured = {
        name: node["value"].unconstrained()
        for name, node in capture.trace.nodes.items()
        if node["type"] == "param"
    }
    adopted = sorted(name for name in captured if name in known and _is_of(guide, name))
    if fresh and adopted:
        warnings.warn(
            f"guide: it adopted the values of {adopted[:3]} that an earlier guide of the same name "
            "left in Pyro's ParamStore; call pyro.clear_param_store() before making a new one",
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
