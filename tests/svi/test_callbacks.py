# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Callbacks, the progress bar and the history."""

import io
import json

import pandas as pd
import pytest
import torch
from tqdm import tqdm

from pyro_groupprior import AutoMeanField, Callback, PhasedSVI, Regroup
from pyro_groupprior.svi import History, callbacks
from tests.svi.runs import THREE, Adam, Planned, data, regression


class Log(Callback):
    def __init__(self, name="", log=None):
        self.name, self.log = name, [] if log is None else log

    def on_run_start(self, svi, epochs, batches):
        self.log.append((self.name, "start", epochs, batches))

    def on_step(self, svi, loss):
        assert isinstance(loss, float)
        self.log.append((self.name, "step", svi.step_count))

    def on_epoch(self, svi):
        assert svi.history.epochs[-1].epoch == svi.epoch
        self.log.append((self.name, "epoch", svi.epoch))

    def on_phase(self, svi):
        assert svi.history.phases[-1].phase == svi.phase
        self.log.append((self.name, "phase", svi.phase))

    def on_run_end(self, svi):
        self.log.append((self.name, "end"))


def engine(*hooks, steps=None) -> PhasedSVI:
    planned = Planned(*[torch.arange(31) % n for n in (4, 2, 5, 3, 4, 2)])
    every = {"epochs": 1} if steps is None else {"steps": steps}
    schedule = Regroup(planned, **every)
    return PhasedSVI(regression(), AutoMeanField, Adam, regroup=schedule, callbacks=hooks)


def test_order_by_epochs():
    log = []
    svi = engine(Log("a", log), Log("b", log))
    svi.run([data(), data()], 2, progress=False)
    events = [("start", 2, 2)]
    for epoch in (1, 2):
        events += [("step", 2 * epoch - 1), ("step", 2 * epoch)]
        events += [("phase", epoch), ("epoch", epoch)]
    events += [("end",)]
    assert log == [(name, *event) for event in events for name in ("a", "b")]


def test_order_by_steps():
    hook = Log()
    engine(hook, steps=2).run(iter([data()] * 5), 1, progress=False)
    kinds = [event[1] for event in hook.log]
    assert kinds == [
        "start", "step", "phase", "step", "step", "phase", "step", "step", "epoch", "end"
    ]  # fmt: skip
    assert hook.log[0][2:] == (1, None)  # an iterator does not say how long it is


class Stop(Callback):
    def __init__(self, when, at):
        self.when, self.at = when, at

    def on_step(self, svi, loss):
        svi.should_stop |= self.when == "step" and svi.step_count == self.at

    def on_epoch(self, svi):
        svi.should_stop |= self.when == "epoch" and svi.epoch == self.at

    def on_phase(self, svi):
        svi.should_stop |= self.when == "phase" and svi.phase == self.at


@pytest.mark.parametrize(
    ("when", "at", "steps", "epochs"),
    [("step", 4, 4, 1), ("epoch", 2, 6, 2), ("phase", 1, 3, 1)],
)
def test_should_stop(when, at, steps, epochs):
    log = Log()
    svi = engine(log, Stop(when, at))
    svi.run([data()] * 3, 5, progress=False)
    assert (svi.step_count, svi.epoch) == (steps, epochs)
    assert log.log[-1] == ("", "end")
    svi.run([data()] * 3, 2, progress=False)  # and on from there, to the end of two epochs
    assert (svi.step_count, svi.epoch) == (3 * (epochs + 2), epochs + 2)


def test_an_error_ends_the_run_for_callbacks_too():
    log = Log()
    with pytest.raises(ValueError, match="NaN"):
        engine(log).run([data(), (data()[0] * float("nan"), data()[1])], 1, progress=False)
    assert [event[1] for event in log.log] == ["start", "step", "end"]


def test_progress_bar(monkeypatch):
    screen, bars = io.StringIO(), []

    def bar(**options):
        bars.append(tqdm(file=screen, mininterval=0.0, miniters=1, **options | {"ncols": 200}))
        return bars[-1]

    monkeypatch.setattr(callbacks, "tqdm", lambda **options: bar(**options))
    svi = engine()
    svi.run([data()] * 6, 3)
    assert bars[0].total == bars[0].n == 18 and bars[0].disable
    assert "loss=" in bars[0].postfix and "phase=1" in bars[0].postfix
    assert f"churn={svi.history.phases[0].churn:.2f}" in bars[0].postfix
    assert "18/18" in screen.getvalue()
    svi.callbacks.append(Stop("step", 20))
    svi.run([data()] * 6, 1)
    svi.callbacks.clear()
    svi.run([data()] * 6, 1)
    assert bars[2].total == bars[2].n == 4  # the rest of the epoch


def test_progress_bar_without_a_length_and_off(capsys):
    engine().run(iter([data()] * 12), 1)
    assert "12step" in capsys.readouterr().err
    engine().run([data()], 1, progress=False)
    assert capsys.readouterr() == ("", "")


def test_tables():
    svi = engine()
    history = svi.run([data()] * 2, 3, progress=False)
    epochs, phases = history.to_frame(), history.to_frame("phases")
    assert epochs.columns.tolist() == [
        "epoch", "step", "phase", "loss", "learning_rate", "kl_weight"
    ]  # fmt: skip
    # An epoch's phase is the one it was trained in, before the regroup at its end.
    assert epochs[["epoch", "step", "phase"]].to_numpy().tolist() == [
        [1, 2, 0], [2, 4, 1], [3, 6, 2]
    ]  # fmt: skip
    assert phases["num_groups"].tolist() == [4, 2, 5]
    assert phases["name"].tolist() == ["weights"] * 3
    for record in history.phases:
        assert len(record.sizes) == len(record.locs) == len(record.scales) == record.num_groups
        assert sum(record.sizes) == 31
        assert len(record.sources) == record.num_groups
        arrived = [sum(n for _, b, n in record.flows if b == g) for g in range(record.num_groups)]
        assert arrived == list(record.sizes)
        stayed = sum(n for a, b, n in record.flows if record.sources[b] == a)
        assert 1 - stayed / 31 == pytest.approx(record.churn)
    final = svi.guide.median()
    assert history.phases[-1].locs == tuple(final["weights_loc"].tolist())
    assert history.phases[-1].scales == tuple(final["weights_scale"].tolist())
    expected = float((torch.arange(31) % 4 != THREE).double().mean())
    assert 0 < history.phases[0].churn <= expected
    assert History.from_dict(json.loads(json.dumps(history.to_dict()))) == history


def test_empty_tables_have_their_columns():
    assert isinstance(History().to_frame(), pd.DataFrame)
    assert "loss" in History().to_frame().columns and "churn" in History().to_frame("phases")
    with pytest.raises(ValueError, match="which"):
        History().to_frame("steps")
