# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The handler that rewrites groupings while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message

from ..assignment import Assignment
from ..assignment_buffer import AssignmentBuffer, assignment_of


class RegroupMessenger(Messenger):
    """
    Replace the assignment at named :func:`~pyro_groupprior.assign` statements, and with it the
    size of the group plate, without touching any state; :meth:`commit` makes it last.

    Consider a hierarchical regression whose coefficients all share one group:

        >>> groups = AssignmentBuffer(Assignment(torch.zeros(4, dtype=torch.long)))
        >>> def model():
        ...     return group_prior("beta", groups)

    Under ``regroup`` it runs with two groups instead, and the buffer stays as it was:

        >>> proposal = Assignment(torch.tensor([0, 0, 1, 1]))
        >>> with RegroupMessenger({"beta": proposal}) as handler:
        ...     trace = pyro.poutine.trace(model).get_trace()
        >>> trace.nodes["beta_loc"]["value"].shape, groups.assignment.num_groups
        (torch.Size([2]), 1)

    If the proposal is worth keeping:

        >>> handler.commit()
        >>> groups.assignment.num_groups
        2

    Handlers do not reach through :func:`~pyro.poutine.block`, nor past an inner ``regroup`` of the
    same name: the innermost one decides.

    :param assignments: the grouping to use for each ``assign`` statement, by name.
    :raises TypeError: if a value is no :class:`Assignment`.
    """

    def __init__(self, assignments: Mapping[str, Assignment]) -> None:
        super().__init__()
        for name, assignment in assignments.items():
            if not isinstance(assignment, Assignment):
                raise TypeError(
                    f"assignments[{name!r}]: expected an Assignment, got "
                    f"{type(assignment).__name__}"
                )
        self.assignments = dict(assignments)
        self._sources: dict[str, Assignment | AssignmentBuffer] = {}

    def _pyro_assign(self, msg: Message) -> None:
        name = msg["name"]
        if name not in self.assignments or msg["value"] is not None:
            return
        proposal, source = self.assignments[name], msg["args"][0]
        present = assignment_of(source)
        if proposal.num_weights != present.num_weights:
            raise ValueError(
                f"assignments[{name!r}]: expected one for {present.num_weights} weights, "
                f"got one for {proposal.num_weights}"
            )
        self._sources[name] = source
        msg["value"] = proposal.to(present.device)

    def commit(self) -> None:
        """
        Write the assignments to the buffers that the model read them from.

        :raises RuntimeError: if the model has not yet run under this handler, or a name was not
            met, or the model holds its assignment as a constant; nothing is written then.
        """
        missing = sorted(set(self.assignments) - set(self._sources))
        if missing:
            raise RuntimeError(
                f"commit: run the model under this handler first; no assign statement named "
                f"{missing} was met (met: {sorted(self._sources)})"
            )
        for name, source in self._sources.items():
            if not isinstance(source, AssignmentBuffer):
                raise RuntimeError(
                    f"commit: the model holds the assignment of {name!r} as a constant; give "
                    "group_prior an AssignmentBuffer to make it rewritable"
                )
        for name, source in self._sources.items():
            assert isinstance(source, AssignmentBuffer)
            source.assignment = self.assignments[name]


def regroup(
    fn: Callable[..., Any] | Mapping[str, Assignment] | None = None,
    assignments: Mapping[str, Assignment] | None = None,
) -> Any:
    """
    ``regroup(model, assignments)`` gives the model under :class:`RegroupMessenger`;
    ``regroup(assignments)`` gives the handler itself, to be used with ``with`` or as a decorator.

    Example::

        >>> model = lambda: group_prior("beta", Assignment(torch.zeros(3, dtype=torch.long)))
        >>> regrouped = regroup(model, {"beta": Assignment(torch.tensor([0, 1, 2]))})
        >>> pyro.poutine.trace(regrouped).get_trace().nodes["beta_scale"]["value"].shape
        torch.Size([3])

    :raises TypeError: if no assignments are given.
    """
    if assignments is None and isinstance(fn, Mapping):
        return RegroupMessenger(fn)
    if assignments is None:
        raise TypeError("assignments: expected a mapping from site name to Assignment, got None")
    handler = RegroupMessenger(assignments)
    return handler if fn is None else handler(fn)
