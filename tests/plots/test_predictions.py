# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Predictions against observations, read back from the axes and computed again."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from sklearn.calibration import calibration_curve
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior.datatree import to_datatree
from pyro_groupprior.plots import plot_predictions, plot_reliability
from tests.plots.examples import classification_prediction, lines, regression_prediction


def test_predictions_mark_what_lies_outside():
    prediction, mean, y = regression_prediction()
    ax = plot_predictions(prediction, y, level=0.8, shift=10.0, scale=2.0, unit="m")
    (inside,), (outside,) = lines(ax, "observed, inside"), lines(ax, "observed, outside")
    half = stats.norm.ppf(0.9) * 0.5
    far = ((y - mean).abs() > half).squeeze(1)
    near_the_end = (((y - mean).abs() - half).abs() < 0.05).squeeze(1)  # sampled quantiles
    marked = torch.tensor(np.isin(10 + 2 * y.squeeze(1).numpy(), outside.get_ydata()))
    assert torch.equal(marked[~near_the_end], far[~near_the_end])
    assert len(inside.get_xdata()) + len(outside.get_xdata()) == 400
    share = 100 * len(inside.get_xdata()) / 400
    assert ax.get_title() == f"{share:.1f}% of 400 observations inside their 80% intervals"
    assert ax.get_ylabel() == "observed (m)"
    bars = np.array(ax.collections[0].get_segments())
    assert np.allclose(bars[:, 0, 0], 10 + 2 * mean.squeeze(1), atol=1e-5)
    assert np.allclose(bars[:, 1, 1] - bars[:, 0, 1], 2 * 2 * half, rtol=0.1)


def test_predictions_need_numbers_and_reliability_labels():
    labels = classification_prediction()
    with pytest.raises(TypeError, match="class labels"):
        plot_predictions(*labels)
    numbers, _, y = regression_prediction()
    with pytest.raises(TypeError, match="needs a prediction of class labels"):
        plot_reliability(numbers, y)
    with pytest.raises(ValueError, match="level"):
        plot_predictions(numbers, y, level=1.5)
    with pytest.raises(ValueError, match="num_bins: expected a positive number, got 0"):
        plot_reliability(*labels, num_bins=0)
    with pytest.raises(TypeError, match="y: expected the observations, got None"):
        plot_predictions(numbers)
    with pytest.raises(TypeError, match="y: expected the observed labels, got None"):
        plot_reliability(labels[0])
    for plot in (plot_predictions, plot_reliability):
        with pytest.raises(TypeError, match="prediction: expected a Prediction or a DataTree, got"):
            plot(y, y)


def test_reliability_agrees_with_scikit_learn():
    prediction, y = classification_prediction()
    ax = plot_reliability(prediction, y, num_bins=10)
    confidence, label = prediction.mean.max(1)
    correct = (label == y).numpy()
    rate, mean_confidence = calibration_curve(correct, confidence.numpy(), n_bins=10)
    (points,) = lines(ax, "accuracy in the bin")
    assert np.allclose(points.get_xdata(), mean_confidence, atol=1e-6)
    assert np.allclose(points.get_ydata(), rate)
    counts = [int(text.get_text()) for text in ax.texts]
    assert sum(counts) == 500
    gaps = np.abs(rate - mean_confidence) * counts / 500
    assert f"expected calibration error {gaps.sum():.3f}" in ax.get_title()
    for bar, n, share in zip(ax.collections[0].get_segments(), counts, rate, strict=True):
        posterior = stats.beta(n * share + 0.5, n - n * share + 0.5)
        mass, _ = quad(posterior.pdf, bar[0, 1], bar[1, 1], limit=200)
        assert mass == pytest.approx(0.9 if 0 < share < 1 else 0.95, abs=1e-3)


@pytest.mark.parametrize("right", [True, False])
def test_reliability_of_certain_labels(right):
    model = pgp.BayesianModule(nn.Linear(1, 3), pgp.likelihoods.Categorical())
    logits = torch.tensor([[[0.0, 200.0, 0.0]]]).expand(5, 4, 3)
    y = torch.full((4,), 1 if right else 2)
    prediction = pgp.Prediction(logits, dist.Categorical(logits=logits), model)
    ax = plot_reliability(prediction, y)
    (points,) = lines(ax, "accuracy in the bin")
    assert points.get_xydata().tolist() == [[1.0, float(right)]]
    (bar,) = ax.collections[0].get_segments()
    assert bar[:, 1].max() == 1.0 if right else bar[:, 1].min() == 0.0


def test_predictions_of_a_tree_are_those_of_its_draws():
    model = pgp.BayesianModule(nn.Linear(2, 1), pgp.likelihoods.Normal(noise=1.0))
    x, y = torch.randn(30, 2), 3 * torch.randn(30, 1)
    draws = {"weights": 0.1 * torch.randn(200, 3), "weights_loc": torch.zeros(200, 3)}
    draws["weights_scale"] = torch.ones(200, 3)
    tree = to_datatree(model, draws, x, y, num_chains=2)
    ax = plot_predictions(tree, level=0.5, unit="m")
    values = tree["posterior_predictive"]["obs"].values.reshape(200, 30)
    low, high = np.quantile(values, [0.25, 0.75], axis=0)
    bars = np.array(ax.collections[0].get_segments())
    assert np.allclose(bars[:, 0], np.stack([values.mean(0), low], 1))
    assert np.allclose(bars[:, 1, 1], high)
    (outside,) = lines(ax, "observed, outside")
    seen = y.squeeze(1).numpy()
    assert sorted(outside.get_ydata()) == sorted(seen[(seen < low) | (seen > high)])
    assert plot_predictions(tree, y + 100).get_title().startswith("0.0% of 30")
    with pytest.raises(
        ValueError, match=r"y: expected the predictions' shape \(30,\), got \(7, 1\)"
    ):
        plot_predictions(tree, y[:7])
    with pytest.raises(ValueError, match="expected a group 'posterior_predictive'"):
        plot_predictions(to_datatree(model, draws))
    with pytest.raises(TypeError, match="y: expected the observations, got None"):
        plot_predictions(to_datatree(model, draws, x))
    with pytest.raises(TypeError, match="needs a prediction of class labels, got numbers"):
        plot_reliability(tree)


@pytest.mark.parametrize("likelihood", ["Categorical", "Bernoulli"])
def test_reliability_of_a_tree_is_that_of_frequencies(likelihood):
    outputs = 3 if likelihood == "Categorical" else 1
    model = pgp.BayesianModule(nn.Linear(2, outputs), getattr(pgp.likelihoods, likelihood)())
    x, groups = torch.randn(60, 2), model.assignment.num_groups
    y = torch.randint(2, (60,) if outputs == 3 else (60, 1))
    draws = {
        "weights": torch.randn(100, model.layout.num_weights),
        "weights_loc": torch.zeros(100, groups),
        "weights_scale": torch.ones(100, groups),
    }
    tree = to_datatree(model, draws, x, y if outputs == 3 else y.float())
    ax = plot_reliability(tree, num_bins=5)
    drawn = tree["posterior_predictive"]["obs"].values.reshape(100, 60).astype(int)
    shares = np.array([np.bincount(column, minlength=3) / 100 for column in drawn.T])
    right = shares.argmax(1) == y.reshape(-1).numpy()
    sure = shares.max(1)
    (points,) = lines(ax, "accuracy in the bin")
    counts = [int(text.get_text()) for text in ax.texts]
    for (confidence, rate), count, low in zip(
        points.get_xydata(), counts, np.unique(np.ceil(sure * 5) - 1) / 5, strict=True
    ):
        held = (sure > low + 1e-9) & (sure <= low + 0.2 + 1e-9)
        assert held.sum() == count
        assert (confidence, rate) == (
            pytest.approx(sure[held].mean()),
            pytest.approx(right[held].mean()),
        )
    if outputs == 3:
        with pytest.raises(TypeError, match="prediction: expected one of numbers, got class lab"):
            plot_predictions(tree)


def test_legend_of_a_reliability_diagram_leaves_its_points_alone():
    model = pgp.BayesianModule(nn.Linear(1, 2), pgp.likelihoods.Categorical())
    logits = torch.tensor([[[4.0, 0.0]]]).expand(5, 40, 2)
    prediction = pgp.Prediction(logits, dist.Categorical(logits=logits), model)
    for label in (0, 1):
        ax = plot_reliability(prediction, torch.full((40,), label))
        ax.figure.draw_without_rendering()
        box = ax.get_legend().get_window_extent().transformed(ax.transAxes.inverted())
        assert (box.x0 > 0.5) == (label == 0)
