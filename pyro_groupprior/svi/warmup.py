# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The course of the KL warm-up."""

from __future__ import annotations

from dataclasses import dataclass

# Of the steps of the first run, where the user says nothing.
DEFAULT_SHARE = 1 / 3


@dataclass
class WarmUp:
    """
    How the weight of the divergence rises linearly to one.

    Example::

        >>> warm_up = WarmUp()
        >>> warm_up.plan(now=0, num_steps=12)
        >>> [warm_up.weight(step) for step in (0, 1, 3, 9)]
        [0.25, 0.5, 1.0, 1.0]

    :param steps: over how many steps; None: a third of those of the first run, once it is planned.
    :param int start: the step at which it begins.
    """

    steps: int | None = None
    start: int = 0

    def plan(self, now: int, num_steps: int, share: float = DEFAULT_SHARE) -> None:
        """
        Settle the number of steps if the user has left it open.

        :param int now: steps taken.
        :param int num_steps: steps that are planned.
        :param float share: of these.
        """
        if self.steps is None:
            self.begin(now, int(num_steps * share))

    def begin(self, now: int, steps: int) -> None:
        """Begin anew, over so many steps from now on."""
        self.start, self.steps = now, steps

    def weight(self, step: int) -> float:
        """The weight of the divergence when ``step`` steps have been taken."""
        return min(1.0, (step + 1 - self.start) / self.steps) if self.steps else 1.0
