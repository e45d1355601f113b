# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Training and evaluation mode of nets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """
    Every module of ``model`` in evaluation mode, and back in its own afterwards: some may have
    been in evaluation mode before, as frozen batch norms are. Nothing for a plain function.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    training = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, flag in zip(modules, training, strict=True):
            module.training = flag
