# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Rolling back, and what a run ends as."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pyro_groupprior import AutoMeanField, Callback, PhasedSVI
from pyro_groupprior.collapse import CollapseMonitor, CollapseRepair, CollapseWarning, repair
from tests.collapse.cells import LAYERS, Adam, Killer, build, kill, r2
from tests.svi.runs import GUIDES, assert_same, data, full_state, regression


class Recorder(Callback):
    """The whole state after the first step, at some epoch, and after each rollback."""

    def __init__(self, watched: CollapseRepair, epoch: int = -1) -> None:
        self.watched, self.epoch, self.rolled_back = watched, epoch, []
        self.first = self.at_epoch = None

    def on_step(self, svi, loss):
        if self.first is None:
            self.first = full_state(svi)

    def on_epoch(self, svi):
        if svi.epoch == self.epoch and self.at_epoch is None:
            self.at_epoch = full_state(svi)
        if len(self.rolled_back) < self.watched.attempt:
            self.rolled_back.append(full_state(svi))


def caught(svi, epochs):
    """Run, and collect what is warned of."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        svi.run([data()], epochs, progress=False)
    assert {warning.category for warning in found} <= {CollapseWarning}
    return [str(warning.message) for warning in found]


@pytest.mark.parametrize("healthy", [False, True])
def test_everything_is_as_it_was(healthy, monkeypatch):
    """Of a rollback without stronger measures, bit by bit."""
    monkeypatch.setattr(repair, "bound_scales", lambda *args: None)
    own = CollapseRepair(epochs=5)
    recorder = Recorder(own, epoch=25)  # the last one that is kept before the net dies
    death = range(28, 60) if healthy else range(3, 60)
    svi = build(Killer("2.weight", epochs=death), recorder, own, Recorder(own), warmup=0)
    (message,) = caught(svi, 50)
    (found,) = svi.callbacks[-1].rolled_back
    assert f"Rolled back to epoch {25 if healthy else 0}: retry 1 of 2" in message
    assert_same(recorder.at_epoch if healthy else recorder.first, found)


def test_a_run_goes_on_to_its_planned_end_and_ends_alive():
    own = CollapseRepair(epochs=10)
    svi = build(Killer(*LAYERS, epochs=range(3, 41)), own, warmup=0)
    (message,) = caught(svi, 400)
    assert "since epoch 10" in message and "retry 1 of 2" in message
    assert svi.epoch == svi.step_count == len(svi.history.epochs) == 400
    assert own.attempt == 1 and own.dead == [] and r2(svi) > 0.7
    assert set(own.to_frame()["attempt"]) == {0, 1}
    weights = [record.kl_weight for record in svi.history.epochs]
    assert weights[0] == pytest.approx(1 / 200) and weights[198] < 1.0 == weights[199]


def test_a_last_batch_of_one_row_hides_nothing():
    own = CollapseRepair(epochs=10)
    svi = build(Killer(*LAYERS, epochs=range(3, 31)), own, warmup=0)
    x, y = data()
    batches = [(x[:40], y[:40]), (x[40:63], y[40:63]), (x[63:], y[63:])]
    with pytest.warns(CollapseWarning, match="retry 1 of 2"):
        svi.run(batches, 30, progress=False)
    assert own.attempt == 1


def test_scales_are_bounded_more_and_more():
    own, scales = CollapseRepair(epochs=5), []

    class Spy(Callback):
        def on_epoch(self, svi):
            if len(scales) < own.attempt:
                sd = F.softplus(svi.guide.unconstrained_scales["weights"].detach())
                scales.append(float((sd / svi.model.base_scale).max()))

    caught(build(Killer(*LAYERS, epochs=range(3, 31), times=2), own, Spy(), warmup=0), 80)
    assert scales == pytest.approx([0.05, 0.02], rel=1e-4)


def test_in_vain():
    svi = build(Killer(*LAYERS, epochs=range(2, 61), times=99), warmup=0)
    messages = caught(svi, 60)
    assert len(messages) == 3
    assert "retry 1 of 2" in messages[0] and "retry 2 of 2" in messages[1]
    assert "2 retries were in vain" in messages[2] and svi.epoch == 60


def test_what_starts_dead_starts_anew():
    own = CollapseRepair(epochs=5)
    svi = build(own, warmup=0)
    svi.step(*data())
    kill(svi, *LAYERS)
    with torch.no_grad():
        svi.guide.unconstrained_scales["weights"][:] = 9.0  # too wide to recover by itself
    (message,) = caught(svi, 300)
    assert "since epoch 5" in message and own.dead == [] and r2(svi) > 0.7


class Shortcut(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 3), nn.Linear(3, 1)

    def forward(self, x):
        return self.outer(x + self.inner(x).tanh())


@pytest.mark.parametrize(("layer", "attempts"), [("inner.weight", 0), ("outer.weight", 1)])
def test_a_dead_branch_beside_a_shortcut_is_only_warned_of(layer, attempts):
    own = CollapseRepair(epochs=5)
    svi = build(Killer(layer, epochs=range(3, 31)), own, net=Shortcut(), warmup=0)
    (message,) = caught(svi, 30)
    assert repr(layer) in message and own.attempt == attempts
    assert ("Rolled back" in message) == bool(attempts)


def test_a_run_has_it_by_default_unless_there_is_another():
    death = Killer(*LAYERS, epochs=range(3, 31))
    (message,) = caught(build(death, warmup=0), 30)
    assert "retry 1 of 2" in message
    for callbacks, options in (((), {"retries": 0}), ((CollapseMonitor(),), {})):
        death = Killer(*LAYERS, epochs=range(3, 31))
        messages = caught(build(death, *callbacks, warmup=0, **options), 30)
        assert not any("Rolled back" in message for message in messages) and messages


def test_a_healthy_run_is_not_disturbed():
    states = []
    for options in ({"retries": 0}, {}):
        svi = build(**options)
        svi.run([data()], 30, progress=False)
        states.append(full_state(svi))
    assert_same(*states)


def test_a_full_disk_does_not_end_a_run(monkeypatch):
    svi = build(warmup=0)

    def save(path):
        raise OSError("no space left")

    monkeypatch.setattr(svi, "save", save)
    with pytest.warns(UserWarning, match="no space left"):
        svi.run([data()], 5, progress=False)
    assert svi.epoch == 5


def test_retries_must_be_positive():
    with pytest.raises(ValueError, match="retries: expected a positive number, got 0"):
        CollapseRepair(retries=0)
    with pytest.raises(ValueError, match="retries: expected a number of times, got -1"):
        build(retries=-1)


@pytest.mark.parametrize("as_class", [False, True])
def test_pyros_own_guides_are_rolled_back_with_a_longer_warm_up(as_class):
    class Spell(Callback):
        def on_epoch(self, svi):
            if svi.epoch in range(3, 31) and own.attempt == 0:
                with torch.no_grad():
                    svi.guide.locs.weights.zero_()
                    svi.guide.scales.weights_unconstrained.fill_(0.5)

    own, model = CollapseRepair(epochs=5), regression()
    guide = GUIDES["normal"] if as_class else GUIDES["normal"](model)
    svi = PhasedSVI(model, guide, Adam, callbacks=[Spell(), own], warmup=0)
    (message,) = caught(svi, 60)
    assert "Rolled back to epoch 0: retry 1 of 2" in message
    assert own.attempt == 1 and own.dead == [] and svi.epoch == 60
    assert svi.history.epochs[0].kl_weight == pytest.approx(1 / 30)


def test_a_run_without_end_is_warmed_up_anew_beyond_its_outlook():
    """The number of epochs to plan with may have been passed long ago."""
    svi = PhasedSVI(regression(), AutoMeanField, Adam, warmup=0)
    svi.until_converged = True
    watch = CollapseRepair()
    watch.on_run_start(svi, epochs=4, batches=1)
    for _ in range(9):
        svi.step(*data())
        watch.on_step(svi, 0.0)
    watch._left = 2
    svi.epoch = 9
    watch._keep(svi, "healthy")
    watch._healthy = 9
    watch._roll_back(svi, retry=1)
    watch.on_run_end(svi)
    assert (svi.warm_up.start, svi.warm_up.steps) == (9, 2)
    assert svi.kl_weight == 0.5
