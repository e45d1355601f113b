# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The groups' priors over phases, read back from the axes."""

import numpy as np
import pytest

import pyro_groupprior as pgp
from pyro_groupprior.datatree import to_datatree
from pyro_groupprior.plots import plot_flows, plot_group_scales
from tests.plots.examples import history_with, regroup, regroups, texts, trained


def curves(ax):
    return [line.get_xydata().tolist() for line in ax.get_lines()]


def test_lines_join_groups_that_continue_each_other():
    ax = plot_group_scales(regroups())
    # Scales are the group's number plus that of the phase.
    assert curves(ax) == [[[10, 1], [20, 2]], [[10, 2], [20, 3]], [[10, 3]], [[10, 4], [20, 4]]]
    assert ax.get_yscale() == "log"
    assert ax.get_ylabel() == "prior scale / base scale"
    assert ax.get_xlabel() == "epoch of the regroup"
    labels = {text.get_text(): text.xy for text in ax.texts}
    assert labels == {
        "group 0": (20, 2),
        "group 1": (20, 3),
        "group 2": (20, 4),
        "group 2, ended": (10, 3),
    }
    shapes = {(line.get_linestyle(), line.get_color()) for line in ax.get_lines()}
    assert len(shapes) == 4


def test_areas_are_shares_of_the_weights():
    ax = plot_group_scales(regroups())
    areas = [mark.get_sizes() for mark in ax.collections]
    legend = dict(zip(texts(ax.get_legend().get_texts()), areas[4:], strict=True))
    tenth, half = (legend[f"{share}% of the weights"][0] for share in (10, 50))
    slope = (half - tenth) / 0.4
    shares = [(area - tenth) / slope + 0.1 for area in areas[:4]]
    for found, expected in zip(shares, ([0.6, 0.7], [0.1, 0.15], [0.1], [0.2, 0.15]), strict=True):
        assert found == pytest.approx(expected)


def test_locations_and_the_largest_groups():
    ax = plot_group_scales(regroups(), max_groups=1, parameter="loc")
    assert curves(ax) == [[[10, 0], [20, 0]]]
    assert ax.get_yscale() == "linear"
    assert ax.get_ylabel() == "prior loc / base scale"


def test_colours_are_those_of_the_flows():
    flows = {c.get_label(): c[0].get_facecolor() for c in plot_flows(regroups()).containers}
    ax = plot_group_scales(regroups())
    own = {text.get_text(): None for text in ax.texts}
    for mark, name in zip(
        ax.collections, ("group 0", "group 1", "group 2, ended", "group 2"), strict=False
    ):
        assert name in own
        assert np.allclose(mark.get_facecolor()[0, :3], flows[name][:3])


def test_one_regroup_one_group_and_an_empty_one():
    ax = plot_group_scales(pgp.History(phases=[regroup(1, [(0, 0, 7.0)], [0, 1])]))
    assert curves(ax) == [[[10, 1]]]
    low, high = ax.get_xlim()
    assert low < 10 < high
    emptied = [regroup(1, [(0, 0, 7.0), (1, 1, 1.0)], [0, 1]), regroup(2, [(0, 0, 8.0)], [0, 1])]
    ax = plot_group_scales(pgp.History(phases=emptied))
    assert curves(ax) == [[[10, 1], [20, 2]], [[10, 2]]]


def test_of_a_tree():
    svi, *_ = trained()
    ax = plot_group_scales(to_datatree(svi.model, svi.guide, training=svi))
    assert curves(ax) == curves(plot_group_scales(svi.history))
    last = svi.history.phases[-1]
    ends = [points[-1][1] for points in curves(ax) if points[-1][0] == last.epoch]
    assert sorted(ends) == sorted(last.scales)


def test_refusals():
    with pytest.raises(ValueError, match='parameter: expected "scale" or "loc", got \'sd\''):
        plot_group_scales(regroups(), parameter="sd")
    with pytest.raises(ValueError, match="history: expected at least one regroup, got none"):
        plot_group_scales(history_with(5))
    with pytest.raises(ValueError, match="max_groups: expected a positive number, got 0"):
        plot_group_scales(regroups(), max_groups=0)
    both = [regroup(1, [(0, 0, 7.0)], [0], name=name) for name in "ab"]
    with pytest.raises(ValueError, match="several group priors"):
        plot_group_scales(pgp.History(phases=both))
    assert curves(plot_group_scales(pgp.History(phases=both), site="a")) == [[[10, 1]]]
