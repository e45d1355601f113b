# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What all pictures share."""

import sys
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from pyro_groupprior.plots import (
    plot_bands,
    plot_churn,
    plot_collapse,
    plot_correlations,
    plot_flows,
    plot_group_priors,
    plot_group_scales,
    plot_history,
    plot_moments_by_group,
    plot_predictions,
    plot_reliability,
)
from pyro_groupprior.plots.axes import end_labels, plain_numbers, spread
from pyro_groupprior.plots.lineages import style
from pyro_groupprior.plots.sampling import even_sample
from tests.plots.examples import (
    classification_prediction,
    grouped,
    history_with,
    regression_prediction,
    regroups,
    texts,
    trained,
)


def test_given_axes_are_drawn_on_and_returned():
    _, axes = plt.subplots(1, 11)
    before = plt.get_fignums()
    model, draws, _ = grouped()
    numbers, mean, y = regression_prediction()
    _, monitor, *_ = trained()
    drawn = (
        plot_group_priors(model, draws, axes[0]),
        plot_history(history_with(5), axes[1]),
        plot_predictions(numbers, y, axes[2]),
        plot_reliability(*classification_prediction(), axes[3]),
        plot_flows(regroups(), axes[4]),
        plot_group_scales(regroups(), axes[5]),
        plot_churn(regroups(), axes[6]),
        plot_moments_by_group(model, draws, axes[7]),
        plot_correlations(model, draws, axes[8]),
        plot_collapse(monitor, axes[9]),
        plot_bands(numbers, mean, y, axes[10]),
    )
    assert all(ax is given for ax, given in zip(drawn, axes, strict=True))
    assert plt.get_fignums() == before


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pyro_groupprior\[plots\]"):
        plot_history(history_with(3))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.01, 0.2))
def test_spread_keeps_order_and_distance_and_moves_little(places, gap):
    moved = spread(places, gap)
    order = np.argsort(places, kind="stable")
    assert (np.diff(moved[order]) >= gap - 1e-9).all()
    assert moved.mean() == pytest.approx(np.mean(places), abs=1e-9)  # as least squares have it
    far = np.diff(np.sort(places)) >= gap
    if far.all():
        assert np.allclose(moved, places)


def test_labels_beside_the_axes_do_not_overlap():
    _, ax = plt.subplots()
    ax.set_ylim(0, 1)
    end_labels(
        ax, [(0.5, 0.5, "one", "black"), (0.6, 0.5, "two", "black"), (1, 0.9, "three", "C0")]
    )
    ax.figure.draw_without_rendering()
    boxes = {text.get_text(): Text.get_window_extent(text) for text in ax.texts}
    assert not boxes["one"].overlaps(boxes["two"])
    assert min(box.x0 for box in boxes.values()) > ax.get_window_extent().x1
    assert [text.xy for text in ax.texts] == [(0.5, 0.5), (0.6, 0.5), (1, 0.9)]
    end_labels(ax, [])


def test_numbers_of_a_logarithmic_axis_are_written_out():
    _, ax = plt.subplots()
    ax.set_yscale("log")
    ax.set_ylim(0.15, 0.7)
    plain_numbers(ax.yaxis)
    ax.figure.draw_without_rendering()
    shown = [text for text in texts(ax.get_yticklabels(which="both")) if text]
    assert "0.2" in shown and all(
        float(text) == pytest.approx(float(f"{float(text):g}")) for text in shown
    )
    assert not any("e" in text for text in shown)


def test_no_two_lineages_look_alike():
    looks = [style(number) for number in range(24)]
    blocks = {(look["color"], look["hatch"]) for look in looks}
    curves = {(look["color"], look["ls"], look["marker"]) for look in looks}
    assert len(blocks) == len(curves) == 24
    # In grey print neighbours differ by mark and line, if not by their lightness.
    for one, two in pairwise(looks):
        assert one["marker"] != two["marker"] and one["ls"] != two["ls"]
    assert all(len(to_rgb(look["color"])) == 3 for look in looks)


@given(st.lists(st.integers(-1, 4), max_size=60), st.integers(5, 80))
def test_even_samples_take_as_many_of_each_group(index, most):
    index = np.array(index, dtype=int)
    chosen = even_sample(index, most, seed=0)
    assert (np.diff(chosen) > 0).all() and (index[chosen] >= 0).all()
    wanted = index[index >= 0]
    assert len(chosen) == min(most, len(wanted))
    whole, taken = np.bincount(wanted, minlength=5), np.bincount(index[chosen], minlength=5)
    cut = taken < whole
    # Whoever was cut short has as many as anyone, but for what cannot be divided.
    assert not cut.any() or taken[cut].min() >= taken.max() - 1
