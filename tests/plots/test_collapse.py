# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Signals of layers, their threshold and alarms, read back from the axes."""

import numpy as np
import pandas as pd
import pytest

from pyro_groupprior.collapse import CollapseMonitor, CollapseWarning
from pyro_groupprior.datatree import to_datatree
from pyro_groupprior.plots import plot_collapse
from tests.collapse.cells import LAYERS, Killer, build
from tests.plots.examples import lines, texts, trained
from tests.svi.runs import data


def frame(**columns):
    """Checks of two layers and a group at three epochs."""
    parts = [("layer", "one"), ("layer", "two"), ("group", "0")]
    rows = [(e, kind, part) for e in (10, 20, 30) for kind, part in parts]
    table = pd.DataFrame(rows, columns=["epoch", "kind", "part"])
    table["signal"] = [1.0, 2.0, 0.0, 0.5, 0.05, 0.0, 0.4, 0.02, 0.0]
    table["site"], table["attempt"], table["alarm"] = "weights", 0, False
    table.loc[7, "alarm"] = True
    return table.assign(**columns)


def rings(ax):
    return [
        line.get_xydata().tolist()
        for line in ax.get_lines()
        if line.get_markersize() == 11 and len(line.get_xdata())
    ]


def test_layers_threshold_and_alarms():
    ax = plot_collapse(frame())
    ((one,), (two,)) = lines(ax, "one"), lines(ax, "two")
    assert one.get_xydata().tolist() == [[10, 1.0], [20, 0.5], [30, 0.4]]
    assert two.get_ydata().tolist() == [2.0, 0.05, 0.02]
    assert one.get_marker() != two.get_marker()
    assert rings(ax) == [[[30, 0.02]]]
    (threshold,) = lines(ax, "threshold")
    assert set(threshold.get_ydata()) == {CollapseMonitor().threshold}
    assert set(plot_collapse(frame(), threshold=0.3).get_lines()[-2].get_ydata()) == {0.3}
    assert ax.get_yscale() == "log" and ax.get_xlabel() == "epoch"
    assert texts(ax.get_legend().get_texts()) == ["one", "two", "threshold", "alarm"]


def test_without_alarms_none_are_named():
    for table in (frame(alarm=False), frame().drop(columns="alarm")):
        ax = plot_collapse(table)
        assert rings(ax) == []
        assert texts(ax.get_legend().get_texts()) == ["one", "two", "threshold"]


def test_zero_infinite_and_missing_signals():
    signal = [0.0, 2.0, 0.0, np.nan, np.inf, 0.0, 0.4, 0.02, 0.0]
    ax = plot_collapse(frame(signal=signal))
    one, two = lines(ax, "one")[0].get_ydata(), lines(ax, "two")[0].get_ydata()
    low, _ = ax.get_ylim()
    assert low < one[0] < 0.02 and np.isnan(one[1]) and one[2] == 0.4
    assert np.isnan(two[1]) and two[2] == 0.02
    dead = plot_collapse(frame(signal=0.0))
    assert 0 < dead.get_ylim()[0] < lines(dead, "one")[0].get_ydata()[0]


def test_what_was_rolled_back_is_pale():
    table = pd.concat([frame(), frame(attempt=1, alarm=False)])
    ax = plot_collapse(table)
    first, second = (line for line in ax.get_lines() if line.get_color() == "#0072B2")
    assert first.get_alpha() < second.get_alpha() and first.get_linewidth() < second.get_linewidth()
    assert second.get_label() == "one" and first.get_label().startswith("_")
    assert texts(ax.get_legend().get_texts())[-1] == "before a rollback"


def test_layers_of_several_sites():
    table = pd.concat([frame(), frame(site="other")])
    names = texts(plot_collapse(table).get_legend().get_texts())
    assert names[:4] == ["weights: one", "weights: two", "other: one", "other: two"]


def test_of_a_run_of_its_monitor_and_of_its_tree():
    monitor = CollapseMonitor(epochs=1, threshold=0.2)
    svi = build(Killer("2.weight", epochs=range(4, 11)), monitor, warmup=0)
    with pytest.warns(CollapseWarning, match="2.weight"):
        svi.run([data()], 8, progress=False)
    ax = plot_collapse(monitor)
    assert texts(ax.get_legend().get_texts()) == [*LAYERS, "threshold", "alarm"]
    table = monitor.to_frame()
    for layer in LAYERS:
        expected = table[table["part"] == layer]["signal"]
        drawn = lines(ax, layer)[0].get_ydata()
        assert drawn[expected > 0] == pytest.approx(expected[expected > 0])
        assert (drawn[expected == 0] < 0.03).all()
    assert [ring[0][0] for ring in rings(ax)] == [5]
    assert set(lines(ax, "threshold")[0].get_ydata()) == {0.2}
    tree = to_datatree(svi.model, svi.guide, training=svi)
    assert rings(plot_collapse(tree, threshold=0.2)) == rings(ax)


def test_refusals():
    with pytest.raises(ValueError, match="monitor: expected at least one check, got none"):
        plot_collapse(CollapseMonitor())
    with pytest.raises(TypeError, match=r"monitor: expected a CollapseMonitor, .* got list"):
        plot_collapse([])
    with pytest.raises(ValueError, match="threshold: expected a positive number, got 0"):
        plot_collapse(frame(), threshold=0)
    svi, *_ = trained()
    with pytest.raises(ValueError, match="no checks for collapse"):
        plot_collapse(to_datatree(svi.model, svi.guide, training=svi.history))
