# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""From a plain net to a shared posterior in a file."""

import math

import pytest
import torch
from torch import nn

from benchmarks import shared_nets
from benchmarks.images import Loader
from benchmarks.shared_nets import Recipe, Sharing


def test_scores_of_a_mixture_of_draws():
    logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [3.0, 0.0]]])

    def net(x, num_draws):
        return logits[:, : len(x)]

    found = shared_nets.log_probs(net, torch.zeros(2, 1), 2)
    torch.testing.assert_close(found, logits.softmax(-1).mean(0).log())
    scores = shared_nets.scores(found, torch.tensor([0, 1]))
    first = (1 / (1 + math.exp(-2)) + 0.5) / 2
    second = (1 / (1 + math.exp(-1)) + 1 / (1 + math.exp(3))) / 2
    assert math.isclose(scores["nll"], -(math.log(first) + math.log(second)) / 2, rel_tol=1e-5)
    assert scores["accuracy"] == 0.5
    # One in each bin: its confidence against being right.
    assert math.isclose(scores["ece"], ((1 - first) + (1 - second)) / 2, rel_tol=1e-5)


def test_elsewhere_is_told_by_entropy():
    sure = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log()
    unsure = torch.tensor([[0.6, 0.4], [0.15, 0.85]]).log()
    # Entropies grow in the order .9, .15, .2, .6: three of four pairs are in order.
    assert shared_nets.auroc(sure, unsure) == 0.75
    assert shared_nets.auroc(unsure, sure) == 0.25


@pytest.mark.filterwarnings("ignore::pyro_groupprior.svi.ConvergenceWarning")
def test_a_pruned_net_with_batch_norm_goes_all_the_way(tmp_path):
    torch.manual_seed(0)

    def make():
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
        )

    x = torch.randn(256, 1, 6, 6)
    data = x, (x.mean((1, 2, 3)) > 0).long()
    net = make()
    with torch.no_grad():
        net[4].weight[:, ::2] = 0.0
    recipe = Recipe(temperature=0.1, epochs=60, rate=1e-2, width=0.1)
    model, guide = shared_nets.untrained(net, Loader(data), recipe)
    shared_nets.train_posterior(model, guide, Loader(data), recipe)
    assert int((~model.mask).sum()) == 64
    how = Sharing(entries=6, merged=4, bits=0.1, epochs=20, rate=1e-2, outliers=0.05, blend=0.05)
    _, shared = shared_nets.share(model, guide, Loader(data), how)
    sizes, module = shared_nets.from_file(tmp_path / "net", shared, make())
    assert sum(sizes.values()) == (tmp_path / "net").stat().st_size
    assert int((module.net[4].weight == 0).sum()) == 64
    assert len(module.net[4].weight.unique()) <= 1 + 4 + 2 * 15
    scores = shared_nets.scores(shared_nets.log_probs(module, x, 20), data[1])
    assert scores["accuracy"] > 0.8
