# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""An interrupted run that is taken up again ends bit by bit where the undisturbed one does."""

import subprocess
import sys
from pathlib import Path

import pytest

from pyro_groupprior import (
    Checkpoint,
)
from pyro_groupprior.storage import read_file
from tests.svi.interrupted import (
    CASES,
    EPOCHS,
    STEPS,
    StopAt,
    build,
    interrupt,
    take_up,
    undisturbed,
)
from tests.svi.runs import assert_same, data, full_state

MOMENTS = {
    "before any regroup": {"step": 2},
    "in the middle of an epoch": {"step": 6},
    "after the last step of an epoch": {"step": 8},
    "after the regroup": {"epoch": 2},
}


@pytest.mark.parametrize("case", CASES)
def test_resumed_run_equals_the_undisturbed(case, tmp_path):
    expected = undisturbed(case)
    assert expected[1]["counters"][0] == EPOCHS * STEPS
    phases = expected[1]["history"]["phases"]
    assert phases[0]["num_groups"] == phases[-1]["num_groups"] >= 2
    for when in MOMENTS.values():
        interrupt(case, tmp_path / "run", **when)
        assert_same(expected, full_state(take_up(case, tmp_path / "run")))


def test_resumed_in_another_process(tmp_path):
    expected = undisturbed("soft")
    interrupt("soft", tmp_path / "run", step=6)
    script = (
        "import sys, torch\n"
        "torch.set_num_threads(1)\n"
        "from tests.svi.interrupted import take_up\n"
        "take_up('soft', sys.argv[1]).save(sys.argv[2])\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "run"), str(tmp_path / "end")]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    there, _ = build("soft", seed=3)
    there.load(tmp_path / "end", *[part[:16] for part in data()])
    assert_same(expected, full_state(there))


def test_interrupted_twice_and_saved_again(tmp_path):
    interrupt("mean_field", tmp_path / "run", step=3)
    svi, loader = build("mean_field", seed=5)
    svi.load(tmp_path / "run", *[part[:16] for part in data()])
    svi.save(tmp_path / "again")
    one, two = (read_file(tmp_path / name, "checkpoint") for name in ("run", "again"))
    assert_same(one, two)
    svi.callbacks.append(StopAt(tmp_path / "run", step=10))
    svi.run(loader, EPOCHS, progress=False)
    assert_same(undisturbed("mean_field"), full_state(take_up("mean_field", tmp_path / "run")))


def test_stopped_and_run_on_in_the_same_object(tmp_path):
    svi, loader = build("low_rank", seed=1)
    svi.callbacks.append(StopAt(tmp_path / "run", step=6))
    svi.run(loader, EPOCHS, progress=False)
    svi.run(loader, EPOCHS - svi.epoch, progress=False)
    assert_same(undisturbed("low_rank"), full_state(svi))


def test_loading_takes_a_run_back(tmp_path):
    svi, loader = build("mean_field", seed=1)
    svi.warm_up.plan(0, EPOCHS * len(loader))  # as if the whole were one run
    svi.run(loader, 2, progress=False)
    svi.save(tmp_path / "run")
    before = full_state(svi)
    svi.run(loader, 2, progress=False)
    svi.load(tmp_path / "run")
    assert_same(before, full_state(svi))
    svi.run(loader, 2, progress=False)
    assert_same(undisturbed("mean_field"), full_state(svi))


def test_checkpoint_callback(tmp_path):
    svi, loader = build("mean_field", seed=1)
    svi.callbacks.append(Checkpoint(tmp_path / "run", steps=3))
    svi.run(loader, EPOCHS, progress=False)
    assert_same(undisturbed("mean_field"), full_state(svi))  # saving disturbs nothing
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert_same(full_state(svi), full_state(take_up("mean_field", tmp_path / "run")))
    with pytest.raises(ValueError, match="steps"):
        Checkpoint(tmp_path / "run", steps=0)


def test_saving_and_loading_too_early(tmp_path):
    svi, _ = build("mean_field", seed=1)
    with pytest.raises(RuntimeError, match="nothing to save"):
        svi.save(tmp_path / "run")
    interrupt("mean_field", tmp_path / "run", step=1)
    with pytest.raises(RuntimeError, match="give one batch along"):
        svi.load(tmp_path / "run")


def test_loader_that_is_too_short(tmp_path):
    interrupt("mean_field", tmp_path / "run", step=3)
    svi, _ = build("mean_field", seed=1)
    svi.load(tmp_path / "run", *data())
    with pytest.raises(ValueError, match="is it the same loader"):
        svi.run([data()], 1, progress=False)
