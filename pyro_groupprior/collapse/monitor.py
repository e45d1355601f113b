# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What notices a collapse while it happens."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from ..svi.callbacks import Callback
from ..svi.parameters import quiet
from .output import passing_input
from .signal import GROUP, Signal, signals_of

if TYPE_CHECKING:
    import pandas as pd

    from ..svi.phased import PhasedSVI

CHECKS = 50  # in a run, by default
PATIENCE = 2  # checks in a row: one may fall into a dip
COLUMNS = ("epoch", "step", "attempt", "site", "kind", "part", "signal", "groups", "alarm")


class CollapseWarning(UserWarning):
    """Layers, or all group priors of a model, have lost their signal."""


class CollapseMonitor(Callback):
    """
    Warn of layers whose posterior has fallen back onto the prior, once for each in a run, by the
    signal of :func:`~pyro_groupprior.collapse.weight_signals`. A layer is judged when the KL
    warm-up is over: it must have been below the threshold in two checks in a row, or in the last
    one of the run. Where all of a net's input goes through a layer, and functions drawn from the
    posterior agree for the rows of the last batch, the layer is alive all the same. A group is not
    judged: it may well be pruned in a healthy net. Weights that are no net's are judged all
    together; where the data hold nothing to learn, the alarm is right too.

    Example::

        >>> x = torch.randn(64, 3)
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> model = BayesianModule(net, likelihoods.Normal(), num_data=64)
        >>> monitor = CollapseMonitor(epochs=10)
        >>> Adam = functools.partial(torch.optim.Adam, lr=0.01)
        >>> svi = PhasedSVI(model, AutoMeanField, Adam, callbacks=[monitor])
        >>> _ = svi.run([(x, x[:, :1])], epochs=20, progress=False)
        >>> monitor.dead, sorted(set(monitor.to_frame()["epoch"]))
        ([], [10, 20])

    :param int epochs: check after every so many epochs; default: about 50 times a run.
    :param float threshold: a layer below it counts as dead. In the nets of
        ``benchmarks/collapse.py`` healthy layers end above 0.2, dead ones below 0.01.
    :raises ValueError: if a number is not positive.
    """

    def __init__(self, epochs: int | None = None, threshold: float = 0.1) -> None:
        if epochs is not None and epochs < 1:
            raise ValueError(f"epochs: expected a positive number, got {epochs}")
        if not threshold > 0:
            raise ValueError(f"threshold: expected a positive number, got {threshold}")
        self.epochs, self.threshold = epochs, threshold
        self.attempt = 0  # how often the run was rolled back
        self.records: list[tuple[int, int, int, list[Signal]]] = []
        self._below: dict[tuple[str, str, str], tuple[int, int]] = {}  # since when, how many checks
        self._dead: dict[tuple[str, str, str], Signal] = {}
        self._told: set[tuple[str, str, str]] = set()
        self._alarms: set[tuple[int, tuple[str, str, str]]] = set()  # number of the check, and part
        self._every, self._end = epochs or 1, -1

    @property
    def dead(self) -> list[Signal]:
        """What is without signal at present."""
        return list(self._dead.values())

    def since(self, signal: Signal) -> int | None:
        """The epoch of the check since which a part is below the threshold, if it is."""
        return self._below.get(_key(signal), (None, 0))[0]

    def to_frame(self) -> pd.DataFrame:
        """
        All checks as a table with one row for each layer, group and whole; ``alarm`` says of which
        parts, at which checks, there was a warning.
        """
        import pandas as pd  # slow to import, and needed here only

        rows = [
            {
                "epoch": epoch,
                "step": step,
                "attempt": attempt,
                **asdict(signal),
                "alarm": (number, _key(signal)) in self._alarms,
            }
            for number, (epoch, step, attempt, signals) in enumerate(self.records)
            for signal in signals
        ]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def on_run_start(self, svi: PhasedSVI, epochs: int, batches: int | None) -> None:
        self._every = self.epochs or max(1, epochs // CHECKS)
        self._end = svi.epoch + epochs
        self._forget()

    def on_epoch(self, svi: PhasedSVI) -> None:
        if svi.epoch % self._every == 0 or self._is_last(svi):
            self.check(svi)

    def check(self, svi: PhasedSVI) -> None:
        """Look now, whatever the interval."""
        args, kwargs = svi.last_batch
        with quiet(svi.model):
            signals = signals_of(svi.groups, svi.guide, *args, **kwargs)
        self.records.append((svi.epoch, svi.step_count, self.attempt, signals))
        fresh = self._judge(svi, signals)
        self._alarms |= {(len(self.records) - 1, _key(signal)) for signal in fresh}
        if fresh:
            self.on_collapse(svi, fresh)

    def on_collapse(self, svi: PhasedSVI, fresh: Sequence[Signal]) -> None:
        """What to do about parts that have just been found dead: here, to warn."""
        advice = (
            "Try a smaller init_scale of the guide, a longer warmup, local_reparam=True, or fewer "
            "layers."
        )
        warnings.warn(f"{self.describe(svi, fresh)} {advice}", CollapseWarning, stacklevel=2)

    def describe(self, svi: PhasedSVI, parts: Sequence[Signal]) -> str:
        """Which parts have no signal, and since when."""
        lines = [
            f"{part.kind} {part.part!r} (group{'s' * (len(part.groups) > 1)} "
            f"{_few(part.groups)}) since epoch {self.since(part)}, signal {part.signal:.2g}"
            for part in parts
        ]
        return (
            f"{parts[0].site}: no signal left at epoch {svi.epoch}, the posterior is the prior: "
            f"{'; '.join(lines)}."
        )

    def _judge(self, svi: PhasedSVI, signals: Sequence[Signal]) -> list[Signal]:
        fresh = []
        judged = [signal for signal in signals if signal.kind != GROUP]
        low = {signal for signal in judged if not signal.signal >= self.threshold}
        low -= passing_input(svi, low)
        for signal in judged:
            key = _key(signal)
            if signal not in low:
                self._below.pop(key, None)
                self._dead.pop(key, None)
                continue
            since, count = self._below.get(key, (svi.epoch, 0))
            self._below[key] = since, count + 1
            sure = count + 1 >= PATIENCE or self._is_last(svi)
            if sure and svi.kl_weight == 1.0:
                if key not in self._told:
                    fresh.append(signal)
                self._told.add(key)
                self._dead[key] = signal
        return fresh

    def _is_last(self, svi: PhasedSVI) -> bool:
        return svi.should_stop if svi.until_converged else svi.epoch == self._end

    def _forget(self) -> None:
        self._below.clear()
        self._dead.clear()
        self._told.clear()


def _key(signal: Signal) -> tuple[str, str, str]:
    return signal.site, signal.kind, signal.part


def _few(groups: Sequence[int]) -> str:
    return ", ".join(map(str, groups[:5])) + (", ..." if len(groups) > 5 else "")
