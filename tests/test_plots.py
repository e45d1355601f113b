# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What the pictures show, read back from the axes and computed again by other means."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from matplotlib.patches import StepPatch
from scipy import stats
from scipy.integrate import quad, trapezoid
from sklearn.calibration import calibration_curve
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior.plots import (
    plot_group_priors,
    plot_history,
    plot_predictions,
    plot_reliability,
)
from pyro_groupprior.svi import EpochRecord, PhaseRecord


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def lines(ax, label):
    return [line for line in ax.get_lines() if line.get_label() == label]


def rows_of(ax, num_rows):
    """For each row of a group plot: histogram, aggregate and prior, heights above its base."""
    patches = [patch for patch in ax.patches if isinstance(patch, StepPatch)]
    curves = ax.get_lines()
    assert len(patches) == num_rows and len(curves) == 3 * num_rows
    for row in range(num_rows):
        heights, edges, _ = patches[row].get_data()
        aggregate, prior, _ = (line.get_xydata().T for line in curves[3 * row : 3 * row + 3])
        yield (edges, heights + row), (aggregate[0], aggregate[1] + row), (prior[0], prior[1] + row)


def grouped(**prior):
    """A posterior of 2,000 weights in groups of 1,500, 499, 0 and 1, with a base scale of 1/2."""
    index = torch.repeat_interleave(torch.tensor([0, 1, 3]), torch.tensor([1500, 499, 1]))
    model = pgp.BayesianModule(
        nn.Linear(2000, 1, bias=False),
        grouping=pgp.Assignment(index, num_groups=4),
        base_scale=0.5,
        **prior,
    )
    loc = torch.tensor([0.0, 4.0, 0.0, 8.0])
    scale = torch.tensor([1.0, 0.5, 1.0, 0.2])
    mean = loc[index] + 0.8 * scale[index] * torch.randn(2000)
    draws = {
        "weights": 0.5 * (mean + 0.6 * scale[index] * torch.randn(300, 2000)),
        "weights_loc": loc.expand(300, 4),
        "weights_scale": scale.expand(300, 4),
    }
    return model, draws, index


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
    shares = torch.rand(50, 2)
    soft = pgp.Assignment(
        torch.tensor([[0, 1]]).expand(50, 2), responsibilities=shares / shares.sum(1, keepdim=True)
    )
    model = pgp.BayesianModule(nn.Linear(50, 1, bias=False), grouping=soft, base_scale=1.0)
    guide = pgp.AutoMeanField(model)
    guide.setup(torch.zeros(1, 50))
    ax = plot_group_priors(model, guide)
    order = soft.sizes().argsort(descending=True).tolist()
    mean = guide.moments("weights")[0].double()
    for group, ((edges, heights), _, _) in zip(order, rows_of(ax, 2), strict=True):
        held = soft.dense()[:, group].double()
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


def history_of(num_epochs, warmup=0, phases=()):
    rng = np.random.default_rng(0)
    epochs = [
        EpochRecord(i, i, 0, float(rng.normal(100, 1)), 0.01, min(1.0, i / warmup) if warmup else 1)
        for i in range(1, num_epochs + 1)
    ]
    records = [
        PhaseRecord("weights", n + 1, epoch, epoch, churn, 1, (1.0,), (0.0,), (1.0,))
        for n, (epoch, churn) in enumerate(phases)
    ]
    return pgp.History(epochs, records)


def test_history_shows_losses_and_phases():
    history = history_of(400, warmup=100, phases=[(150, 0.4), (300, 0.031)])
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
    ax = plot_history(history_of(3))
    assert len(ax.get_lines()) == 1 and ax.get_legend() is None
    low, high = ax.get_ylim()
    losses = [record.loss for record in history_of(3).epochs]
    assert low < min(losses) and high > max(losses)
    plot_history(history_of(1))


def test_history_shows_one_line_for_priors_regrouped_together():
    ax = plot_history(history_of(20, phases=[(10, 0.1), (10, 0.5)]))
    assert [text.get_text() for text in ax.texts] == ["50%"]


def test_empty_history_is_refused():
    with pytest.raises(ValueError, match="at least one epoch"):
        plot_history(pgp.History())


def regression_prediction(num_rows=400):
    """A prediction that is exactly Normal(mean, sd), and rows that follow it."""
    torch.manual_seed(2)
    model = pgp.BayesianModule(nn.Linear(1, 1), pgp.likelihoods.Normal(noise=1.0))
    mean = torch.linspace(-3, 3, num_rows).unsqueeze(1)
    outputs = mean.expand(500, num_rows, 1)
    prediction = pgp.Prediction(outputs, dist.Normal(outputs, 0.5), model)
    return prediction, mean, mean + 0.5 * torch.randn(num_rows, 1)


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


def classification_prediction(num_rows=500):
    torch.manual_seed(3)
    model = pgp.BayesianModule(nn.Linear(1, 3), pgp.likelihoods.Categorical())
    logits = 2 * torch.randn(40, 1, 3) + 3 * torch.randn(num_rows, 3)
    prediction = pgp.Prediction(logits, dist.Categorical(logits=logits), model)
    return prediction, torch.randint(3, (num_rows,))


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


def test_given_axes_are_drawn_on_and_returned():
    _, axes = plt.subplots(1, 4)
    before = plt.get_fignums()
    model, draws, _ = grouped()
    numbers, _, y = regression_prediction()
    assert plot_group_priors(model, draws, axes[0]) is axes[0]
    assert plot_history(history_of(5), axes[1]) is axes[1]
    assert plot_predictions(numbers, y, axes[2]) is axes[2]
    assert plot_reliability(*classification_prediction(), axes[3]) is axes[3]
    assert plt.get_fignums() == before


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pyro_groupprior\[plots\]"):
        plot_history(history_of(3))
