# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What is drawn, not how it looks."""

import pytest
import torch
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior.comparison import WeightMoments, compare_weights
from pyro_groupprior.plots import plot_comparison, plot_pruning, plot_transpositions
from pyro_groupprior.symmetry import random_transpositions

ONE = WeightMoments(torch.linspace(-1, 1, 17), torch.full((17,), 0.5))
TWO = WeightMoments(torch.linspace(-1, 1, 17), torch.full((17,), 0.1))


def test_comparison_has_a_row_for_each_group() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    model = pgp.BayesianModule(net, pgp.likelihoods.Categorical())
    table = compare_weights(model, {"HMC": ONE, "VI": TWO}, "HMC", by="row")
    ax = plot_comparison(table, "sd_ratio")
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [f"0.weight ({i})" for i in range(3)] + [f"2.weight ({i})" for i in (0, 1)]
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert lines["VI"].get_xdata().tolist() == pytest.approx([0.2] * 5)
    assert lines["HMC"].get_ydata().tolist() == [0, -1, -2, -3, -4]
    assert ax.get_xlabel() == "sd / reference's sd"
    with pytest.raises(ValueError, match=r"column: expected one of .*, got 'rank'"):
        plot_comparison(table, "rank")


def test_transpositions_beside_random_ones() -> None:
    ax = plot_transpositions({"found": torch.tensor([1, 5, 2])}, size=64)
    found, random = ax.get_lines()
    assert found.get_ydata().tolist() == [1, 5, 2]
    assert random.get_ydata()[0] == pytest.approx(random_transpositions(64)[0])
    assert ax.get_ylim()[1] == 64


def test_pruning_curves() -> None:
    ax = plot_pruning({"snr": ([1.0, 0.1], [0.9, 0.8]), "sd": ([1.0, 0.1], [0.9, 0.2])}, "NLL")
    assert [line.get_label() for line in ax.get_lines()] == ["snr", "sd"]
    assert ax.get_lines()[1].get_ydata() == pytest.approx([0.9, 0.2])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["100 %", "50 %", "20 %", "10 %"]
    assert ax.get_xlim()[0] > ax.get_xlim()[1]
    assert ax.get_ylabel() == "NLL"
