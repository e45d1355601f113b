# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Correlation matrices, read back from the axes and computed by NumPy."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior.datatree import to_datatree
from pyro_groupprior.plots import plot_correlations
from pyro_groupprior.regrouping.trajectories import Trajectories
from tests.plots.examples import soft, texts


def three():
    """Draws of 12 weights that hang together in groups of 6, 0, 4 and 2, in mixed order."""
    index = torch.tensor([0, 2, 0, 3, 0, 2, 0, 2, 0, 3, 2, 0])
    common = torch.randn(200, 4)
    return common[:, index] + 0.5 * torch.randn(200, 12), pgp.Assignment(index, num_groups=4)


def matrix(ax):
    (image,) = ax.get_images()
    assert image.get_clim() == (-1, 1)
    return np.asarray(image.get_array())


def test_ordered_by_group_with_lines_between():
    draws, assignment = three()
    ax = plot_correlations(assignment, draws)
    order = [0, 2, 4, 6, 8, 11, 1, 5, 7, 10, 3, 9]
    assert np.allclose(matrix(ax), np.corrcoef(draws.numpy()[:, order].T), atol=1e-5)
    assert texts(ax.get_yticklabels()) == ["group 0: 6", "group 2: 4", "group 3: 2"]
    assert texts(ax.get_xticklabels()) == ["0", "2", "3"]
    assert ax.get_yticks().tolist() == [2.5, 7.5, 10.5]
    across = [line.get_ydata()[0] for line in ax.get_lines() if line.get_xdata()[0] == 0]
    assert across == [5.5, 9.5]
    (bar,) = [other for other in ax.figure.axes if other is not ax]
    assert bar.get_ylabel() == "correlation over 200 draws"


def test_colours_tell_signs_apart_in_grey_print():
    draws, assignment = three()
    (image,) = plot_correlations(assignment, draws).get_images()

    def lightness(value):
        red, green, blue, _ = image.cmap((value + 1) / 2)
        return 0.299 * red + 0.587 * green + 0.114 * blue

    assert lightness(0) == pytest.approx(1, abs=0.01)
    for side in (-1, 1):  # the stronger, the darker
        assert (np.diff([lightness(side * value) for value in np.linspace(0, 1, 11)]) < 0).all()
    assert lightness(1) < 0.4 * lightness(-1)


def test_a_sample_takes_as_many_of_each_group():
    index = torch.cat([torch.zeros(300), torch.ones(40), torch.full((5,), 2.0)]).int()
    draws = torch.randn(30, 345)
    ax = plot_correlations(pgp.Assignment(index), draws, max_weights=65)
    assert texts(ax.get_yticklabels()) == [
        "group 0: 30 of 300",
        "group 1: 30 of 40",
        "group 2: 5",
    ]
    assert matrix(ax).shape == (65, 65)
    whole = np.corrcoef(draws.numpy().T).ravel()
    assert np.abs(matrix(ax)[0][:, None] - whole).min(1).max() < 1e-5
    other = plot_correlations(pgp.Assignment(index), draws, max_weights=65, seed=1)
    assert not np.allclose(matrix(ax), matrix(other))


def test_more_groups_than_labels_have_room():
    index = torch.cat([torch.arange(50), torch.zeros(50)]).int()
    ax = plot_correlations(pgp.Assignment(index), torch.randn(9, 100))
    assert texts(ax.get_yticklabels()) == ["group 0: 51"]
    assert len(ax.get_lines()) == 2 * 49


def test_one_group_one_weight_and_one_that_never_moves():
    draws = torch.randn(20, 3)
    draws[:, 1] = 0.5
    ax = plot_correlations(pgp.Assignment(torch.zeros(3, dtype=torch.int64)), draws)
    assert matrix(ax)[1].tolist() == [0, 1, 0] and ax.get_lines()[:] == []
    ax = plot_correlations(pgp.Assignment(torch.tensor([0])), draws[:, :1])
    assert matrix(ax).tolist() == [[1]]


def test_of_models_guides_chains_trajectories_and_trees():
    draws, assignment = three()
    model = pgp.BayesianModule(nn.Linear(12, 1, bias=False), grouping=assignment)
    expected = matrix(plot_correlations(assignment, draws))
    sites = {
        "weights": draws,
        "weights_loc": torch.zeros(200, 4),
        "weights_scale": torch.ones(200, 4),
    }
    for ax in (
        plot_correlations(model, sites),
        plot_correlations(model, draws),
        plot_correlations(to_datatree(model, sites, num_chains=2)),
    ):
        assert np.allclose(matrix(ax), expected, atol=1e-5)
    store = Trajectories(max_snapshots=200)
    for row in draws:
        store.append(row)
    ax = plot_correlations(model, store)
    assert np.allclose(matrix(ax), expected, atol=1e-5)
    assert ax.figure.axes[1].get_ylabel() == "correlation over 200 snapshots"
    guide = pgp.AutoFullRank(model)
    guide.setup(torch.zeros(1, 12))
    assert matrix(plot_correlations(model, guide)).shape == (12, 12)


def test_soft_members_stand_with_their_most_probable_group():
    model, guide, assignment = soft()
    ax = plot_correlations(model, guide)
    counts = assignment.hard().sizes().long().tolist()
    assert texts(ax.get_yticklabels()) == [f"group {g}: {n}" for g, n in enumerate(counts)]


def test_refusals_come_before_anything_is_drawn():
    draws, assignment = three()
    model = pgp.BayesianModule(nn.Linear(12, 1, bias=False), grouping=assignment)
    for error, match, args in (
        (TypeError, "model: expected a BayesianModule or a DataTree, got Tensor", (draws, draws)),
        (TypeError, "posterior: expected a guide or draws by site, got None", (model,)),
        (TypeError, r"posterior: expected a tensor \[T, W\] or Tra.*, got dict", (assignment, {})),
        (
            ValueError,
            r"posterior: expected two or more .*\[T, 12\], got \[1, 12\]",
            (assignment, draws[:1]),
        ),
        (ValueError, r"shape \[T, 12\], got \[200, 7\]", (assignment, draws[:, :7])),
        (
            ValueError,
            "posterior: expected finite draws, got NaN or inf",
            (assignment, draws.where(draws < 1, torch.nan)),
        ),
    ):
        with pytest.raises(error, match=match):
            plot_correlations(*args)
    with pytest.raises(ValueError, match="max_weights: expected a positive number, got 0"):
        plot_correlations(assignment, draws, max_weights=0)
    assert plt.get_fignums() == []
