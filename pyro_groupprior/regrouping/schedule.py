# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""When to regroup, by what strategy, and what becomes of the group parameters."""

from __future__ import annotations

from typing import Any

from .strategy import Cluster, Strategy

HYPER = ("carry", "reset", "moments")
ACCEPT = ("always", "elbo")


class Regroup:
    """
    When the engine regroups, by what strategy, and what becomes of the group parameters.

    Example::

        >>> from sklearn.cluster import KMeans
        >>> schedule = Regroup(KMeans(8), epochs=5, start=10)
        >>> schedule.is_due(step=0, epoch=15, epoch_ended=True)
        True

    :param strategy: a :class:`Strategy`, or a scikit-learn clusterer, which is wrapped in
        :class:`Cluster`.
    :param int epochs: regroup after every so many epochs;
    :param int steps: or after every so many steps;
    :param int phases: or each time that training has converged, at most so often and until the
        groups have settled (churn below 2 %); for runs without a number of epochs. Exactly one of
        the three.
    :param int start: not before this epoch (step).
    :param int stop: not after this epoch (step); default: never stop.
    :param str hyper: ``"carry"``: a group that continues an old one keeps its parameters'
        posterior and optimizer state, a new one starts at its members' moments; ``"moments"``: all
        start at their members' moments; ``"reset"``: all start anew at loc 0 and scale 1.
    :param str accept: ``"always"``; or ``"elbo"``: only if the ELBO is higher under the proposal,
        less what it costs to state the groups (:func:`~pyro_groupprior.assignment_cost`). It is
        evaluated under the ``regroup`` handler, with nothing touched; for this package's guides.
    :raises TypeError: if the strategy is neither.
    :raises ValueError: if not exactly one interval is given, or an option is out of range.
    """

    def __init__(
        self,
        strategy: Strategy | Any,
        *,
        epochs: int | None = None,
        steps: int | None = None,
        phases: int | None = None,
        start: int = 0,
        stop: int | None = None,
        hyper: str = "carry",
        accept: str = "always",
    ) -> None:
        given = [number for number in (epochs, steps, phases) if number is not None]
        if len(given) != 1:
            raise ValueError(
                f"epochs, steps, phases: expected exactly one of them, got epochs={epochs}, "
                f"steps={steps}, phases={phases}"
            )
        if given[0] < 1:
            raise ValueError(f"epochs, steps, phases: expected a positive number, got {given[0]}")
        if hyper not in HYPER:
            raise ValueError(f"hyper: expected one of {HYPER}, got {hyper!r}")
        if accept not in ACCEPT:
            raise ValueError(f"accept: expected one of {ACCEPT}, got {accept!r}")
        self.strategy: Strategy = strategy if hasattr(strategy, "propose") else Cluster(strategy)
        self.epochs, self.steps, self.phases = epochs, steps, phases
        self.start, self.stop, self.hyper, self.accept = start, stop, hyper, accept

    def is_due(self, *, step: int, epoch: int, epoch_ended: bool) -> bool:
        """
        Whether to regroup now.

        :param int step: steps taken.
        :param int epoch: epochs completed.
        :param bool epoch_ended: whether the last step completed an epoch.
        """
        if self.phases is not None:
            return False
        if self.epochs is not None:
            now, every, ready = epoch, self.epochs, epoch_ended
        else:
            assert self.steps is not None
            now, every, ready = step, self.steps, not epoch_ended
        if not ready or now <= self.start or (self.stop is not None and now > self.stop):
            return False
        return (now - self.start) % every == 0
