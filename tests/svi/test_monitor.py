# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Snapshots of posterior moments during training."""

from functools import partial

import pyro
import pytest
import torch
from pyro.infer.autoguide import AutoIAFNormal

from pyro_groupprior import (
    Assignment,
    AssignmentBuffer,
    AutoMeanField,
    Callback,
    PhasedSVI,
    Regroup,
)
from pyro_groupprior.guides import posterior_moments
from pyro_groupprior.svi.monitor import Monitor
from tests.svi.runs import (
    GUIDES,
    NUM_WEIGHTS,
    THREE,
    Adam,
    Planned,
    assert_same,
    data,
    full_state,
    regression,
    two_priors,
)


class Recorder(Callback):
    """Every step's moments, by the engine's own account."""

    def __init__(self):
        self.means, self.sds = {}, {}

    def on_step(self, svi, loss):
        mean, sd = posterior_moments(svi.guide, "weights", *svi.last_batch[0])
        self.means[svi.step_count], self.sds[svi.step_count] = mean.clone(), sd.clone()


def run(*callbacks, epochs=3, batches=4, guide=AutoMeanField, **options) -> PhasedSVI:
    svi = PhasedSVI(regression(), guide, Adam, callbacks=callbacks, **options)
    svi.run([data()] * batches, epochs, progress=False)
    return svi


@pytest.mark.parametrize("guide", ["mean_field", "low_rank", "normal", "diagonal", "delta"])
@pytest.mark.parametrize(
    ("interval", "steps"),
    [({}, [4, 8, 12]), ({"epochs": 2}, [8]), ({"steps": 3}, [3, 6, 9, 12]), ({"steps": 13}, [])],
)
def test_holds_the_moments_of_the_time(guide, interval, steps):
    recorder, monitor = Recorder(), Monitor(**interval)
    run(recorder, monitor, guide=GUIDES[guide])
    if not steps:
        assert not monitor.trajectories
        return
    seen = monitor.trajectories["weights"]
    assert seen.steps == steps
    assert torch.equal(seen.means, torch.stack([recorder.means[step] for step in steps]))
    assert torch.equal(seen.sds, torch.stack([recorder.sds[step] for step in steps]))


@pytest.mark.parametrize("guide", ["mean_field", "normal", "flow"])
def test_training_goes_on_as_it_would_without(guide):
    guides = {**GUIDES, "flow": partial(AutoIAFNormal, hidden_dim=[40])}
    states = []
    for callbacks in ([], [Monitor(steps=2)]):
        pyro.clear_param_store()
        pyro.set_rng_seed(3)
        states.append(full_state(run(*callbacks, guide=guides[guide])))
    assert_same(*states)


def test_long_runs_are_thinned_and_skipped_ones_not_computed(monkeypatch):
    calls = []

    def counted(guide, name, *args):
        calls.append(name)
        return posterior_moments(guide, name, *args)

    monkeypatch.setattr("pyro_groupprior.svi.monitor.posterior_moments", counted)
    monitor = Monitor(steps=1, max_snapshots=4)
    run(monitor, epochs=5)
    assert monitor.trajectories["weights"].steps == [1, 9, 17]
    assert len(calls) == 9  # 1 to 5, 7, 9, 13 and 17


def regrouped(monitor, **every) -> PhasedSVI:
    planned = Planned(*[torch.arange(NUM_WEIGHTS) % n for n in (4, 2, 5, 3)])
    return run(monitor, regroup=Regroup(planned, **every))


@pytest.mark.parametrize(
    ("every", "whole", "phase"),
    [
        ({"epochs": 2}, list(range(1, 13)), [9, 10, 11, 12]),
        ({"steps": 5}, list(range(1, 13)), [10, 11, 12]),
    ],
)
def test_a_phase_alone_if_asked(every, whole, phase):
    for reset, steps in ((False, whole), (True, phase)):
        monitor = Monitor(steps=1, reset_at_phase=reset)
        regrouped(monitor, **every)
        assert monitor.trajectories["weights"].steps == steps


def test_snapshot_at_the_epochs_end_comes_after_its_regroup():
    monitor = Monitor(reset_at_phase=True)
    regrouped(monitor, epochs=1)
    assert monitor.trajectories["weights"].steps == [12]


def two_sites(monitor) -> PhasedSVI:
    buffers = [AssignmentBuffer(Assignment(torch.zeros(3, dtype=torch.long))) for _ in range(2)]
    svi = PhasedSVI(two_priors(buffers), AutoMeanField, Adam, callbacks=[monitor])
    x, y = data()
    svi.run([(x, y[:, 0])] * 3, 4, progress=False)
    return svi


def test_every_group_prior_has_its_own():
    monitor = Monitor(steps=1)
    svi = two_sites(monitor)
    assert set(monitor.trajectories) == {"one", "two"}
    for name, seen in monitor.trajectories.items():
        assert len(seen) == 12
        assert torch.equal(seen.means[-1], posterior_moments(svi.guide, name)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("keep_sd", [False, True])
def test_memory_is_bounded_over_all_priors(dtype, keep_sd):
    bound = 300
    monitor = Monitor(steps=1, max_memory=bound / 2**30, dtype=dtype, keep_sd=keep_sd)
    two_sites(monitor)
    stores = monitor.trajectories.values()
    assert all((seen.sds is not None) == keep_sd for seen in stores)
    each = 3 * dtype.itemsize * (2 if keep_sd else 1)
    assert sum(seen.num_bytes for seen in stores) == 2 * each * min(32, 150 // each // 2 * 2)
    assert sum(seen.num_bytes for seen in stores) <= bound


def test_too_little_memory_is_said():
    with pytest.raises(ValueError, match="max_memory: 4 snapshots of 31 weights"):
        run(Monitor(max_memory=1e-7))


@pytest.mark.parametrize("keep_sd", [False, True])
def test_goes_on_from_its_state(keep_sd):
    whole = Monitor(steps=1, max_snapshots=4, keep_sd=keep_sd)
    svi = run(whole)
    first = Monitor(steps=1, max_snapshots=4, keep_sd=keep_sd)
    first.load_state_dict({k: v.clone() for k, v in whole.state_dict().items()})
    svi.callbacks = [whole, first]
    svi.run([data()] * 4, 2, progress=False)
    one, other = whole.trajectories["weights"], first.trajectories["weights"]
    assert one.steps == other.steps and torch.equal(one.means, other.means)
    assert not keep_sd or torch.equal(one.sds, other.sds)


def test_state_and_standard_deviations():
    with_sd, without = Monitor(), Monitor(keep_sd=False)
    run(with_sd, without)
    other = Monitor(keep_sd=False)
    other.load_state_dict(with_sd.state_dict())
    assert other.trajectories["weights"].sds is None
    with pytest.raises(ValueError, match="keep_sd=False"):
        Monitor().load_state_dict(without.state_dict())
    fresh = Monitor()
    fresh.load_state_dict({})
    run(fresh)
    assert len(fresh.trajectories["weights"]) == 3


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"epochs": 1, "steps": 1}, ValueError, "expected one of them, got epochs=1, steps=1"),
        ({"epochs": 0}, ValueError, "epochs: expected a positive number, got 0"),
        ({"steps": -1}, ValueError, "steps"),
        ({"max_snapshots": 2}, ValueError, "max_snapshots"),
        ({"max_memory": -1.0}, ValueError, "max_memory"),
        ({"dtype": torch.int8}, TypeError, "dtype"),
    ],
)
def test_bad_options(options, error, match):
    with pytest.raises(error, match=match):
        Monitor(**options)


def test_weights_of_a_grouped_net_are_all_there():
    monitor = Monitor()
    run(monitor)
    assert monitor.trajectories["weights"].means.shape == (3, len(THREE))
