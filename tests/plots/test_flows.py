# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Columns, bands and labels of the flows, against records counted by hand."""

import numpy as np
import pytest
import torch
from matplotlib.container import BarContainer

import pyro_groupprior as pgp
from pyro_groupprior.datatree import to_datatree
from pyro_groupprior.plots import plot_flows
from pyro_groupprior.plots.lineages import largest, lineages
from pyro_groupprior.regrouping.matching import flows
from tests.plots.examples import history_with, regroup, regroups, texts, trained


def blocks(ax):
    """By label, place and height of each block, and its colour."""
    found = {}
    for container in ax.containers:
        assert isinstance(container, BarContainer)
        places = {round(b.get_x() + b.get_width() / 2): b.get_height() for b in container}
        found[container.get_label()] = places, container[0].get_facecolor()[:3]
    return found


def bands(ax):
    """Number of weights at both ends, heights and colour of each band."""
    for band in ax.collections:
        x, y = band.get_paths()[0].vertices.T
        left, right = (y[x == end] for end in (x.min(), x.max()))
        yield round(x.min()), np.ptp(left), np.ptp(right), left.min(), right.min(), band


def test_groups_are_followed_and_bands_hold_what_moved():
    ax = plot_flows(regroups())
    found = []
    for container in ax.containers:
        found.append({round(b.get_x() + b.get_width() / 2): b.get_height() for b in container})
    # The third ends after one phase; the fourth is new then.
    assert found == [{0: 60, 1: 60, 2: 70}, {0: 30, 1: 10, 2: 15}, {0: 10, 1: 10}, {1: 20, 2: 15}]
    assert len({container[0].get_facecolor() for container in ax.containers}) == 4
    every = sorted((place, round(height)) for place, height, *_ in bands(ax))
    assert every == [(0, 10), (0, 10), (0, 20), (0, 60), (1, 5), (1, 10), (1, 10), (1, 15), (1, 60)]
    for _, left, right, *_ in bands(ax):
        assert left == pytest.approx(right)


def test_bands_fill_their_blocks_and_have_the_colour_of_where_they_come_from():
    ax = plot_flows(regroups())
    held = {}
    for container in ax.containers:
        for bar in container:
            place, low = round(bar.get_x() + bar.get_width() / 2), bar.get_y()
            held[place, low] = [low + bar.get_height(), bar.get_facecolor()[:3], [], []]
    for place, left, _, start, end, band in bands(ax):
        source = next(b for b in held if b[0] == place and b[1] - 1e-6 <= start < held[b][0] - 1e-6)
        target = next(
            b for b in held if b[0] == place + 1 and b[1] - 1e-6 <= end < held[b][0] - 1e-6
        )
        assert np.allclose(band.get_facecolor()[0, :3], held[source][1])
        held[source][3].append(left)
        held[target][2].append(left)
    for (place, low), (high, _, coming, leaving) in held.items():
        assert place == 0 or sum(coming) == pytest.approx(high - low)
        assert place == 2 or sum(leaving) == pytest.approx(high - low)


def test_labels_name_groups_as_they_are_at_each_end():
    ax = plot_flows(regroups())
    assert texts(ax.get_yticklabels()) == ["group 0: 60", "group 1: 30", "group 2: 10"]
    ends = [text.get_text() for text in ax.texts if ":" in text.get_text()]
    assert ends == ["group 0: 70", "group 1: 15", "group 2: 15"]
    assert texts(ax.get_xticklabels()) == ["before", "10", "20"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch of the regroup", "weights in each group")
    inside = [text.get_text() for text in ax.texts if ":" not in text.get_text()]
    assert inside == ["60", "10", "10", "20"]


def test_small_groups_are_one():
    ax = plot_flows(regroups(), max_groups=2)
    found = blocks(ax)
    assert found["others"][0] == {0: 10, 1: 30, 2: 15}
    # What moves between two of them stays in place.
    every = sorted((place, round(height)) for place, height, *_ in bands(ax))
    assert every == [(0, 10), (0, 10), (0, 20), (0, 60), (1, 5), (1, 10), (1, 10), (1, 15), (1, 60)]
    assert texts(ax.get_yticklabels())[-1] == "others: 10"
    with pytest.raises(ValueError, match="max_groups: expected a positive number, got 0"):
        plot_flows(regroups(), max_groups=0)


def test_proposals_that_were_not_accepted_are_left_out():
    history = regroups()
    same = [(0, 0, 60.0), (1, 1, 10.0), (2, 2, 10.0), (3, 3, 20.0)]
    refused = regroup(2, same, [0, 1, 2, 3], accepted=False)
    history.phases.insert(1, refused)
    ax = plot_flows(history)
    assert texts(ax.get_xticklabels()) == ["before", "10", "20"]
    assert ax.get_xlabel().endswith("\n1 proposals that were not accepted are not shown")
    alone = plot_flows(pgp.History(phases=[refused]))
    assert {name: set(places.values()) for name, (places, _) in blocks(alone).items()} == {
        "group 0": {60},
        "group 1": {10},
        "group 2": {10},
        "group 3": {20},
    }


def test_one_group_and_empty_groups():
    ax = plot_flows(pgp.History(phases=[regroup(1, [(0, 0, 7.0)], [0])]))
    assert blocks(ax) == {"group 0": ({0: 7, 1: 7}, ax.containers[0][0].get_facecolor()[:3])}
    ax = plot_flows(pgp.History(phases=[regroup(1, [(0, 0, 7.0)], [0, 1, -1])]))
    assert list(blocks(ax)) == ["group 0"]


def test_many_phases_have_few_labels():
    phases = [regroup(n, [(0, 0, 7.0)], [0]) for n in range(1, 43)]
    ax = plot_flows(pgp.History(phases=phases))
    labels = texts(ax.get_xticklabels())
    assert labels[0] == "before" and labels[-1] == "420" and len(labels) <= 12
    assert np.diff(ax.get_xticks()).min() >= 5
    assert [text.get_text() for text in ax.texts] == ["group 0: 7"]


def test_soft_groups_of_a_run_and_of_its_tree():
    torch.manual_seed(0)
    svi, *_ = trained()
    ax, other = plot_flows(to_datatree(svi.model, svi.guide, training=svi)), plot_flows(svi.history)
    assert blocks(ax) == blocks(other)
    last = svi.model.assignment.hard().sizes()
    ends = {name: places[2] for name, (places, _) in blocks(ax).items() if 2 in places}
    assert ends == {f"group {g}": n for g, n in enumerate(last.tolist()) if n}
    assert sum(ends.values()) == svi.model.layout.num_weights


def test_one_of_several_group_priors_is_chosen_by_name():
    both = [regroup(1, [(0, 0, 7.0)], [0], name="a"), regroup(1, [(0, 0, 3.0)], [0], name="b")]
    history = pgp.History(phases=both)
    assert texts(plot_flows(history, site="b").get_yticklabels()) == ["group 0: 3"]
    with pytest.raises(ValueError, match=r"one of several group priors, \['a', 'b'\]"):
        plot_flows(history)
    with pytest.raises(ValueError, match=r"site: expected one of \['a', 'b'\], got 'c'"):
        plot_flows(history, site="c")


def test_refusals():
    with pytest.raises(ValueError, match="history: expected at least one regroup, got none"):
        plot_flows(history_with(5))
    with pytest.raises(ValueError, match="of phase 1 came from, got a record that was written"):
        plot_flows(history_with(5, phases=[(3, 0.1)]))
    with pytest.raises(TypeError, match="history: expected a History or a DataTree, got list"):
        plot_flows([])


def test_lineages_are_those_of_matched_assignments():
    torch.manual_seed(1)
    old, phases, counts = pgp.Assignment(torch.randint(4, (200,)), 4), [], []
    for phase in range(1, 6):
        index = torch.where(torch.rand(200) < 0.3, torch.randint(5, (200,)), old.index.long())
        new, sources = pgp.match_groups(old, pgp.Assignment(index, 5))
        phases.append(regroup(phase, flows(old, new), sources.tolist()))
        counts.append(new.sizes().tolist())
        old = new
    columns = lineages(phases)
    for before, after, record in zip(columns, columns[1:], phases, strict=False):
        assert len(set(after)) == len(after)  # one group each
        for lineage, source in zip(after, record.sources, strict=True):
            assert lineage == before[source] if source >= 0 else lineage not in before
    assert [list(record.sizes) for record in phases] == counts
    kept = largest(columns[1:], counts, 3)
    peaks = {
        k: max(
            n
            for col, row in zip(columns[1:], counts, strict=True)
            for name, n in zip(col, row, strict=True)
            if name == k
        )
        for k in {k for column in columns[1:] for k in column}
    }
    assert sorted(peaks[k] for k in kept) == sorted(peaks.values())[-3:]


def test_groups_given_between_two_runs_are_new():
    phases = [regroup(1, [(0, 0, 5.0)], [0]), regroup(2, [(0, 0, 2.0), (3, 1, 3.0)], [0, 3])]
    assert lineages(phases) == [[0], [0], [0, 1]]
    ax = plot_flows(pgp.History(phases=phases))
    assert sum(t.get_text().startswith("group") for t in ax.texts) == 2
