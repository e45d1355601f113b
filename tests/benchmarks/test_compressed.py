# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What is made of the scores of compressed nets."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks import compressed
from benchmarks.shared_nets import Recipe, Sharing

RECIPE = Recipe(temperature=0.5, epochs=1, rate=1e-3, width=0.1)


def data():
    torch.manual_seed(0)
    x = torch.randn(256, 6)
    rows = x, (x[:, 0] > 0).long()
    return rows, rows, rows


PLAN = compressed.Plan(
    "little",
    lambda: nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 2)),
    data,
    epochs=10,
    fine=2,
    after=1,
    pruning=2,
    recovery=2,
    deep=(0.7, 0.4),
    gradual=(0.4,),
    units={"0": 0.5},
    recipe=RECIPE,
    sharing=Sharing(entries=4, epochs=1),
    training=compressed.plain.Training(1e-2, 1e-2),
    draws=5,
    elsewhere=lambda: torch.zeros(64, 6),
    ablation={"fixed prior": replace(RECIPE, prior="fixed")},
    ablated=0.4,
)


def cell(size, accuracy, chosen_by, **more):
    scores = {"accuracy": accuracy, "nll": 1 - accuracy, "ece": 0.1, "auroc": 0.5}
    return {"bytes": size, "test": scores, "chosen_by": scores | {"accuracy": chosen_by}, **more}


def test_the_smallest_good_file_counts_and_good_is_said_by_the_rows_to_choose_by():
    before = {"accuracy": 0.9, "nll": 0.1, "ece": 0.02, "auroc": 0.7}
    plan = replace(PLAN, gradual=(0.4, 0.2, 0.1), ablation={})
    cells = {
        "fp32 0": cell(1000, 0.92, 0.91),
        "deep 0.4 0": cell(100, 0.91, 0.906),
        "gradual 0.4 0": cell(90, 0.91, 0.906),
        "gradual 0.2 0": cell(60, 0.91, 0.906),
        "gradual 0.1 0": cell(40, 0.92, 0.904),
        "posterior 0": cell(2000, 0.92, 0.91, numbers=600),
        "shared 0.4 0": cell(80, 0.92, 0.91, numbers=20, before=before),
        "shared 0.2 0": cell(50, 0.90, 0.906, numbers=10, before=before),
        "shared 0.1 0": cell(30, 0.92, 0.80, numbers=5, before=before),
    }
    found = compressed.summary(plan, cells, [0])
    assert found == {
        "accuracy_drop": pytest.approx(2.0),
        "bytes": 50,
        "nll_minus_fp32": pytest.approx(0.02),
        "ece_minus_fp32": 0.0,
        "ece_before": 0.02,
        "ece_after": 0.1,
        "auroc_fp32": 0.5,
        "auroc_before": 0.7,
        "auroc_after": 0.5,
        "bytes_over_deep_compression": 0.5,
        "bytes_over_gradual": pytest.approx(50 / 60),
        "numbers_ratio": 60.0,
    }


@pytest.mark.filterwarnings("ignore::pyro_groupprior.svi.ConvergenceWarning")
def test_all_ways_are_gone_and_what_takes_long_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed, "FOLDER", tmp_path)
    study = compressed.Study(PLAN, 0)
    cells = {f"{name} 0": compressed.run(lambda: study, name) for name in PLAN.names()}
    assert cells["fp32 0"]["test"]["accuracy"] > 0.9
    assert cells["shared 0.4 0"]["numbers"] < cells["posterior 0"]["numbers"] / 4
    pruned = study.gradual(0.4).state_dict()
    assert int((pruned["0.weight"] != 0).any(1).sum()) == 10
    assert {name.split()[0] for name in cells} <= set(PLAN.settings())
    monkeypatch.setattr(compressed.plain, "train", None)  # what is kept is not trained again
    again = compressed.run(lambda: compressed.Study(PLAN, 0), "gradual 0.4")
    assert again["bytes"] == cells["gradual 0.4 0"]["bytes"]
    assert set(compressed.print_means(PLAN, cells, [0])) == set(PLAN.names())
