# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""When the monitor warns, of what, and how often."""

import warnings

import pytest
import torch

from pyro_groupprior import Assignment, AssignmentBuffer, AutoMeanField, PhasedSVI
from pyro_groupprior.collapse import CollapseMonitor, CollapseWarning
from tests.collapse.cells import LAYERS, Adam, Killer, build, kill
from tests.svi.runs import assert_same, data, full_state, function_model


def ready(**options) -> tuple[PhasedSVI, CollapseMonitor]:
    """A run of one step, to be checked by hand."""
    svi = build(warmup=0)
    svi.step(*data())
    return svi, CollapseMonitor(**options)


def check(svi, monitor, epoch):
    """What is warned of at an epoch."""
    svi.epoch = epoch
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        monitor.check(svi)
    assert all(issubclass(warning.category, CollapseWarning) for warning in caught)
    return [str(warning.message) for warning in caught]


def test_warns_once_for_each_layer_and_says_since_when():
    svi, monitor = ready()
    assert check(svi, monitor, 10) == []
    kill(svi, "2.weight")
    assert check(svi, monitor, 20) == []  # it may be a dip
    (message,) = check(svi, monitor, 30)
    assert "layer '2.weight' (group 1) since epoch 20" in message and "at epoch 30" in message
    assert "0.weight" not in message
    assert [part.part for part in monitor.dead] == ["2.weight"]
    kill(svi, "0.weight")
    assert check(svi, monitor, 40) == []
    (message,) = check(svi, monitor, 50)
    assert "'0.weight' (group 0) since epoch 40" in message and "2.weight" not in message
    assert check(svi, monitor, 60) == []


def test_a_dip_is_no_collapse_and_a_relapse_no_news():
    svi, monitor = ready()
    alive = svi.guide.state_dict()
    alive = {name: value.clone() for name, value in alive.items()}
    for epoch in (10, 30):
        kill(svi, *LAYERS)
        assert check(svi, monitor, epoch) == []
        svi.guide.load_state_dict(alive)
        assert check(svi, monitor, epoch + 10) == []
    kill(svi, *LAYERS)
    assert check(svi, monitor, 50) == [] and len(check(svi, monitor, 60)) == 1
    svi.guide.load_state_dict(alive)
    assert check(svi, monitor, 70) == [] and monitor.dead == []
    kill(svi, "4.weight")
    assert check(svi, monitor, 80) == check(svi, monitor, 90) == []  # it was told
    assert [part.part for part in monitor.dead] == ["4.weight"]
    monitor.on_run_start(svi, 1, 1)
    assert check(svi, monitor, 100) == [] and len(check(svi, monitor, 110)) == 1


def test_pruned_units_and_groups_are_no_alarm():
    svi, monitor = ready()
    svi.model.groups.assignment = Assignment(torch.arange(svi.model.layout.num_weights) % 2)
    with torch.no_grad():
        svi.guide.locs["weights"][::2] = 0.0
    assert check(svi, monitor, 1) == check(svi, monitor, 2) == []
    groups = [s.signal for s in monitor.records[-1][-1] if s.kind == "group"]
    assert groups[0] == 0.0 and groups[1] > 1


def test_waits_for_the_end_of_the_warm_up():
    svi, monitor = ready()
    svi.warm_up.begin(0, 2)
    assert svi.kl_weight == 1.0
    svi.warm_up.begin(0, 3)
    kill(svi, "2.weight")
    assert all(check(svi, monitor, epoch) == [] for epoch in (1, 2, 3))
    svi.warm_up.begin(0, 2)
    (message,) = check(svi, monitor, 4)
    assert "since epoch 1," in message


def test_weights_that_are_no_nets_are_judged_together():
    buffer = AssignmentBuffer(Assignment(torch.tensor([0, 1, 1])))
    svi = PhasedSVI(function_model(buffer), AutoMeanField, Adam)
    svi.step(*data())
    monitor = CollapseMonitor()
    for sites, found in ((slice(0, 1), 0), (slice(None), 1)):
        with torch.no_grad():
            svi.guide.locs["beta"][:] = 1.0
            svi.guide.locs["beta"][sites] = 0.0
        warned = check(svi, monitor, 1) + check(svi, monitor, 2)
        assert len(warned) == found
    assert "whole 'beta' (groups 0, 1)" in warned[0]


def test_in_a_run_by_epochs_and_at_its_end():
    monitor = CollapseMonitor(epochs=4)
    svi = build(Killer("2.weight", epochs=range(9, 11)), monitor, warmup=0)
    with pytest.warns(CollapseWarning, match=r"'2.weight' \(group 1\) since epoch 10"):
        svi.run([data()], 10, progress=False)
    table = monitor.to_frame()
    assert sorted(set(table["epoch"])) == [4, 8, 10]
    assert list(table["part"][:3]) == list(LAYERS) and set(table["attempt"]) == {0}
    assert len(table) == 3 * 6
    told = table[table["alarm"]]
    assert told[["epoch", "part"]].values.tolist() == [[10, "2.weight"]]


def test_about_fifty_checks_by_default():
    monitor = CollapseMonitor()
    build(monitor).run([data()], 230, progress=False)
    assert 50 <= len(monitor.records) <= 60


def test_watching_disturbs_nothing():
    states = []
    for callbacks in ((), (CollapseMonitor(epochs=1),)):
        svi = build(*callbacks, retries=0)
        svi.run([data()], 6, progress=False)
        states.append(full_state(svi))
    assert_same(*states)


@pytest.mark.parametrize(("option", "value"), [("epochs", 0), ("threshold", 0.0)])
def test_refusals(option, value):
    with pytest.raises(ValueError, match=f"{option}: expected a positive number, got {value}"):
        CollapseMonitor(**{option: value})
