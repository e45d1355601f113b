# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Weights as points, read back from the axes and computed again."""

import numpy as np
import pytest
import torch
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior.comparison import WeightMoments
from pyro_groupprior.datatree import to_datatree
from pyro_groupprior.plots import plot_moments_by_group, plot_weight_moments
from tests.plots.examples import grouped, soft, texts

ONE = WeightMoments(torch.linspace(-1, 1, 17), torch.full((17,), 0.5))
TWO = WeightMoments(torch.linspace(-1, 1, 17), torch.full((17,), 0.1))


def points(ax):
    """Of each group: label, and its points in order."""
    named = [c for c in ax.collections if str(c.get_label()).startswith("group")]
    return {c.get_label(): np.array(sorted(c.get_offsets().tolist())) for c in named}


def marks(ax):
    """Where the priors are."""
    large = [c for c in ax.collections if c.get_sizes()[0] == 90 and len(c.get_offsets())]
    return [c.get_offsets()[0].tolist() for c in large]


def in_order(mean, sd):
    return np.array(sorted(zip(mean.tolist(), sd.tolist(), strict=True)))


def test_moments_are_points() -> None:
    ax = plot_weight_moments({"HMC": ONE, "VI": TWO})
    assert [c.get_label() for c in ax.collections] == ["HMC", "VI"]
    found = np.asarray(ax.collections[1].get_offsets())
    assert sorted(found[:, 0].tolist()) == pytest.approx(TWO.mean.tolist())
    assert found[:, 1].tolist() == pytest.approx([0.1] * 17)
    (line,) = ax.get_lines()
    assert line.get_ydata() == pytest.approx(np.abs(line.get_xdata()) / 2)
    assert ax.get_yscale() == "log"
    assert ax.get_xlabel() == "posterior mean"
    shapes = [len(c.get_paths()[0].vertices) for c in ax.collections]
    assert shapes[0] != shapes[1]


def test_many_weights_are_sampled() -> None:
    many = WeightMoments(torch.randn(20_000), torch.rand(20_000))
    assert len(plot_weight_moments({"HMC": many}).collections[0].get_offsets()) == 5000


def test_moments_of_trees_are_those_of_their_draws():
    model, draws, _ = grouped()
    tree = to_datatree(model, draws)
    expected = in_order(draws["weights"].double().mean(0), draws["weights"].double().std(0))
    for ax in (plot_weight_moments(tree), plot_weight_moments({"VI": tree})):
        found = np.array(sorted(ax.collections[0].get_offsets().tolist()))
        assert np.allclose(found, expected, atol=1e-6)
    assert plot_weight_moments(tree).collections[0].get_label() == "posterior"
    with pytest.raises(TypeError, match=r"posteriors\['VI'\]: expected WeightMoments or a DataT"):
        plot_weight_moments({"VI": draws})
    with pytest.raises(ValueError, match="posteriors: expected at least one, got none"):
        plot_weight_moments({})


def test_groups_have_their_points_and_their_prior():
    model, draws, index = grouped()
    for ax in (
        plot_moments_by_group(model, draws),
        plot_moments_by_group(to_datatree(model, draws)),
    ):
        mean, sd = (2 * draws["weights"].mean(0), 2 * draws["weights"].std(0))
        found = points(ax)
        assert list(found) == [
            "group 0, 1,500 weights",
            "group 1, 499 weights",
            "group 3, 1 weights",
        ]
        for group, values in zip((0, 1, 3), found.values(), strict=True):
            held = index == group
            assert np.allclose(values, in_order(mean[held], sd[held]), atol=1e-4)
        assert np.allclose(marks(ax), [[0, 1], [4, 0.5], [8, 0.2]])
        assert texts(ax.get_legend().get_texts())[-1] == "prior of a group"
        assert (ax.get_xlabel(), ax.get_ylabel()) == (
            "posterior mean / base scale",
            "posterior sd / base scale",
        )


def test_prior_marks_are_standard_deviations_in_any_family():
    model, draws, _ = grouped(family="laplace")
    assert np.allclose(marks(plot_moments_by_group(model, draws))[0], [0, 2**0.5])


def test_soft_members_go_by_their_most_probable_group():
    model, guide, assignment = soft()
    found = points(plot_moments_by_group(model, guide))
    mean, sd = guide.moments("weights")
    for label, values in found.items():
        held = assignment.hard().index == int(label.split(",")[0].split()[1])
        assert np.allclose(values, in_order(mean[held], sd[held]))
    assert sum(len(values) for values in found.values()) == 50


def test_small_groups_are_grey_and_many_points_a_sample():
    index = torch.cat([torch.zeros(9000), torch.ones(990), torch.full((10,), 2.0)]).int()
    model = pgp.BayesianModule(nn.Linear(10_000, 1, bias=False), grouping=pgp.Assignment(index))
    guide = pgp.AutoMeanField(model)
    guide.setup(torch.zeros(1, 10_000))
    ax = plot_moments_by_group(model, guide)
    assert [len(values) for values in points(ax).values()] == [4000, 990, 10]
    ax = plot_moments_by_group(model, guide, max_groups=1)
    assert list(points(ax)) == ["group 0, 9,000 weights"] and len(marks(ax)) == 1
    assert ax.collections[0].get_label() == "2 other groups, 1,000 weights"


def test_one_group_and_weights_without_a_deviation():
    model = pgp.BayesianModule(nn.Linear(3, 1, bias=False), grouping="all", base_scale=1.0)
    draws = {
        "weights": torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 4.0]]),
        "weights_loc": torch.ones(2, 1),
        "weights_scale": torch.ones(2, 1),
    }
    ((_, found),) = points(plot_moments_by_group(model, draws)).items()
    assert np.allclose(found, [[3, 2**0.5]])
    draws["weights"][:, 2] = 2.0
    with pytest.raises(ValueError, match="expected one with standard deviations, got a point"):
        plot_moments_by_group(model, draws)
    with pytest.raises(ValueError, match="max_groups: expected a positive number, got 0"):
        plot_moments_by_group(model, draws, max_groups=0)
    with pytest.raises(TypeError, match="posterior: expected a guide or draws by site, got None"):
        plot_moments_by_group(model)
