# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""When a run has converged, and a learning rate that lets it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..batch import longest
from ..nn import BayesianModule
from .history import EpochRecord

if TYPE_CHECKING:
    from .groups import GroupSite
    from .phased import PhasedSVI

LEAST_STEPS, LEAST_EPOCHS = 500, 20  # of a stage at a steady rate
GROWTH = 1.1  # of a stage between two looks at it
LEAST_FALL = 1.0  # nats: below that posteriors cannot be told apart
LAST_RATE = 0.01  # of the first one, when annealed
SETTLED = 0.02  # churn at which regrouping ends
PARTS = 10  # of each quarter, whose spread tells how sure its mean is


class ConvergenceWarning(UserWarning):
    """A run has ended while its loss was still falling."""


def loss_fall(losses: Sequence[float]) -> tuple[float, float]:
    """
    By how much the mean loss of the last quarter is below that of the one before. Falls of the
    sort ``1 / t`` halve with each doubling of the run, so that this is about what another quarter
    would bring.

    Example::

        >>> loss_fall([8.0] * 50 + [7.0] * 25 + [6.5] * 25)
        (0.5, 0.0)

    :param losses: of the steps or epochs of a stage, at least 8 of them.
    :return: the fall, and its standard error by the means of batches of steps.
    :raises ValueError: if there are fewer.
    """
    quarter = len(losses) // 4
    if quarter < 2:
        raise ValueError(f"losses: expected at least 8, got {len(losses)}")
    means, errors = [], []
    for part in (losses[-2 * quarter : -quarter], losses[-quarter:]):
        batches = [batch.mean() for batch in np.array_split(np.asarray(part), min(PARTS, quarter))]
        means.append(np.mean(part))
        errors.append(np.std(batches, ddof=1) / math.sqrt(len(batches)))
    return float(means[0] - means[1]), float(np.hypot(*errors))


class UntilConverged:
    """
    How :meth:`PhasedSVI.run` trains when it is not told for how long: at a steady learning rate
    until the loss has stalled, then for half as many steps while the rate falls to a hundredth of
    that. If there is regrouping by ``phases``, then the groups are drawn anew, and all this begins
    again, until they have settled.

    The loss has stalled if, with two standard errors to spare, the last quarter of a stage has
    brought less than the tolerance. Noise therefore lengthens a run, it does not end it. A stage
    that leaves only half as many steps until ``max_steps`` ends too, so that the rate has always
    been lowered when a run ends. It ends with the learning rate that it began with, for what may
    come after it.

    Example::

        >>> x = torch.randn(50, 1)
        >>> model = BayesianModule(nn.Linear(1, 1), likelihoods.Normal(), num_data=50)
        >>> svi = PhasedSVI(model, AutoMeanField(model), convergence=UntilConverged(tolerance=0.05))
        >>> history = svi.run([(x, 2 * x + torch.randn(50, 1))], progress=False)
        >>> svi.convergence.stage
        'done'

    :param float tolerance: nats per row of data; of few data, one nat for all of them.
    :param int max_steps: of one run, to the end of an epoch. There is a
        :class:`ConvergenceWarning` when they have not been enough.
    :raises ValueError: if a number is not positive.
    """

    def __init__(self, tolerance: float = 0.005, max_steps: int = 100_000) -> None:
        if not tolerance > 0:
            raise ValueError(f"tolerance: expected a positive number, got {tolerance}")
        if not max_steps >= 1 or max_steps % 1:
            raise ValueError(f"max_steps: expected a positive whole number, got {max_steps}")
        self.tolerance, self.max_steps = tolerance, max_steps
        self.stage = "steady"  # "anneal", "done"
        self._is_running = False  # also while it is interrupted
        self._start_epoch = self._start_step = self._end_step = 0
        self._run_start = self._next_look = 0
        self._cut_from: int | None = None  # first epoch of a stage that was ended by max_steps
        self._rates: list[float] = []

    def state(self) -> dict[str, Any]:
        """Where it stands, as plain numbers, for a file."""
        return {k.lstrip("_"): v for k, v in vars(self).items() if k in _STATE}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        for key in _STATE:
            setattr(self, key, state[key.lstrip("_")])

    def total_tolerance(self, svi: PhasedSVI) -> float:
        """Nats for all data."""
        return max(self.tolerance * num_rows(svi), LEAST_FALL)

    def begin(self, svi: PhasedSVI) -> None:
        """Begin a run, or go on with one that was interrupted or that a checkpoint has left."""
        if not self._is_running:
            self._is_running, self._run_start = True, svi.step_count
            self._begin_stage(svi, "steady")
        elif self._cut_from is not None and self._end_step < self._run_start + self.max_steps:
            self._begin_stage(svi, "steady")  # it may take more steps now than it was cut for

    def end(self, svi: PhasedSVI) -> None:
        """End a run, also one that was interrupted: the learning rate is what it was before."""
        if self._is_running and svi.optimizer is not None:
            for group, rate in zip(svi.optimizer.param_groups, self._rates, strict=False):
                group["lr"] = rate
        self._is_running, self._rates = False, []

    def outlook(self, batches: int | None) -> int:
        """
        Epochs to plan with: checks and measures against collapse need a horizon. It is passed if
        the loss falls for longer.
        """
        return math.ceil(3 * default_warmup(batches) / (batches or 1))

    def set_rate(self, svi: PhasedSVI) -> None:
        """Set the learning rate of the next step."""
        assert svi.optimizer is not None
        groups = svi.optimizer.param_groups
        self._rates = self._rates or [float(group["lr"]) for group in groups]
        last = self._run_start + self.max_steps
        half = (svi.step_count - self._start_step) / 2
        if self.stage == "steady" and svi.kl_weight == 1.0 and 0 < last - svi.step_count <= half:
            self._anneal(svi, last, cut_from=self._start_epoch)
        factor = 1.0
        if self.stage == "anneal":
            done = (svi.step_count - self._start_step) / (self._end_step - self._start_step)
            factor = LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def after_epoch(self, svi: PhasedSVI) -> None:
        """Go on to the next stage if this one has done its work."""
        if svi.kl_weight < 1.0:
            self._begin_stage(svi, "steady")  # also after a collapse has been rolled back
        elif self.stage == "steady" and self._has_stalled(svi):
            steps = max(svi.step_count - self._start_step, LEAST_STEPS) // 2
            self._anneal(svi, svi.step_count + steps)
        elif self.stage == "anneal" and svi.step_count >= self._end_step and self._cut_from is None:
            self._begin_stage(svi, "steady" if self._regroup(svi) else "done")
        if self.stage != "done" and svi.step_count - self._run_start >= self.max_steps:
            warnings.warn(self._not_enough(svi), ConvergenceWarning, stacklevel=2)
            self._begin_stage(svi, "done")
        if self.stage == "done":
            svi.should_stop = True
            self.end(svi)

    def _anneal(self, svi: PhasedSVI, end_step: int, cut_from: int | None = None) -> None:
        self._begin_stage(svi, "anneal")
        self._end_step, self._cut_from = end_step, cut_from

    def _not_enough(self, svi: PhasedSVI) -> str:
        message = (
            f"max_steps: {self.max_steps} steps have not been enough for the loss to settle to "
            f"{self.tolerance} nats a row; it is at {svi.history.epochs[-1].loss:.6g}"
        )
        if svi.kl_weight < 1.0:
            message += f", with the divergence at {svi.kl_weight:.2g} of its weight"
        if self._cut_from is None:
            return message
        losses = [record.loss for record in svi.history.epochs[self._cut_from : self._start_epoch]]
        if len(losses) < LEAST_EPOCHS:
            return message
        fall = loss_fall(losses)[0] / num_rows(svi)
        return f"{message}. Before the rate was lowered, a quarter brought {fall:.2g} nats a row"

    def _begin_stage(self, svi: PhasedSVI, stage: str) -> None:
        self.stage, self._start_epoch, self._start_step = stage, svi.epoch, svi.step_count
        self._next_look, self._cut_from = LEAST_EPOCHS, None

    def _has_stalled(self, svi: PhasedSVI) -> bool:
        epochs = svi.epoch - self._start_epoch
        if epochs < self._next_look or svi.step_count - self._start_step < LEAST_STEPS:
            return False
        self._next_look = math.ceil(GROWTH * epochs)
        fall, error = loss_fall([record.loss for record in svi.history.epochs[-epochs:]])
        return fall + 2 * error <= self.total_tolerance(svi)

    def _regroup(self, svi: PhasedSVI) -> bool:
        schedule = svi.regroup_schedule
        if schedule is None or schedule.phases is None or svi.phase >= schedule.phases:
            return False
        last = [record.churn for record in svi.history.phases if record.phase == svi.phase]
        if last and max(last) < SETTLED:
            return False
        svi.regroup()
        return True


_STATE = (
    "stage",
    "_is_running",
    "_start_epoch",
    "_start_step",
    "_end_step",
    "_run_start",
    "_next_look",
    "_cut_from",
    "_rates",
)


def num_rows(svi: PhasedSVI) -> int:
    """Rows of all data: what the model says, or else those of an epoch like the last batch."""
    modules = svi.model.modules() if isinstance(svi.model, nn.Module) else ()
    for module in modules:
        if isinstance(module, BayesianModule) and module.num_data is not None:
            return module.num_data
    args, kwargs = svi.last_batch
    rows = longest((*args, *kwargs.values()))
    return max(rows, 1) * max(round(svi.step_count / max(svi.epoch, 1)), 1)


def default_warmup(batches: int | None) -> int:
    """Steps of KL warm-up of a run without end: for small data a number, else some epochs."""
    return max(1000, 10 * (batches or 0))


def default_rate(groups: Mapping[str, GroupSite]) -> float:
    """
    A learning rate for Adam, whose step is about the rate itself: some hundredths of the weights'
    base scale, which are smaller the wider the layers.
    """
    medians = [float(torch.as_tensor(site.base_scale).median()) for site in groups.values()]
    return min([0.01, *(0.07 * median for median in medians)])


def warn_if_falling(svi: PhasedSVI, first_epoch: int) -> None:
    """Say so if a run of a given length has ended too early."""
    records: list[EpochRecord] = []
    for record in reversed(svi.history.epochs[first_epoch:]):
        if record.phase != svi.phase or record.kl_weight < 1.0:
            break
        records.append(record)
    if len(records) < 2 * LEAST_EPOCHS:
        return  # too few to tell
    fall, error = loss_fall([record.loss for record in reversed(records)])
    if fall - 2 * error > svi.convergence.total_tolerance(svi):
        warnings.warn(
            f"the loss was still falling when the run ended: by {fall:.3g} +- {error:.2g} nats in "
            f"the last quarter of its {len(records)} epochs at full weight of the divergence. "
            "Train longer, or leave epochs out: run(loader) ends when it has converged",
            ConvergenceWarning,
            stacklevel=3,
        )
