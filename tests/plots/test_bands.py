# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Bands of predictions against an input, read back from the axes and computed again."""

import matplotlib.pyplot as plt
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from matplotlib.collections import LineCollection
from scipy import stats
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior.datatree import to_datatree
from pyro_groupprior.plots import plot_bands
from tests.plots.examples import classification_prediction, lines, texts

OUTER, INNER = "80% interval of an observation", "80% interval of the mean"


def mixed(num_rows=60):
    """Means that spread by 0.3 over draws, noise of 0.4, and inputs in mixed order."""
    model = pgp.BayesianModule(nn.Linear(1, 1), pgp.likelihoods.Normal(noise=1.0))
    x = torch.rand(num_rows)
    offsets = torch.as_tensor(stats.norm.ppf((np.arange(1000) + 0.5) / 1000)).float()
    outputs = 2 * x[:, None] + 0.3 * offsets[torch.randperm(1000)][:, None, None]
    return pgp.Prediction(outputs, dist.Normal(outputs, 0.4), model), x


def band(ax, label):
    """Place, lower and upper end at each of them."""
    (found,) = [c for c in ax.collections if c.get_label() == label]
    if isinstance(found, LineCollection):
        low, high = np.array(found.get_segments()).transpose(1, 0, 2)
        return low[:, 0], low[:, 1], high[:, 1]
    vertices = found.get_paths()[0].vertices
    places = np.unique(vertices[:, 0])
    ends = [np.sort(vertices[vertices[:, 0] == place, 1]) for place in places]
    return places, np.array([e[0] for e in ends]), np.array([e[-1] for e in ends])


def test_bands_are_sorted_and_of_the_mixture():
    prediction, x = mixed()
    ax = plot_bands(prediction, x, level=0.8, shift=1.0, scale=10.0, x_label="time (s)", unit="m")
    order = np.sort(x.numpy())
    half = stats.norm.ppf(0.9)
    for label, sd, tolerance in ((OUTER, 0.5, 0.5), (INNER, 0.3, 0.05)):
        places, low, high = band(ax, label)
        assert np.allclose(places, order)
        assert np.allclose(low, 1 + 10 * (2 * order - half * sd), atol=tolerance)
        assert np.allclose(high, 1 + 10 * (2 * order + half * sd), atol=tolerance)
    (mean,) = lines(ax, "predictive mean")
    assert np.allclose(mean.get_xydata(), np.stack([order, 1 + 20 * order], 1), atol=1e-3)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time (s)", "prediction (m)")
    assert texts(ax.get_legend().get_texts()) == [OUTER, INNER, "predictive mean"]


def test_observations_are_points():
    prediction, x = mixed()
    y = torch.randn(60, 1)
    ax = plot_bands(prediction, x[:, None], y, scale=2.0)
    (seen,) = lines(ax, "observed")
    assert np.allclose(seen.get_xydata(), torch.stack([x, 2 * y.squeeze(1)], 1))
    assert seen.get_linestyle() == "None"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("input", "prediction")


def test_rows_that_differ_in_other_columns_get_bars():
    prediction, x = mixed()
    wide = torch.stack([torch.zeros(60), x, torch.randn(60)], 1)
    ax = plot_bands(prediction, wide, column=1, level=0.8)
    places, low, high = band(ax, OUTER)
    assert np.allclose(places, x)  # each row by itself
    assert np.allclose((low + high) / 2, 2 * x, atol=0.1)
    assert ax.get_xlabel() == "input 1"
    (mean,) = lines(ax, "predictive mean")
    assert mean.get_linestyle() == "None"
    fixed = plot_bands(prediction, wide[:, :2], column=1)
    assert not any(isinstance(c, LineCollection) for c in fixed.collections)


def test_one_of_several_outputs():
    model = pgp.BayesianModule(nn.Linear(1, 2), pgp.likelihoods.Normal(noise=1.0))
    outputs = torch.tensor([0.0, 5.0]).expand(300, 10, 2)
    prediction = pgp.Prediction(outputs, dist.Normal(outputs, 0.1), model)
    y = outputs[0] + 0.5
    ax = plot_bands(prediction, torch.arange(10.0), y, output=1)
    assert np.allclose(lines(ax, "predictive mean")[0].get_ydata(), 5)
    assert np.allclose(lines(ax, "observed")[0].get_ydata(), 5.5)
    with pytest.raises(ValueError, match="output: expected one of 2, from 0, got 2"):
        plot_bands(prediction, torch.arange(10.0), output=2)


def tree(**options):
    model = pgp.BayesianModule(nn.Linear(1, 1), pgp.likelihoods.Normal(noise=1.0))
    x, y = torch.randn(30, 1), torch.randn(30, 1)
    groups = model.assignment.num_groups
    draws = {
        "weights": torch.randn(200, 2),
        "weights_loc": torch.zeros(200, groups),
        "weights_scale": torch.ones(200, groups),
    }
    return to_datatree(model, draws, x, y, num_chains=2, **options), x, y


def test_of_a_tree_with_its_own_inputs_and_observations():
    found, x, y = tree(new_x=torch.linspace(-3, 3, 50).unsqueeze(1))
    ax = plot_bands(found, level=0.8)
    values = found["posterior_predictive"]["obs"].values.reshape(200, 30)
    order = x.squeeze(1).argsort().numpy()
    places, low, high = band(ax, OUTER)
    assert np.allclose(places, x.squeeze(1)[order])
    assert np.allclose([low, high], np.quantile(values[:, order], [0.1, 0.9], axis=0))
    assert lines(ax, "observed")[0].get_ydata() == pytest.approx(y.squeeze(1).numpy())
    # The noise of the observations is in its draws: nothing is known of the mean's.
    assert INNER not in texts(ax.get_legend().get_texts())
    new = plot_bands(found, group="predictions")
    (mean,) = lines(new, "predictive mean")
    assert mean.get_xdata() == pytest.approx(np.linspace(-3, 3, 50), abs=1e-6)
    assert not lines(new, "observed")


def test_refusals_come_before_anything_is_drawn():
    prediction, x = mixed()
    found, own, _ = tree()
    with pytest.raises(TypeError, match="x: expected the rows' inputs, got None"):
        plot_bands(prediction)
    with pytest.raises(ValueError, match=r"x: expected shape \[60\] or \[60, D\], got \[7\]"):
        plot_bands(prediction, x[:7])
    with pytest.raises(ValueError, match="level: expected a number between 0 and 1, got 95"):
        plot_bands(prediction, x, level=95)
    with pytest.raises(ValueError, match="column: expected one of 1, from 0, got 1"):
        plot_bands(prediction, x, column=1)
    with pytest.raises(ValueError, match="y: expected the shape of the net's output"):
        plot_bands(prediction, x, torch.zeros(7))
    with pytest.raises(TypeError, match="class labels"):
        plot_bands(classification_prediction()[0], torch.zeros(500))
    with pytest.raises(ValueError, match=r"group: expected one of .*, got 'prior'"):
        plot_bands(found, group="prior")
    with pytest.raises(ValueError, match="expected a group 'predictions'"):
        plot_bands(found, group="predictions")
    found["constant_data"] = found["constant_data"].to_dataset().drop_vars("x")
    with pytest.raises(ValueError, match="tree: constant_data has no inputs; give x"):
        plot_bands(found)
    assert plt.get_fignums() == []
    assert plot_bands(found, own).get_xlabel() == "input"
