# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""An interrupted run that is taken up again ends bit by bit where the undisturbed one does."""

import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from pyro_groupprior import (
    Assignment,
    AssignmentBuffer,
    AutoMeanField,
    BayesianModule,
    Callback,
    Checkpoint,
    Cluster,
    Learned,
    PhasedSVI,
    Regroup,
    group_prior,
    likelihoods,
)
from pyro_groupprior.storage import read_file, write_file
from tests.svi.runs import GUIDES, THREE, Adam, assert_same, data, full_state, regression

EPOCHS, STEPS = 4, 4  # an epoch
# KMeans without a random state draws from numpy's global generator.
BY_EPOCHS = partial(Regroup, Cluster(KMeans(5, n_init=1), "moments"), epochs=1)


def net_with_state() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Tanh(), nn.Linear(6, 1)
    )


def function_model():
    buffer = AssignmentBuffer(Assignment(torch.zeros(3, dtype=torch.long)))

    def model(x, y):
        beta = group_prior("beta", buffer, scale=Learned(1.0))
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=64 / len(x)):
            pyro.sample("y", dist.Normal(x @ beta, 1.0), obs=y.squeeze(-1))

    return model


# What differs from an AutoMeanField with Adam that shuffles by torch's default generator.
CASES = {
    "mean_field": {},
    "moments": {"regroup": partial(BY_EPOCHS, hyper="moments")},
    "by_steps": {"regroup": partial(Regroup, KMeans(5, n_init=1), steps=3)},
    "low_rank": {
        "guide": GUIDES["low_rank"],
        "optim": partial(torch.optim.SGD, lr=1e-4, momentum=0.9),
        "shuffle": "own generator",
    },
    "normal": {
        "guide": GUIDES["normal"],
        "optim": pyro.optim.ClippedAdam({"lr": 0.02, "lrd": 0.99, "clip_norm": 5.0}),
        "prior": {"scale": Learned(1.0)},
    },
    "low_rank_normal": {"guide": GUIDES["low_rank_normal"], "shuffle": "sampler's generator"},
    "multivariate": {"guide": GUIDES["multivariate"]},
    "learned": {"prior": {"scale": Learned(1.0), "loc": Learned(0.0)}},
    "learned_noise": {"likelihood": partial(likelihoods.Normal, noise=Learned(0.5))},
    "soft": {
        "regroup": partial(Regroup, Cluster(GaussianMixture(4), soft=2), epochs=1),
        "scheduler": partial(lr_scheduler.OneCycleLR, max_lr=0.05, total_steps=100),
        "shuffle": "own generator",
    },
    "batch_norm_dropout": {
        "net": net_with_state,
        "scheduler": partial(lr_scheduler.MultiStepLR, milestones=[5, 9, 14], gamma=0.5),
    },
    "function": {"model": function_model, "options": {"warmup": 10, "clip_norm": 50.0}},
    "function_normal": {"model": function_model, "guide": GUIDES["normal"]},
}


def build(case: str, seed: int) -> tuple[PhasedSVI, DataLoader]:
    """Everything anew, as in another process; only the data are the same."""
    options = CASES[case]
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    torch.rand(seed)
    if "model" in options:
        model = options["model"]()
    elif "net" in options:
        model = BayesianModule(options["net"](), likelihoods.Normal(), num_data=64)
    else:
        model = regression(
            "layer", options.get("likelihood", likelihoods.Normal)(), **options.get("prior", {})
        )
    schedule = options.get(
        "regroup",
        BY_EPOCHS if "model" not in options else partial(Regroup, KMeans(2, n_init=1), epochs=1),
    )
    svi = PhasedSVI(
        model,
        options.get("guide", AutoMeanField),
        options.get("optim", Adam),
        regroup=schedule(),
        scheduler=options.get("scheduler"),
        **options.get("options", {}),
    )
    dataset, own = TensorDataset(*data()), torch.Generator().manual_seed(11)
    how = {
        "own generator": {"shuffle": True, "generator": own},
        "sampler's generator": {"sampler": RandomSampler(dataset, generator=own)},
        None: {"shuffle": True},
    }[options.get("shuffle")]
    return svi, DataLoader(dataset, batch_size=16, **how)


class StopAt(Callback):
    """Save after a step, or at the end of an epoch, and leave."""

    def __init__(self, path, step=None, epoch=None):
        self.path, self.at_step, self.at_epoch = path, step, epoch

    def on_step(self, svi, loss):
        if svi.step_count == self.at_step:
            svi.save(self.path)
            svi.should_stop = True

    def on_epoch(self, svi):
        if svi.epoch == self.at_epoch:
            svi.save(self.path)
            svi.should_stop = True


def undisturbed(case: str, epochs: int = EPOCHS):
    svi, loader = build(case, seed=1)
    svi.run(loader, epochs, progress=False)
    return full_state(svi)


def interrupt(case: str, path: Path, **when: int) -> None:
    svi, loader = build(case, seed=1)
    svi.callbacks.append(StopAt(path, **when))
    svi.run(loader, EPOCHS, progress=False)


def take_up(case: str, path: Path, seed: int = 2) -> PhasedSVI:
    svi, loader = build(case, seed)
    svi.load(path, *[part[:16] for part in data()])
    if svi.epoch < EPOCHS:
        svi.run(loader, EPOCHS - svi.epoch, progress=False)
    return svi


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
        "from tests.svi.test_checkpoint import take_up\n"
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


def other(likelihood=None, guide=AutoMeanField, optim=Adam, scheduler=None, width=None, **options):
    if width is None:
        model = regression(options.pop("grouping", "layer"), likelihood, **options)
    else:
        net = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 1))
        model = BayesianModule(net, likelihoods.Normal(), num_data=64)
    schedule = Regroup(KMeans(5, n_init=1), epochs=1)
    return PhasedSVI(model, guide, optim, regroup=schedule, scheduler=scheduler)


STEP_LR = partial(lr_scheduler.StepLR, step_size=2)
FOREIGN = {
    "net": ({}, {"width": 5}, "another model"),
    "name": ({}, {"name": "other"}, "group priors"),
    "likelihood": ({}, {"likelihood": likelihoods.Normal(noise=0.1)}, "another guide"),
    "learned points": ({}, {"scale": Learned(1.0)}, "another set of learned points"),
    "guide": ({}, {"guide": GUIDES["low_rank"]}, "another guide"),
    "rank": (
        {"guide": GUIDES["low_rank"]},
        {"guide": partial(GUIDES["low_rank"], rank=3)},
        "guide",
    ),
    "Pyro's guide": ({}, {"guide": GUIDES["normal"]}, "another guide"),
    "flat guide": ({"guide": GUIDES["diagonal"]}, {"guide": GUIDES["multivariate"]}, "guide"),
    "flat guide's latents": (
        {"guide": GUIDES["diagonal"]},
        {"guide": GUIDES["diagonal"], "likelihood": likelihoods.Normal(noise=0.1)},
        "another guide",
    ),
    "optimizer": ({}, {"optim": partial(torch.optim.SGD, lr=0.1)}, "another optimizer"),
    "kindred optimizer": ({}, {"optim": partial(torch.optim.AdamW, lr=0.1)}, "another optimizer"),
    "no scheduler": ({"scheduler": STEP_LR}, {}, "another scheduler"),
    "scheduler": ({}, {"scheduler": STEP_LR}, "another scheduler"),
    "kind of scheduler": (
        {"scheduler": STEP_LR},
        {"scheduler": partial(lr_scheduler.ExponentialLR, gamma=0.9)},
        "another scheduler",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_checkpoint_of_something_else_is_refused(case, tmp_path):
    written, reading, match = FOREIGN[case]
    svi = other(**written)
    svi.run([data()], 2, progress=False)
    svi.save(tmp_path / "run")
    pyro.clear_param_store()
    svi = other(**reading)
    svi.step(*data())
    before, guide = full_state(svi), svi.guide
    identity = [id(p) for p in svi.parameters.values()]
    with pytest.raises(ValueError, match=match):
        svi.load(tmp_path / "run")
    assert_same(before, full_state(svi))
    assert svi.guide is guide and [id(p) for p in svi.parameters.values()] == identity


def test_guide_instance_cannot_follow_a_file_with_other_groups(tmp_path):
    interrupt("normal", tmp_path / "run", epoch=2)
    pyro.clear_param_store()
    model = regression("layer", scale=Learned(1.0))
    svi = PhasedSVI(model, GUIDES["normal"](model), CASES["normal"]["optim"])
    svi.step(*data())
    before = full_state(svi)
    with pytest.raises(ValueError, match="give PhasedSVI the class"):
        svi.load(tmp_path / "run")
    assert_same(before, full_state(svi))


def test_file_of_more_groups_into_a_run_of_others(tmp_path):
    """Both have regrouped already, to different numbers of groups."""
    for guide in ("mean_field", "normal", "multivariate"):
        pyro.clear_param_store()
        svi = other(guide=GUIDES[guide], grouping=THREE)
        svi.run([data()], 2, progress=False)
        svi.save(tmp_path / "run")
        before = full_state(svi)
        pyro.clear_param_store()
        svi = other(guide=GUIDES[guide], grouping=torch.arange(31) % 7)
        svi.step(*data())
        svi.load(tmp_path / "run")
        assert_same(before, full_state(svi))


@pytest.mark.parametrize("cut", [0, 7, 8, 100, 0.3, 0.9, -1])
def test_damaged_file_changes_nothing(cut, tmp_path):
    path = tmp_path / "run"
    interrupt("mean_field", path, step=6)
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content)) if isinstance(cut, float) else cut])
    svi, _ = build("mean_field", seed=2)
    torch_state, numpy_state, python_state = (
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),
        random.getstate(),
    )
    with pytest.raises(ValueError, match="damaged"):
        svi.load(path, *data())
    assert svi.optimizer is None and not svi.guide.is_set_up
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all() and python_state == random.getstate()
    svi.step(*data())
    before = full_state(svi)
    with pytest.raises(ValueError, match="damaged"):
        svi.load(path)
    assert_same(before, full_state(svi))


def test_other_kinds_of_file_and_no_file(tmp_path):
    svi, _ = build("mean_field", seed=1)
    svi.step(*data())
    before = full_state(svi)
    write_file(tmp_path / "draws", "draws", {"a": torch.zeros(2)}, {})
    with pytest.raises(ValueError, match="expected a file of kind 'checkpoint'"):
        svi.load(tmp_path / "draws")
    with pytest.raises(FileNotFoundError):
        svi.load(tmp_path / "nothing")
    with pytest.raises(OSError, match="nowhere"):
        svi.save(tmp_path / "nowhere" / "run")
    assert_same(before, full_state(svi))
