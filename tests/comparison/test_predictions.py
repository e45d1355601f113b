# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Predictions side by side, against numpy by hand."""

import numpy as np
import pytest
import torch
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior.comparison import agreement, compare_predictions, total_variation

X = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))


def _predictions() -> tuple[pgp.Prediction, pgp.Prediction, pgp.BayesianModule]:
    model = pgp.BayesianModule(nn.Linear(2, 3), pgp.likelihoods.Categorical())
    one, two = (pgp.predict(model, {"weights": torch.randn(5, 9)}, X) for _ in range(2))
    return one, two, model


def test_figures_by_hand() -> None:
    one, two, _ = _predictions()
    first, second = one.mean.numpy(), two.mean.numpy()
    same = (first.argmax(1) == second.argmax(1)).mean()
    assert agreement(one, two) == pytest.approx(same)
    assert total_variation(one, two) == pytest.approx(np.abs(first - second).sum(1).mean() / 2)
    assert agreement(one, one) == 1
    assert total_variation(one, one) == 0
    y = torch.arange(50) % 3
    table = compare_predictions({"hmc": one, "vi": two}, "hmc", y)
    assert table.posterior.tolist() == ["hmc", "vi"]
    assert table.agreement.tolist() == pytest.approx([1, same])
    chosen = second[np.arange(50), y.numpy()]
    assert table.nll[1] == pytest.approx(-np.log(chosen).mean(), rel=1e-5)
    assert table.accuracy[1] == pytest.approx((second.argmax(1) == y.numpy()).mean())


def test_two_classes_by_one_output() -> None:
    model = pgp.BayesianModule(nn.Linear(2, 1), pgp.likelihoods.Bernoulli())
    one, two = (pgp.predict(model, {"weights": torch.randn(5, 3)}, X) for _ in range(2))
    first, second = one.mean.numpy(), two.mean.numpy()
    assert total_variation(one, two) == pytest.approx(np.abs(first - second).mean(), rel=1e-5)
    assert agreement(one, two) == pytest.approx(((first > 0.5) == (second > 0.5)).mean())


def test_bad_input() -> None:
    one, _, model = _predictions()
    with pytest.raises(ValueError, match="expected two for the same rows"):
        agreement(one, pgp.predict(model, {"weights": torch.randn(5, 9)}, X[:3]))
    real = pgp.BayesianModule(nn.Linear(2, 1), pgp.likelihoods.Normal())
    number = pgp.predict(real, {"weights": torch.randn(4, 3), "noise": torch.ones(4)}, X)
    with pytest.raises(TypeError, match="expected two of class labels, got one of Normal"):
        total_variation(one, number)
    with pytest.raises(ValueError, match="reference: expected one of"):
        compare_predictions({"hmc": one}, "vi")
