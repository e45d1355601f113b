# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Where a model keeps its assignment."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .assignment import Assignment


class AssignmentBuffer(nn.Module):
    """
    Keeps an :class:`Assignment` as registered buffers of a model, so that ``state_dict``,
    ``.to(device)`` and distributed wrappers carry it. The ``regroup`` handler's ``commit``
    writes here.

    Example::

        >>> buffer = AssignmentBuffer(Assignment(torch.tensor([0, 1, 1])))
        >>> buffer.assignment = Assignment(torch.tensor([0, 0, 0]))
        >>> buffer.assignment.num_groups
        1

    :param Assignment assignment: the first grouping.
    """

    index: Tensor
    responsibilities: Tensor
    num_groups: Tensor

    def __init__(self, assignment: Assignment) -> None:
        super().__init__()
        for name in ("index", "responsibilities", "num_groups"):
            self.register_buffer(name, None)
        self._write(assignment)
        # A saved grouping may have another width or another number of groups than this one.
        self.register_load_state_dict_pre_hook(_resize_before_load)

    @property
    def assignment(self) -> Assignment:
        """The present grouping; setting one for another number of weights raises ValueError."""
        buffers = self.index, self.responsibilities, self.num_groups
        # Moved under inference mode, they keep no count of their versions.
        versions = [None if b.is_inference() else b._version for b in buffers]
        cached = self.__dict__.get("_cached")
        # The buffers may have been replaced by `.to(...)` or by loading a state dict.
        if (
            cached is None
            or any(old is not new for old, new in zip(cached[0], buffers))
            or cached[1] != versions
        ):
            index, soft, num_groups = buffers
            value = Assignment.trusted(index, int(num_groups), soft if soft.numel() else None)
            cached = self.__dict__["_cached"] = (buffers, versions, value)
        return cached[2]

    @assignment.setter
    def assignment(self, assignment: Assignment) -> None:
        if assignment.num_weights != self.index.shape[0]:
            raise ValueError(
                f"assignment: expected one for {self.index.shape[0]} weights, "
                f"got one for {assignment.num_weights}"
            )
        self._write(assignment.to(self.index.device))

    def _write(self, assignment: Assignment) -> None:
        soft = assignment.responsibilities
        # Tensors made under inference mode would bar the model from training later.
        with torch.inference_mode(False):
            if soft is None:
                soft = torch.empty(0, device=assignment.device)
            self.index = _normal(assignment.index)
            self.responsibilities = _normal(soft)
            self.num_groups = torch.tensor(assignment.num_groups, device=assignment.device)

    def __getstate__(self) -> dict[str, Any]:
        # The cache holds a second reference to the buffers, which a copy must not share.
        return {key: value for key, value in self.__dict__.items() if key != "_cached"}

    def extra_repr(self) -> str:
        return repr(self.assignment)


def _normal(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor


def assignment_of(source: Assignment | AssignmentBuffer) -> Assignment:
    """The assignment that ``source`` is, or holds."""
    return source.assignment if isinstance(source, AssignmentBuffer) else source


def _resize_before_load(
    module: nn.Module, state: dict[str, Any], prefix: str, *unused: Any
) -> None:
    assert isinstance(module, AssignmentBuffer)
    index = state.get(prefix + "index")
    if index is not None and index.shape[:1] != module.index.shape[:1]:
        # Of another net: torch reports the index; the rest stays with the index it belongs to.
        for name in ("responsibilities", "num_groups"):
            state[prefix + name] = getattr(module, name)
        return
    for name in ("index", "responsibilities", "num_groups"):
        saved, own = state.get(prefix + name), getattr(module, name)
        if saved is None:
            continue  # let torch report it
        # Loading copies in place; a new buffer keeps assignments handed out before as they are.
        setattr(module, name, torch.empty_like(saved, device=own.device))
