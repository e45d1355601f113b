# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Scores of weights, against scipy and by hand."""

import math
from typing import Any

import pytest
import torch
from scipy import integrate, stats
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior.comparison import WeightMoments
from pyro_groupprior.pruning import RULES, weight_scores

MEAN, SD = torch.tensor([0.5, -2.0, 0.1]), torch.tensor([0.5, 1.0, 2.0])


def _model(**options: Any) -> pgp.BayesianModule:
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


@pytest.mark.parametrize("family", ["laplace", "student_t"])
def test_divergence_from_other_priors(family: str) -> None:
    model = _model(loc=0.5, scale=0.8, family=family)
    draws = {"weights": torch.stack([MEAN - SD / 2**0.5, MEAN + SD / 2**0.5])}
    base = 2**-0.5
    loc, scale = torch.tensor(base * 0.5), torch.tensor(base * 0.8)
    prior = model.family.distribution(loc.double(), scale.double())

    def divergence(mean: float, sd: float) -> float:
        q = stats.norm(mean, sd)

        def inside(x: float) -> float:
            return q.pdf(x) * (q.logpdf(x) - float(prior.log_prob(torch.tensor(x).double())))

        points = [mean - 9 * sd, mean + 9 * sd]
        return integrate.quad(inside, *points, points=[float(loc)], limit=300)[0]

    expected = [divergence(float(mean), float(sd)) for mean, sd in zip(MEAN, SD, strict=True)]
    assert weight_scores(model, draws, "kl").tolist() == pytest.approx(expected, rel=0.02, abs=0.01)


def test_evidence_by_conjugate_regression() -> None:
    # y = w + noise: the log evidence of w ~ N(0, 4) less that of w = 0, known exactly.
    model = pgp.BayesianModule(
        nn.Linear(1, 1, bias=False), pgp.likelihoods.Normal(noise=1.0), loc=0.0, scale=2.0
    )
    y = torch.tensor([0.3, 1.2, -0.4, 0.9])
    variance = 1 / (len(y) + 1 / 4)
    mean, sd = variance * float(y.sum()), variance**0.5
    draws = torch.tensor([[mean - sd / 2**0.5], [mean + sd / 2**0.5]])
    cov = torch.eye(4) + 4.0
    free = stats.multivariate_normal(torch.zeros(4).numpy(), cov.numpy()).logpdf(y.numpy())
    zero = stats.multivariate_normal(torch.zeros(4).numpy(), torch.eye(4).numpy()).logpdf(y.numpy())
    found = weight_scores(model, {"weights": draws}, "evidence")
    assert found.item() == pytest.approx(free - zero, rel=1e-4)


def test_learned_points_and_models_that_are_not_centered() -> None:
    model = _model(loc=0.0, scale=pgp.Learned(0.7))
    draws = {"weights": torch.stack([MEAN - SD / 2**0.5, MEAN + SD / 2**0.5])}
    base = 2**-0.5
    expected = [
        _kl(float(mean), float(sd), 0.0, base * 0.7) for mean, sd in zip(MEAN, SD, strict=True)
    ]
    assert weight_scores(model, draws, "kl").tolist() == pytest.approx(expected, rel=1e-3)
    guide = pgp.AutoMeanField(model)
    guide.setup(torch.zeros(1, 2), torch.zeros(1, 1))
    assert weight_scores(model, guide, "kl").shape == (3,)
    model = _model(centered=False)
    guide = pgp.AutoMeanField(model)
    guide.setup(torch.zeros(1, 2), torch.zeros(1, 1))
    for rule in RULES:
        assert bool(weight_scores(model, guide, rule).isfinite().all())


def test_weights_that_are_known_to_be_zero_matter_least() -> None:
    moments = WeightMoments(torch.tensor([0.0, 1.0, 0.5]), torch.tensor([0.0, 1.0, 1.0]))
    assert weight_scores(_model(), moments).tolist() == [0.0, 1.0, 0.5]


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
    with pytest.raises(ValueError, match="posterior: expected draws of 'weights_loc', got those"):
        weight_scores(model, {"weights": torch.randn(2, 3)}, "kl")
    draws = {"weights": torch.randn(2, 3), "weights_assignment": torch.zeros(2, 3).long()}
    with pytest.raises(ValueError, match="needs one grouping, got draws of the assignments"):
        weight_scores(model, draws, "kl")


@pytest.mark.parametrize("rule", ["kl", "evidence"])
def test_weights_that_are_known_exactly(rule: str) -> None:
    """Those pruned before go first, constants last."""
    weights = torch.stack([torch.tensor([0.0, 2.0, -1.0]), torch.tensor([0.0, 2.0, 1.0])])
    draws = {
        "weights": weights,
        "weights_loc": torch.zeros(2, 2),
        "weights_scale": torch.ones(2, 2),
    }
    found = weight_scores(_model(), draws, rule)
    assert found[:2].tolist() == [-math.inf, math.inf]
    assert bool(found[2].isfinite())
