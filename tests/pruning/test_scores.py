# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Scores of weights, against scipy and by hand."""

import math

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor, nn

import pyro_groupprior as pgp
from pyro_groupprior.comparison import WeightMoments
from pyro_groupprior.pruning import RULES, weight_scores

MEAN, SD = torch.tensor([0.5, -2.0, 0.1]), torch.tensor([0.5, 1.0, 2.0])


def _model(**options: float | Tensor) -> pgp.BayesianModule:
    net = nn.Linear(2, 1)
    return pgp.BayesianModule(net, pgp.likelihoods.Normal(), grouping="tensor", **options)


def test_rules_by_hand() -> None:
    model, moments = _model(), WeightMoments(MEAN, SD)
    assert weight_scores(model, moments).tolist() == pytest.approx([1, 2, 0.05])
    assert weight_scores(model, moments, "magnitude").tolist() == pytest.approx([0.5, 2, 0.1])
    assert weight_scores(model, moments, "sd").tolist() == [-0.5, -1, -2]
    found = weight_scores(model, moments, "random")
    assert found.shape == (3,)
    assert len(found.unique()) == 3


def _kl(mean: float, sd: float, loc: float, scale: float) -> float:
    q, p = stats.norm(mean, sd), stats.norm(loc, scale)
    return integrate.quad(lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), -40, 40, limit=200)[0]


def test_divergence_from_the_prior() -> None:
    base = 2**-0.5
    draws = {
        "weights": torch.stack([MEAN - SD / 2**0.5, MEAN + SD / 2**0.5]),
        "weights_loc": torch.tensor([[0.5, -1.0]] * 2),
        "weights_scale": torch.tensor([[0.7, 2.0]] * 2),
    }
    expected = [
        _kl(float(mean), float(sd), base * loc, base * scale)
        for mean, sd, loc, scale in zip(MEAN, SD, (0.5, 0.5, -1.0), (0.7, 0.7, 2.0), strict=True)
    ]
    # The bias's base scale is that of its layer too.
    found = weight_scores(_model(), draws, "kl")
    assert found.tolist() == pytest.approx(expected, rel=1e-3)
    fixed = _model(loc=torch.tensor([0.5, -1.0]), scale=torch.tensor([0.7, 2.0]))
    assert weight_scores(fixed, {"weights": draws["weights"]}, "kl").tolist() == pytest.approx(
        expected, rel=1e-3
    )
    guide = pgp.AutoMeanField(fixed)
    guide.fit_draws(
        {**draws, "noise": torch.ones(2) + torch.tensor([0.0, 0.1])},
        torch.zeros(1, 2),
        torch.zeros(1, 1),
    )
    assert weight_scores(fixed, guide, "kl").tolist() == pytest.approx(expected, rel=1e-3)


def test_every_rule_takes_a_guide() -> None:
    model = _model()
    guide = pgp.AutoMeanField(model)
    guide.setup(torch.zeros(1, 2), torch.zeros(1, 1))
    for rule in RULES:
        scores = weight_scores(model, guide, rule)
        assert scores.shape == (3,)
        assert all(map(math.isfinite, scores.tolist()))


def test_bad_input() -> None:
    model, moments = _model(), WeightMoments(MEAN, SD)
    with pytest.raises(ValueError, match=r"rule: expected one of .*, got 'size'"):
        weight_scores(model, moments, "size")
    with pytest.raises(ValueError, match="rule='kl' needs a guide or draws"):
        weight_scores(model, moments, "kl")
    with pytest.raises(ValueError, match="rule='kl' needs 'weights_loc', which it does not have"):
        weight_scores(model, {"weights": torch.randn(2, 3)}, "kl")
