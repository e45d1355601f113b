# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Guides with the moments of draws, against numpy's moments of the same draws."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf, ledoit_wolf_shrinkage
from torch import Tensor, nn

import pyro_groupprior as pgp
from pyro_groupprior.guides import SiteGuide
from pyro_groupprior.guides.draws import shared_directions, shrinkage
from tests.guides.models import GUIDES, X, Y


def _model() -> pgp.BayesianModule:
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    return pgp.BayesianModule(net, pgp.likelihoods.Normal(), grouping="layer")


def _draws(count: int = 4000) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(count, 3, generator=generator)
    loadings = torch.randn(3, 16, generator=generator)
    own = torch.randn(count, 16, generator=generator)
    return {
        "weights": 1.0 + shared @ loadings + 0.5 * own,
        "weights_loc": torch.randn(count, 2, generator=generator) - 3,
        "weights_scale": (0.3 * torch.randn(count, 2, generator=generator)).exp(),
        "noise": (0.1 * torch.randn(count, generator=generator) - 1).exp(),
    }


@pytest.mark.parametrize(("kind", "options"), GUIDES)
def test_marginal_moments_are_those_of_the_draws(
    kind: type[SiteGuide], options: dict[str, Any]
) -> None:
    guide, draws = kind(_model(), **options), _draws()
    guide.fit_draws(draws, X, Y)
    mean, sd = guide.moments("weights")
    weights = draws["weights"].numpy()
    np.testing.assert_allclose(mean, weights.mean(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(sd, weights.std(0, ddof=1), rtol=2e-3)
    log = draws["weights_scale"].log().numpy()
    again = guide.draws(50_000)["weights_scale"].log().numpy()
    np.testing.assert_allclose(again.mean(0), log.mean(0), atol=0.01)
    np.testing.assert_allclose(again.std(0), log.std(0), rtol=0.02)


@pytest.mark.parametrize(("kind", "options"), GUIDES[1:])
def test_covariance(kind: type[SiteGuide], options: dict[str, Any]) -> None:
    guide, draws = kind(_model(), **options), _draws()
    guide.fit_draws(draws, X, Y)
    again = guide.draws(100_000)["weights"].numpy()
    expected = np.corrcoef(draws["weights"].numpy().T)
    if kind is pgp.AutoBlockNormal:
        row = _model().partition("row").index
        expected = np.where((row[:, None] == row).numpy(), expected, 0.0)
    if kind is pgp.AutoLowRank:
        # Rank 3 is what they are made of; principal directions overstate them a little.
        np.testing.assert_allclose(np.corrcoef(again.T), expected, atol=0.08)
    else:
        np.testing.assert_allclose(np.corrcoef(again.T), expected, atol=0.03)


def test_few_draws_are_shrunk_as_by_scikit_learn() -> None:
    draws = {name: value[:10] for name, value in _draws().items()}
    guide = pgp.AutoFullRank(_model())
    guide.fit_draws(draws, X, Y)
    weights = draws["weights"].double().numpy()
    standard = (weights - weights.mean(0)) / weights.std(0, ddof=1)
    shrunk = LedoitWolf(assume_centered=True).fit(standard).covariance_
    expected = shrunk / np.sqrt(np.outer(shrunk.diagonal(), shrunk.diagonal()))
    found = guide.factor(guide.site("weights")).covariance_matrix.detach().numpy()
    sd = weights.std(0, ddof=1)
    np.testing.assert_allclose(found / sd / sd[:, None], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("kind", "options"), GUIDES)
@pytest.mark.parametrize("count", [3, 10, 400])
def test_few_draws_have_their_own_deviations(
    kind: type[SiteGuide], options: dict[str, Any], count: int
) -> None:
    guide, draws = kind(_model(), **options), _draws(count)
    guide.fit_draws(draws, X, Y)
    _, sd = guide.moments("weights")
    torch.testing.assert_close(sd, draws["weights"].std(0), rtol=2e-3, atol=0)


@pytest.mark.parametrize(("count", "rank"), [(10, 8), (50, 8), (400, 64)])
def test_noise_has_no_directions(count: int, rank: int) -> None:
    noise = torch.randn(count, 200, generator=torch.Generator().manual_seed(0))
    factor = shared_directions(noise, rank)
    covariance = factor @ factor.T + torch.eye(200)
    sd = covariance.diagonal().sqrt()
    correlations = (covariance / sd / sd[:, None]).fill_diagonal_(0.0)
    # Those of the draws themselves have a standard deviation of one over the root of their number.
    assert float(correlations.square().mean().sqrt()) < 0.3 * count**-0.5


@pytest.mark.parametrize("shape", [(5, 40), (60, 7), (200, 200)])
def test_shrinkage_is_that_of_scikit_learn(shape: tuple[int, int]) -> None:
    draws = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    draws = draws @ torch.randn(shape[1], shape[1], dtype=torch.double) / shape[1] ** 0.5
    expected = ledoit_wolf_shrinkage(draws.numpy(), assume_centered=True)
    assert shrinkage(draws) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("kind", "options"), GUIDES)
def test_weights_that_never_change(kind: type[SiteGuide], options: dict[str, Any]) -> None:
    guide, draws = kind(_model(), **options), _draws(50)
    draws["weights"][:, :5] = 0.0
    guide.fit_draws(draws, X, Y)
    again = guide.draws(2000)["weights"]
    assert float(again[:, :5].abs().max()) < 1e-4
    torch.testing.assert_close(
        again[:, 5:].std(0), draws["weights"][:, 5:].std(0), rtol=0.1, atol=0
    )


def test_numbers() -> None:
    counts = {}
    for kind, options in GUIDES:
        guide = kind(_model(), **options)
        guide.fit_draws(_draws(5), X, Y)
        assert guide.num_bytes == 4 * guide.num_numbers
        counts[kind.__name__] = guide.num_numbers - 2 * (2 + 2 + 1)  # without the other sites
    assert counts == {
        "AutoMeanField": 32,
        "AutoLowRank": 32 + 3 * 16,
        "AutoBlockNormal": 16 + 4 * 4 * 5 // 2,
        "AutoFullRank": 16 + 16 * 17 // 2,
    }


def test_bad_input() -> None:
    guide, draws = pgp.AutoMeanField(_model()), _draws(5)
    guide.setup(X, Y)
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    for wrong, message in (
        ({"noise": draws["noise"]}, "draws: 'weights_loc' is missing"),
        ({**draws, "weights": draws["weights"][:1]}, r"expected 5 of shape \(16,\), got \(1, 16\)"),
        ({**draws, "weights": draws["weights"][:, 1:]}, r"expected 5 of shape \(16,\), got"),
        ({**draws, "weights": draws["weights"].reshape(5, 4, 4)}, r"got \(5, 4, 4\)"),
        ({name: value[:1] for name, value in draws.items()}, "expected 2 of shape"),
        ({**draws, "noise": -draws["noise"]}, "expected finite numbers within the support"),
    ):
        with pytest.raises(ValueError, match=message):
            guide.fit_draws(wrong)
    with pytest.raises(TypeError, match="draws: expected tensors by site, got list"):
        guide.fit_draws([draws["weights"]])  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in guide.state_dict().items())


@pytest.mark.parametrize(("kind", "options"), GUIDES)
def test_two_draws_are_enough(kind: type[SiteGuide], options: dict[str, Any]) -> None:
    guide, draws = kind(_model(), **options), _draws(2)
    guide.fit_draws(draws, X, Y)
    mean, sd = guide.moments("weights")
    np.testing.assert_allclose(mean, draws["weights"].mean(0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(sd, draws["weights"].std(0), rtol=5e-3)


def test_a_failure_leaves_the_guide_as_it_was() -> None:
    guide, draws = pgp.AutoMeanField(_model()), _draws()
    guide.setup(X, Y)
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    with pytest.raises(ValueError, match="draws: their means and deviations are too large"):
        guide.fit_draws({**draws, "weights": 1e38 * draws["weights"].sign()})
    for name, value in guide.state_dict().items():
        assert torch.equal(value, before[name])
