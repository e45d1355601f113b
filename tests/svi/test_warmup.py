# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The KL warm-up that a run has where the user says nothing."""

import pytest

from pyro_groupprior import AutoMeanField, Callback, PhasedSVI
from pyro_groupprior.svi.warmup import WarmUp
from tests.svi.runs import Adam, data, regression


def make(**options) -> PhasedSVI:
    return PhasedSVI(regression(), AutoMeanField, Adam, **options)


def weights(svi):
    """Of the divergence at the next step, after each epoch."""
    return [record.kl_weight for record in svi.history.epochs]


def test_a_third_of_the_first_run():
    svi = make()
    assert svi.kl_weight == 1.0  # no run, no plan
    svi.run([data(), data()], 6, progress=False)
    assert weights(svi) == [3 / 4, 1.0, 1.0, 1.0, 1.0, 1.0]
    svi.run([data(), data()], 100, progress=False)
    assert set(weights(svi)[6:]) == {1.0}  # only the first run has one


def test_after_steps_it_begins_with_the_run():
    svi = make()
    for _ in range(3):
        svi.step(*data())
    svi.run([data()], 12, progress=False)
    assert weights(svi)[:4] == [2 / 4, 3 / 4, 1.0, 1.0]


@pytest.mark.parametrize(
    ("steps", "expected"), [(0, [1.0] * 4), (2, [1.0] * 4), (8, [0.25, 0.375])]
)
def test_what_the_user_says_counts(steps, expected):
    svi = make(warmup=steps)
    svi.run([data()], 4, progress=False)
    assert weights(svi)[: len(expected)] == expected


class Endless:
    """A loader that does not know its length."""

    def __iter__(self):
        return iter([data(), data()])


def test_none_where_the_number_of_steps_is_unknown():
    svi = make()
    svi.run(Endless(), 4, progress=False)
    assert set(weights(svi)) == {1.0}


def test_a_resumed_run_keeps_the_plan_of_the_first(tmp_path):
    whole = make()
    whole.run([data()], 30, progress=False)
    svi = make()
    svi.callbacks.append(stop_at(4))
    svi.run([data()], 30, progress=False)
    svi.save(tmp_path / "run")
    again = make(warmup=7)  # the file says otherwise
    again.load(tmp_path / "run", *data())
    again.run([data()], 26, progress=False)
    assert weights(again) == weights(whole)


def stop_at(epoch):
    class StopAt(Callback):
        def on_epoch(self, svi):
            svi.should_stop = svi.epoch == epoch

    return StopAt()


def test_begin_anew():
    warm_up = WarmUp(4)
    assert [warm_up.weight(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    warm_up.plan(now=0, num_steps=99)
    assert warm_up == WarmUp(4)
    warm_up.begin(now=10, steps=2)
    assert [warm_up.weight(step) for step in (10, 11, 12)] == [0.5, 1.0, 1.0]
