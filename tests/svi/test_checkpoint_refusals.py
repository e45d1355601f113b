# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints of something else, or damaged ones, are refused before anything changes."""

import random
from functools import partial

import numpy as np
import pyro
import pyro.optim
import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn
from torch.optim import lr_scheduler

from pyro_groupprior import (
    AutoMeanField,
    BayesianModule,
    Learned,
    PhasedSVI,
    Regroup,
    likelihoods,
)
from pyro_groupprior.storage import write_file
from tests.svi.interrupted import (
    CASES,
    build,
    interrupt,
)
from tests.svi.runs import GUIDES, THREE, Adam, assert_same, data, full_state, regression


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
