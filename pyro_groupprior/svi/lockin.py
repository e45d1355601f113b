# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Whether groups are found in the data or only kept: a restart from random ones."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from ..assignment import Assignment
from ..regrouping import Regroup, WeightPosterior, adjusted_rand_index
from .monitor import Monitor
from .regroup_step import carry_out, plan_regroup

if TYPE_CHECKING:
    from .phased import PhasedSVI


@dataclass(frozen=True)
class LockIn:
    """
    What :func:`lock_in_test` found for one group prior.

    :param float control: adjusted Rand index between the present groups and those of the run that
        was continued as it is.
    :param float rand_index: the same between the continued run and the one whose groups were
        restarted at random.
    :param churns: of the restarted run's regroups.
    """

    control: float
    rand_index: float
    churns: tuple[float, ...]

    @property
    def locked_in(self) -> bool:
        """
        Whether the groups depend on where they began: restarted at random they do not come back
        as far as they stay when left alone, by more than a fifth.
        """
        return self.rand_index < 0.8 * self.control


def lock_in_test(
    svi: PhasedSVI, loader: Iterable[Any], epochs: int, *, phases: int = 3, lr: float | None = None
) -> dict[str, LockIn]:
    """
    Test for lock-in proper: whether groups that do not change any more are the ones that the data
    ask for, or just those that the priors hold in place. From the present state the run is
    continued twice for some phases: as it is, and with every weight in a group drawn at random.
    If both end with the same groups, the data decide. The run itself is left exactly as it was.

    Example::

        >>> x = torch.randn(64, 3)
        >>> y = x.sum(1, keepdim=True)
        >>> model = BayesianModule(nn.Linear(3, 1), likelihoods.Normal(), num_data=64)
        >>> adam = functools.partial(torch.optim.Adam, lr=0.01)
        >>> svi = PhasedSVI(model, AutoMeanField, adam, regroup=Regroup(Naive(2), epochs=5))
        >>> history = svi.run([(x, y)], epochs=10, progress=False)
        >>> found = lock_in_test(svi, [(x, y)], epochs=5)
        >>> len(found["weights"].churns)
        3

    :param PhasedSVI svi: a run with a ``regroup`` schedule, after its first step.
    :param loader: as in :meth:`PhasedSVI.run`.
    :param int epochs: how long each phase is.
    :param int phases: how many, each ended by a regroup.
    :param lr: learning rate at the start of each phase, from which it falls to 1 % by its end;
        default: the optimizer's first one.
    :return: the findings by the name of the group prior.
    :raises RuntimeError: if the run has no schedule or took no step.
    :raises ValueError: if a number is out of range, or the loader does not know its length.
    """
    if svi.regroup_schedule is None or svi.optimizer is None:
        raise RuntimeError("lock_in_test: needs a run with a Regroup, after its first step")
    for name, number in (("epochs", epochs), ("phases", phases)):
        if number < 1:
            raise ValueError(f"{name}: expected a positive number, got {number}")
    if not isinstance(loader, Sized):
        raise ValueError("loader: expected one that knows its length")
    if lr is not None and not lr > 0:
        raise ValueError(f"lr: expected a positive number, got {lr}")
    options = svi.optimizer.param_groups[0]
    first = float(options.get("initial_lr", options["lr"])) if lr is None else lr
    present = _groups(svi)
    with _undone(svi, lr=first, period=epochs * len(loader)) as restart:
        _continue(svi, loader, epochs, phases)
        control = _groups(svi)
        restart()
        _scatter(svi)
        begun = len(svi.history.phases)
        _continue(svi, loader, epochs, phases)
        restarted, records = _groups(svi), svi.history.phases[begun:]
    return {
        name: LockIn(
            adjusted_rand_index(present[name], control[name]),
            adjusted_rand_index(control[name], restarted[name]),
            tuple(record.churn for record in records if record.name == name),
        )
        for name in present
    }


@contextmanager
def _undone(svi: PhasedSVI, lr: float, period: int) -> Iterator[Any]:
    """
    Put back whatever is done to a run inside; with learning rates of the test's own, and without
    the user's callbacks, which may write files.

    :return: a function that puts all back on the spot, to begin again.
    """
    scheduler = svi.scheduler
    kept = svi.callbacks, svi.regroup_schedule, svi.retries, svi.should_stop, svi.last_batch
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        svi.save(path)

        def put_back() -> None:
            svi.scheduler = scheduler
            svi.make_optimizer()  # with the options that the file has, without the test's own
            svi.load(path)

        def restart() -> None:
            put_back()
            svi.callbacks = [copy.deepcopy(c) for c in kept[0] if isinstance(c, Monitor)]
            svi.retries = 0  # a repair would roll back what is to be watched
            assert svi.optimizer is not None
            for options in svi.optimizer.param_groups:
                options["lr"] = options["initial_lr"] = lr
            svi.scheduler = CosineAnnealingWarmRestarts(svi.optimizer, T_0=period, eta_min=lr / 100)

        try:
            restart()
            yield restart
        finally:
            svi.callbacks, svi.regroup_schedule, svi.retries, svi.should_stop, svi.last_batch = kept
            put_back()


def _continue(svi: PhasedSVI, loader: Iterable[Any], epochs: int, phases: int) -> None:
    schedule = svi.regroup_schedule
    for _ in range(phases):
        svi.regroup_schedule = None  # its own intervals do not count here
        svi.run(loader, epochs, progress=False)
        svi.regroup_schedule = schedule
        svi.regroup()


def _groups(svi: PhasedSVI) -> dict[str, Assignment]:
    return {name: site.assignment for name, site in svi.groups.items()}


class _Shuffled:
    """The strategy of none: the present groups, handed out to the weights at random."""

    def propose(self, posterior: WeightPosterior) -> Assignment:
        present = posterior.assignment
        order = torch.randperm(present.num_weights).to(present.device)
        shares = present.responsibilities
        return Assignment.trusted(
            present.index[order], present.num_groups, None if shares is None else shares[order]
        )


def _scatter(svi: PhasedSVI) -> None:
    """A group of random weights has no past: its parameters start at its members' moments."""
    schedule = Regroup(_Shuffled(), epochs=1, hyper="moments")
    plans = [plan_regroup(svi, site, schedule) for site in svi.groups.values()]
    for plan in plans:
        carry_out(svi, plan)
