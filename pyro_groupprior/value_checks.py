# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Conditions on the values of tensors, looked at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor


class ValueCheck:
    """
    Whether all values of a tensor are as they should be, worked out again only once it has been
    written to, other than through ``.data`` or ``.numpy()``, of which torch keeps no count. A look
    at values in every run of a model would wait for the GPU each time, and keep the model from
    being recorded (:func:`torch.fx.experimental.proxy_tensor.make_fx`).

    Example::

        >>> from pyro_groupprior.value_checks import all_positive
        >>> scale = torch.ones(3)
        >>> all_positive(scale), all_positive(scale)
        (True, True)
        >>> scale[0] = -1.0
        >>> all_positive(scale)
        False

    :param callable condition: of a tensor, gives booleans.
    """

    def __init__(self, condition: Callable[[Tensor], Tensor]) -> None:
        self.condition = condition
        self._known: dict[int, tuple[weakref.ref[Tensor], int]] = {}

    def __call__(self, tensor: Tensor) -> bool:
        """Tensors made under inference mode keep no count of writes: they are not remembered."""
        key = id(tensor)
        found = self._known.get(key)
        if found is not None and found[0]() is tensor and found[1] == tensor._version:
            return True
        holds = bool(self.condition(tensor).all())
        if holds and not tensor.is_inference():
            forget = weakref.ref(tensor, lambda _: self._known.pop(key, None))
            self._known[key] = forget, tensor._version
        return holds


all_finite = ValueCheck(torch.isfinite)
all_positive = ValueCheck(lambda tensor: (tensor > 0) & tensor.isfinite())
