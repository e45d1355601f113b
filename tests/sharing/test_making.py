# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Codebooks of given posteriors, against torch's divergences and brute force."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from torch.distributions import Normal, kl_divergence

from pyro_groupprior import Layout
from pyro_groupprior.comparison import WeightMoments
from pyro_groupprior.sharing import make_codebook
from pyro_groupprior.sharing.nearest import blended, centres, divergence, nearest

LAYOUT = Layout([("a.weight", torch.Size([40, 10])), ("a.bias", torch.Size([40]))])


def posterior(layout=LAYOUT, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(layout.num_weights, generator=generator)
    sd = (torch.randn(layout.num_weights, generator=generator) - 2).exp()
    return WeightMoments(mean, sd)


def loss(codebook, moments, where=slice(None)):
    """Mean divergence of what weights are given from what they were."""
    given, own = (
        Normal(*(v[where] for v in pair))
        for pair in (codebook.moments(), (moments.mean, moments.sd))
    )
    return float(kl_divergence(given, own).mean())


def test_divergence_is_torchs():
    mean, sd = posterior().mean, posterior().sd
    expected = kl_divergence(Normal(torch.tensor(0.3), torch.tensor(0.5)), Normal(mean, sd))
    found = divergence(torch.tensor(0.3), torch.tensor(0.5), mean, sd)
    torch.testing.assert_close(found, expected)


def test_nearest_is_that_of_all_pairs():
    mean, sd = posterior().mean, posterior().sd
    loc, scale, cost = torch.randn(7), torch.rand(7) + 0.1, torch.rand(7)
    every = kl_divergence(Normal(loc, scale), Normal(mean[:, None], sd[:, None])) + cost
    index, least = nearest(loc, scale, mean, sd, cost)
    assert torch.equal(index.long(), every.argmin(1))
    torch.testing.assert_close(least, every.amin(1))


def test_centres_are_the_best():
    mean, sd = posterior().mean, posterior().sd
    index = torch.zeros(len(mean), dtype=torch.int32)
    loc, scale = (value.clone().requires_grad_() for value in centres(index, 1, mean, sd))
    divergence(loc, scale, mean, sd).sum().backward()
    slope = (len(mean) / sd.square()).sum()
    assert abs(loc.grad) < 1e-4 * slope
    assert abs(scale.grad) < 1e-4 * slope


def test_blended_is_that_of_all_pairs_and_shares():
    moments = posterior()
    mean, sd = moments.mean[:50], moments.sd[:50]
    loc, scale = torch.randn(5), torch.rand(5) + 0.1
    first, alone = nearest(loc, scale, mean, sd)
    _, alpha, least = blended(loc, scale, first, mean, sd, levels=1000)
    shares = torch.linspace(0, 1, 1001)[:, None, None]
    mixed_loc = shares * loc[first][:, None] + (1 - shares) * loc
    mixed_scale = shares * scale[first][:, None] + (1 - shares) * scale
    every = kl_divergence(Normal(mixed_loc, mixed_scale), Normal(mean[:, None], sd[:, None]))
    assert bool((least <= alone + 1e-6).all())
    assert bool((every.amin((0, 2)) <= least + 1e-6).all())
    # The share is that at which the means agree best, which is nearly the best of all.
    assert (least - every.amin((0, 2))).mean() < 0.1 * (alone - least).mean() + 1e-3
    assert bool(((alpha >= 0) & (alpha <= 1)).all())


@pytest.mark.parametrize("scope", ["tensor", "layer", "global"])
def test_more_entries_lose_less(scope):
    moments = posterior()
    losses = [loss(make_codebook(LAYOUT, moments, k, scope=scope), moments) for k in (2, 8, 32)]
    assert losses[0] > 2 * losses[1] > 4 * losses[2]


def test_refinement_loses_less_than_the_mixture():
    moments = posterior()
    plain = make_codebook(LAYOUT, moments, 8, num_refinements=0)
    assert loss(make_codebook(LAYOUT, moments, 8), moments) < 0.8 * loss(plain, moments)


def test_entries_are_their_tables():
    book = make_codebook(LAYOUT, posterior(), 4)
    (_, stop), (start, last) = book.tables
    assert stop == start
    assert book.num_entries == last <= 8
    assert int(book.index[:400].max()) < stop <= int(book.index[400:].min())
    shared = make_codebook(LAYOUT, posterior(), 4, scope="layer")
    assert len(set(shared.tables)) == 1


def test_units_follow_the_tensors():
    moments = posterior()
    factor = torch.cat([torch.full((400,), 1000.0), torch.ones(40)])
    larger = WeightMoments(moments.mean * factor, moments.sd * factor)
    one, other = (make_codebook(LAYOUT, m, 4, scope="global") for m in (moments, larger))
    torch.testing.assert_close(other.moments()[0], one.moments()[0] * factor, rtol=1e-3, atol=1e-3)


def test_pruned_weights_are_zero():
    keep = torch.arange(440) % 3 > 0
    moments = posterior()
    moments = WeightMoments(moments.mean, moments.sd * keep)  # what is pruned needs none
    book = make_codebook(LAYOUT, moments, 4, keep=keep)
    loc, scale = book.moments()
    assert torch.equal(book.kept, keep)
    assert not bool(loc[~keep].any()) and not bool(scale[~keep].any())
    assert bool((scale[keep] > 0).all())


def test_a_tensor_may_be_pruned_altogether():
    keep = torch.arange(440) < 400
    book = make_codebook(LAYOUT, posterior(), 4, keep=keep)
    assert torch.equal(book.kept, keep)


def test_outliers_are_those_that_lose_most():
    moments = posterior()
    plain = make_codebook(LAYOUT, moments, 4)
    lost = kl_divergence(Normal(*plain.moments()), Normal(moments.mean, moments.sd))
    book = make_codebook(LAYOUT, moments, 4, outliers=0.05)
    places = book.outliers.places
    assert set(places.tolist()) == set(lost.topk(22).indices.tolist())
    for given, own in zip(book.moments(), (moments.mean, moments.sd), strict=True):
        torch.testing.assert_close(given[places], own[places])


@pytest.mark.parametrize("num_refinements", [0, 20])
def test_outliers_do_not_move_entries(num_refinements):
    moments = posterior()
    book = make_codebook(LAYOUT, moments, 4, outliers=0.05, num_refinements=num_refinements)
    shared = torch.ones(440, dtype=torch.bool)
    shared[book.outliers.places] = False
    for entry in range(book.tables[0][1]):
        own = shared[:400] & (book.index[:400] == entry)
        mean, sd = moments.mean[:400][own].double(), moments.sd[:400][own].double()
        weights = sd**-2 if num_refinements else torch.ones_like(sd)
        expected = float((weights * mean).sum() / weights.sum())
        assert float(book.unit[0] * book.loc[entry]) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_outliers_by_mahalanobis_distance():
    layout = Layout([("w", torch.Size([200]))])
    moments = posterior(layout)
    book = make_codebook(layout, moments, 1, outliers=0.1, outlier_score="mahalanobis")
    points = torch.stack([moments.mean, moments.sd.log()], 1).double().numpy()
    covariance = np.cov(points.T, bias=True)
    distances = cdist(points, points.mean(0)[None], "mahalanobis", VI=np.linalg.inv(covariance))
    assert set(book.outliers.places.tolist()) == set(distances[:, 0].argsort()[-20:].tolist())


def test_outliers_by_scores():
    scores = torch.zeros(440)
    scores[[1, 5]] = 1.0
    book = make_codebook(LAYOUT, posterior(), 2, outliers=2 / 440, outlier_score=scores)
    assert book.outliers.places.tolist() == [1, 5]


def test_blending_gains():
    moments = posterior()
    plain = make_codebook(LAYOUT, moments, 4)
    book = make_codebook(LAYOUT, moments, 4, blend=0.3)
    assert 0 < len(book.blend.places) <= 0.3 * 440
    assert loss(book, moments) < 0.8 * loss(plain, moments)
    rest = torch.ones(440, dtype=torch.bool)
    rest[book.blend.places] = False
    for given, own in zip(book.moments(), plain.moments(), strict=True):
        torch.testing.assert_close(given[rest], own[rest])


def test_takes_any_clusterer():
    book = make_codebook(LAYOUT, posterior(), KMeans(3, n_init=1, random_state=0), scope="global")
    assert book.num_entries == 3


def test_fewer_points_than_entries():
    layout = Layout([("w", torch.Size([3]))])
    moments = WeightMoments(torch.tensor([1.0, 1.0, 2.0]), torch.ones(3))
    book = make_codebook(layout, moments, 16)
    torch.testing.assert_close(book.moments()[0], moments.mean)


def test_repeats():
    one, other = (make_codebook(LAYOUT, posterior(), 8, blend=0.1, outliers=0.1) for _ in range(2))
    for first, second in zip(one.moments(), other.moments(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_entries": 0}, ValueError, "num_entries: expected a positive number"),
        ({"num_entries": "four"}, TypeError, "num_entries: expected a number or a clusterer"),
        ({"scope": "net"}, ValueError, "scope: expected one of"),
        ({"outliers": 1.5}, ValueError, "outliers: expected a share"),
        ({"blend": -0.1}, ValueError, "blend: expected a share"),
        ({"keep": torch.ones(440)}, ValueError, "keep: expected bool"),
        ({"outliers": 0.1, "outlier_score": "far"}, ValueError, "outlier_score: expected one of"),
        ({"outliers": 0.1, "outlier_score": torch.ones(2)}, ValueError, "outlier_score: expected"),
        ({"num_refinements": -1}, ValueError, "num_refinements: expected at least 0"),
    ],
)
def test_refuses(options, error, message):
    with pytest.raises(error, match=message):
        make_codebook(LAYOUT, posterior(), **options)


def test_refuses_moments_that_do_not_fit():
    with pytest.raises(ValueError, match="moments: expected those of 440 weights"):
        make_codebook(LAYOUT, WeightMoments(torch.ones(3), torch.ones(3)))
    with pytest.raises(ValueError, match="positive standard deviations"):
        make_codebook(LAYOUT, WeightMoments(torch.ones(440), torch.zeros(440)))


@pytest.mark.parametrize("rate", [0.5, 3.0])
def test_short_indices_for_some_divergence(rate):
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(3000, generator=generator)
    moments = WeightMoments(mean, torch.full((3000,), 0.3))
    layout = Layout([("w", torch.Size([3000]))])

    def divergence_and_entropy(book):
        given, found = (Normal(*pair) for pair in ((moments.mean, moments.sd), book.moments()))
        shares = book.index.bincount()[book.index.unique()] / 3000
        return kl_divergence(found, given).mean(), -(shares * shares.log()).sum()

    first = divergence_and_entropy(make_codebook(layout, moments, 12))
    book = make_codebook(layout, moments, 12, rate=rate)
    second = divergence_and_entropy(book)
    assert second[1] < first[1]
    assert second[0] > first[0]
    assert second[0] + rate * second[1] < first[0] + rate * first[1]
    with pytest.raises(ValueError, match="rate: expected no negative number, got -1"):
        make_codebook(layout, moments, 4, rate=-1)
