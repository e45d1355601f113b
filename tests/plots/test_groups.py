# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Rows of groups, read back from the axes and computed again by other means."""

import numpy as np
import pytest
import torch
from matplotlib.patches import StepPatch
from scipy import stats
from scipy.integrate import trapezoid
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior.datatree import to_datatree
from pyro_groupprior.plots import plot_group_priors
from tests.plots.examples import grouped, soft, texts


def rows_of(ax, num_rows):
    """For each row of a group plot: histogram, aggregate and prior, heights above its base."""
    patches = [patch for patch in ax.patches if isinstance(patch, StepPatch)]
    curves = ax.get_lines()
    assert len(patches) == num_rows and len(curves) == 3 * num_rows
    for row in range(num_rows):
        heights, edges, _ = patches[row].get_data()
        aggregate, prior, _ = (line.get_xydata().T for line in curves[3 * row : 3 * row + 3])
        yield (edges, heights + row), (aggregate[0], aggregate[1] + row), (prior[0], prior[1] + row)


def test_group_priors_and_the_weights_they_hold():
    model, draws, index = grouped()
    ax = plot_group_priors(model, draws)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert [label.split(",")[0] for label in labels] == ["group 0", "group 1", "group 3"]
    assert labels[1] == "group 1, 499 weights\nloc 4.00, scale 0.5"
    mean = draws["weights"].mean(0) / 0.5
    sd = draws["weights"].std(0) / 0.5
    shown = zip(rows_of(ax, 3), ((0, 0.0, 1.0), (1, 4.0, 0.5), (3, 8.0, 0.2)), strict=True)
    for ((edges, heights), (x, aggregate), (_, prior)), (group, loc, scale) in shown:
        held = index == group
        counts, _ = np.histogram(mean[held].double(), edges)
        # Shares of the whole survive the scaling to a common height.
        assert np.allclose(heights / heights.sum(), counts / counts.sum())
        assert counts.sum() == held.sum()
        density = stats.norm(loc, scale).pdf(x)
        unit = prior.max() / density.max()
        assert np.allclose(prior, unit * density, atol=1e-6 * unit)
        mixture = stats.norm(mean[held].double().numpy(), sd[held].double().numpy())
        width = x[1] - x[0]
        if mixture.std().min() > width:
            expected = mixture.pdf(x[::50, None]).mean(1)
            assert np.allclose(aggregate[::50], unit * expected, atol=1e-6 * unit)
        assert trapezoid(aggregate, x) == pytest.approx(unit, rel=0.01)


def test_group_priors_of_other_families_and_fixed_parameters():
    model, draws, _ = grouped(family="laplace", loc=0.0, scale=2.0)
    ax = plot_group_priors(model, {"weights": draws["weights"]})
    for _, _, (x, prior) in rows_of(ax, 3):
        density = stats.laplace(0.0, 2.0).pdf(x)
        assert np.allclose(prior / prior.max(), density / density.max(), atol=1e-6)


def test_group_priors_count_soft_members_by_their_shares():
    model, guide, assignment = soft()
    ax = plot_group_priors(model, guide)
    order = assignment.sizes().argsort(descending=True).tolist()
    mean = guide.moments("weights")[0].double()
    for group, ((edges, heights), _, _) in zip(order, rows_of(ax, 2), strict=True):
        held = assignment.dense()[:, group].double()
        counts, _ = np.histogram(mean, edges, weights=held)
        assert np.allclose(heights / heights.sum(), counts / counts.sum())


def test_group_priors_show_the_largest_and_say_so():
    model, draws, _ = grouped()
    ax = plot_group_priors(model, draws, max_groups=1)
    assert len(ax.get_yticklabels()) == 1
    assert "2 smaller groups, 500 weights, not shown" in ax.get_xlabel()


def test_group_priors_of_equal_points():
    # As a guide of points gives: no spread at all.
    model = pgp.BayesianModule(nn.Linear(3, 1, bias=False), grouping="all", base_scale=1.0)
    draws = {
        "weights": torch.ones(2, 3),
        "weights_loc": torch.ones(2, 1),
        "weights_scale": torch.ones(2, 1),
    }
    ((_, heights), (_, aggregate), _) = next(rows_of(plot_group_priors(model, draws), 1))
    assert np.isfinite(heights).all() and np.isfinite(aggregate).all()


@pytest.mark.parametrize(
    "prior", [{}, {"family": pgp.families.StudentT(3.0), "scale": 2.0}, {"family": "laplace"}]
)
def test_group_priors_of_a_tree_are_those_of_its_draws(prior):
    model, draws, _ = grouped(**prior)
    if "scale" in prior:
        del draws["weights_scale"]
    by_hand = plot_group_priors(model, draws)
    ax = plot_group_priors(to_datatree(model, draws))
    assert texts(ax.get_yticklabels()) == texts(by_hand.get_yticklabels())
    for own, other in zip(rows_of(ax, 3), rows_of(by_hand, 3), strict=True):
        for curve, expected in zip(own, other, strict=True):
            assert np.allclose(curve[0], expected[0], atol=1e-4)
            assert np.allclose(curve[1], expected[1], atol=1e-4)


def test_group_priors_of_decentered_draws():
    model = pgp.BayesianModule(nn.Linear(3, 1, bias=False), grouping="all", centered=False)
    draws = {
        "weights_decentered": torch.randn(50, 3),
        "weights_loc": torch.ones(50, 1),
        "weights_scale": torch.full((50, 1), 0.5),
    }
    ((edges, heights), _, _) = next(rows_of(plot_group_priors(model, draws), 1))
    mean = 1 + 0.5 * draws["weights_decentered"].mean(0)
    assert edges[0] == pytest.approx(mean.min()) and edges[-1] == pytest.approx(mean.max())
    assert np.isfinite(heights).all()


def test_group_priors_refuse_what_they_cannot_draw():
    model, draws, _ = grouped()
    tree = to_datatree(model, draws)
    with pytest.raises(TypeError, match="model: expected a BayesianModule or a DataTree, got Line"):
        plot_group_priors(nn.Linear(1, 1), draws)
    with pytest.raises(TypeError, match="posterior: expected a guide or draws by site, got None"):
        plot_group_priors(model)
    with pytest.raises(TypeError, match="posterior: expected none beside a DataTree"):
        plot_group_priors(tree, draws)
    with pytest.raises(ValueError, match="expected draws of 'weights', got those of"):
        plot_group_priors(model, {"beta": draws["weights"]})
    with pytest.raises(ValueError, match="max_groups: expected a positive number, got 0"):
        plot_group_priors(tree, max_groups=0)
    with pytest.raises(ValueError, match="expected a group 'constant_data'"):
        plot_group_priors(tree.drop_nodes("constant_data"))
    part = to_datatree(model, draws, include=["weights_*"])
    with pytest.raises(ValueError, match="no draws of 'weight', but"):
        plot_group_priors(part)
    tree["constant_data"].attrs["prior_family"] = "Cauchy"
    with pytest.raises(ValueError, match=r"prior_family to be one of .*, got 'Cauchy'"):
        plot_group_priors(tree)
