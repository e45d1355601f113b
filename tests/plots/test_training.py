# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Losses, phases and churn, read back from the axes."""

import numpy as np
import pandas as pd
import pytest

import pyro_groupprior as pgp
from pyro_groupprior.datatree import to_datatree
from pyro_groupprior.plots import plot_churn, plot_history
from tests.plots.examples import history_with, lines, regroup, texts, trained


def test_history_shows_losses_and_phases():
    history = history_with(400, warmup=100, phases=[(150, 0.4), (300, 0.031)])
    ax = plot_history(history)
    losses = pd.Series([record.loss for record in history.epochs])
    (raw,), (smooth,) = lines(ax, "each epoch"), lines(ax, "running median of 9")
    assert np.allclose(raw.get_ydata(), losses)
    expected = losses.rolling(9, center=True).median().dropna()
    assert np.allclose(smooth.get_ydata(), expected)
    assert np.allclose(smooth.get_xdata(), expected.index + 1)
    dashed = [line.get_xdata()[0] for line in ax.get_lines() if line.get_linestyle() == "--"]
    assert dashed == [150, 300]
    assert [text.get_text() for text in ax.texts] == ["40%", "3%"]
    hatched = [patch for patch in ax.patches if patch.get_hatch()]
    assert len(hatched) == 1
    assert hatched[0].get_x() + hatched[0].get_width() == 99.5  # full weight from epoch 100 on


def test_history_of_few_epochs():
    ax = plot_history(history_with(3))
    assert len(ax.get_lines()) == 1 and ax.get_legend() is None
    low, high = ax.get_ylim()
    losses = [record.loss for record in history_with(3).epochs]
    assert low < min(losses) and high > max(losses)
    plot_history(history_with(1))


def test_history_shows_one_line_for_priors_regrouped_together():
    ax = plot_history(history_with(20, phases=[(10, 0.1), (10, 0.5)]))
    assert [text.get_text() for text in ax.texts] == ["50%"]


def test_history_numbers_have_room_and_refused_proposals_no_line():
    phases = [(10 * n, n / 100) for n in range(1, 21)]
    history = history_with(205, phases=phases)
    ax = plot_history(history)
    dashed = [line.get_xdata()[0] for line in ax.get_lines() if line.get_linestyle() == "--"]
    assert dashed == [epoch for epoch, _ in phases]
    places = [text.xy[0] for text in ax.texts]
    assert places == list(range(10, 210, 20))  # each number is some six epochs wide, at a distance
    last = plot_history(history_with(200, phases=[(200, 0.5)])).texts[0]
    assert last.get_ha() == "right"
    refused = pgp.History(history.epochs, [regroup(1, [(0, 0, 5.0)], [0], accepted=False)])
    assert texts(plot_history(refused).texts) == []


def test_empty_history_is_refused():
    with pytest.raises(ValueError, match="at least one epoch"):
        plot_history(pgp.History())


def test_history_and_churn_of_a_tree():
    svi, *_ = trained()
    tree = to_datatree(svi.model, svi.guide, training=svi)
    for plot in (plot_history, plot_churn):
        own, other = plot(tree), plot(svi.history)
        for line, expected in zip(own.get_lines(), other.get_lines(), strict=True):
            assert np.array_equal(line.get_xydata(), expected.get_xydata(), equal_nan=True)
    with pytest.raises(ValueError, match="tree: has no history"):
        plot_history(to_datatree(svi.model, svi.guide))
    with pytest.raises(TypeError, match="history: expected a History or a DataTree, got PhasedSVI"):
        plot_history(svi)


def test_churn_and_agreement():
    phases = [
        regroup(1, [(0, 0, 5.0)], [0], churn=0.4, rand_index=0.2),
        regroup(2, [(0, 0, 5.0)], [0], churn=0.0, rand_index=1.0, accepted=False),
        regroup(3, [(0, 0, 5.0)], [0], churn=0.1, rand_index=-0.3),
    ]
    ax = plot_churn(pgp.History(phases=phases))
    (churn,), (agreement,) = lines(ax, "share of weights moved"), lines(ax, "adjusted Rand index")
    assert churn.get_xydata().tolist() == [[10, 0.4], [20, 0.0], [30, 0.1]]
    assert agreement.get_ydata().tolist() == [0.2, 1.0, -0.3]
    low, high = ax.get_ylim()
    assert low < -0.3 and high > 1
    refused = [line for line in ax.get_lines() if line.get_markerfacecolor() == "white"]
    assert [line.get_xdata().tolist() for line in refused[:2]] == [[20], [20]]
    assert texts(ax.get_legend().get_texts())[-1] == "not accepted"


def test_churn_of_one_regroup_without_a_rand_index():
    ax = plot_churn(history_with(5, phases=[(3, 0.5)]))
    assert lines(ax, "share of weights moved")[0].get_xydata().tolist() == [[3, 0.5]]
    assert len(ax.get_legend().get_texts()) == 2
    with pytest.raises(ValueError, match="at least one regroup, got none"):
        plot_churn(history_with(5))
