# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Hooks into training, and the ones that come with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

if TYPE_CHECKING:
    from .phased import PhasedSVI


class Callback:
    """
    Base of all callbacks: override what you need. Set ``svi.should_stop = True`` in one to end
    :meth:`PhasedSVI.run` after the present step.

    Example::

        >>> class StopWhenGood(Callback):
        ...     def on_epoch(self, svi):
        ...         svi.should_stop = svi.history.epochs[-1].loss < 100.0
    """

    def on_run_start(self, svi: PhasedSVI, epochs: int, batches: int | None) -> None:
        """Before the first step of a run of ``epochs``, of ``batches`` steps each if known."""

    def on_step(self, svi: PhasedSVI, loss: float) -> None:
        """After every step of a run."""

    def on_epoch(self, svi: PhasedSVI) -> None:
        """After every epoch and the regroup that was due with it."""

    def on_phase(self, svi: PhasedSVI) -> None:
        """After every regroup."""

    def on_run_end(self, svi: PhasedSVI) -> None:
        """After a run, also one that an error or interrupt has ended."""


class Progress(Callback):
    """A progress bar over steps with loss, phase and the last churn."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_run_start(self, svi: PhasedSVI, epochs: int, batches: int | None) -> None:
        total = None if batches is None else max(epochs * batches - svi.batch_in_epoch, 0)
        self._bar = tqdm(total=total, unit="step", dynamic_ncols=True)

    def on_step(self, svi: PhasedSVI, loss: float) -> None:
        self._bar.update()
        if self._bar.n % 10 == 0:  # formatting the text costs more than a bar's step
            churn = f"{svi.history.phases[-1].churn:.2f}" if svi.history.phases else "-"
            self._bar.set_postfix(loss=f"{loss:.4g}", phase=svi.phase, churn=churn, refresh=False)

    def on_run_end(self, svi: PhasedSVI) -> None:
        if self._bar is not None:
            self._bar.close()


class Checkpoint(Callback):
    """
    Save everything that is needed to go on, every so many epochs or steps.

    :param path: the file; each checkpoint replaces the last one atomically.
    :param int epochs: save after every so many epochs; default: every epoch, or never where
        ``steps`` is given.
    :param int steps: save after every so many steps.
    :raises ValueError: if a number is not positive.
    """

    def __init__(
        self, path: str | Path, epochs: int | None = None, steps: int | None = None
    ) -> None:
        for name, every in (("epochs", epochs), ("steps", steps)):
            if every is not None and every < 1:
                raise ValueError(f"{name}: expected a positive number, got {every}")
        self.path, self.steps = Path(path), steps
        self.epochs = 1 if epochs is None and steps is None else epochs

    def on_step(self, svi: PhasedSVI, loss: float) -> None:
        if self.steps is not None and svi.step_count % self.steps == 0:
            svi.save(self.path)

    def on_epoch(self, svi: PhasedSVI) -> None:
        if self.epochs is not None and svi.epoch % self.epochs == 0:
            svi.save(self.path)
