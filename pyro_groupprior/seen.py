# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Which tensors have been checked already."""

from __future__ import annotations

import weakref

from torch import Tensor


class Seen:
    """
    Tensors whose values were found to be in order, for as long as they are not written to. A check
    of values at every run of a model would wait for the GPU each time, and keep the model from
    being recorded (:func:`torch.fx.experimental.proxy_tensor.make_fx`).

    Example::

        >>> from pyro_groupprior.seen import Seen
        >>> seen, scale = Seen(), torch.ones(3)
        >>> seen.add(scale)
        >>> scale in seen, torch.ones(3) in seen
        (True, False)
        >>> scale[0] = -1.0
        >>> scale in seen
        False
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], int]] = {}

    def add(self, tensor: Tensor) -> None:
        """Remember a tensor; not one made under inference mode, which keeps no count of writes."""
        if not tensor.is_inference():
            key = id(tensor)
            forget = weakref.ref(tensor, lambda _: self._known.pop(key, None))
            self._known[key] = forget, tensor._version

    def __contains__(self, tensor: Tensor) -> bool:
        found = self._known.get(id(tensor))
        return found is not None and found[0]() is tensor and found[1] == tensor._version
