# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Clustering of the evidence, of trajectories and draws; within parts and by whole units."""

from functools import partial

import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from torch import nn

from pyro_groupprior import (
    Assignment,
    AutoLowRank,
    AutoMeanField,
    BayesianModule,
    BinnedGaussianMixture,
    Cluster,
    CorrelationClustering,
    DeconvolvedMixture,
    MergedMixture,
    Monitor,
    Naive,
    PhasedSVI,
    Regroup,
    WeightPosterior,
    likelihoods,
    weight_posteriors,
)
from tests.svi.runs import Adam, data, regression

NET = BayesianModule(nn.Sequential(nn.Linear(8, 10), nn.Tanh(), nn.Linear(10, 6)))
ROWS, LAYERS = (NET.partition(name).index.long() for name in ("row", "layer"))
SIZE = len(ROWS)


def posterior(kind: torch.Tensor, noise=None, **options) -> WeightPosterior:
    """Weights whose evidence lies about their kind, the prior being N(0, 1)."""
    generator = torch.Generator().manual_seed(0)
    estimate = kind.float() * 3 + 0.2 * torch.randn(SIZE, generator=generator)
    noise = 0.1 + 0.3 * torch.rand(SIZE, generator=generator) if noise is None else noise
    precision = 1 + noise**-2
    one = torch.ones(SIZE)
    return WeightPosterior(
        estimate * noise**-2 / precision,
        precision.rsqrt(),
        one,
        Assignment(torch.zeros(SIZE, dtype=torch.long)),
        prior_loc=0 * one,
        prior_scale=one,
        **{"partition": NET.partition, **options},
    )


SCATTERED = torch.arange(SIZE) % 3
CLUSTERERS = {
    "deconvolved": DeconvolvedMixture(6),
    "kmeans": KMeans(3, n_init=2, random_state=0),
    "binned": BinnedGaussianMixture(3, random_state=0),
    "merged": MergedMixture(GaussianMixture(5, random_state=0), n_components=3),
}


@pytest.mark.parametrize("kind", CLUSTERERS)
@pytest.mark.parametrize("soft", [None, 2])
def test_finds_planted_groups(kind, soft):
    if kind == "kmeans" and soft:
        return
    features = "moments" if kind == "binned" else None if kind == "deconvolved" else "estimate"
    noise = 0.1 + 0.1 * SCATTERED if kind == "binned" else None  # it sees the spread as well
    found = Cluster(CLUSTERERS[kind], features, soft).propose(posterior(SCATTERED, noise))
    assert adjusted_rand_score(SCATTERED, found.hard().index) > 0.95
    assert found.is_soft == (soft is not None)
    if soft:
        assert found.index.shape == (SIZE, 2)
        torch.testing.assert_close(found.responsibilities.sum(1), torch.ones(SIZE))


def test_what_auto_means():
    assert Cluster(DeconvolvedMixture()).soft == 4
    assert Cluster(DeconvolvedMixture()).features == "evidence"
    assert Cluster(DeconvolvedMixture(), soft=None).soft is None
    assert Cluster(BinnedGaussianMixture()).features == "moments"
    assert Cluster(BinnedGaussianMixture()).soft is None
    assert Cluster(CorrelationClustering()).features == "trajectory"
    assert Cluster(GaussianMixture(2)).soft is None
    assert Cluster(KMeans(2), "evidence").soft is None
    naive = Naive(5)
    assert (naive.features, naive.soft, naive.clusterer.n_clusters) == ("mean", None, 5)


@pytest.mark.parametrize("kind", CLUSTERERS)
def test_within_layers_no_group_spans_two(kind):
    features = None if kind == "deconvolved" else "moments"
    found = Cluster(CLUSTERERS[kind], features, within="layer").propose(posterior(SCATTERED))
    used = found.dense() > 0
    for group in used.T:
        assert len(LAYERS[group].unique()) <= 1
    if kind == "deconvolved":
        for layer in (0, 1):
            rows = layer == LAYERS
            score = adjusted_rand_score(SCATTERED[rows], found.hard().index[rows])
            assert score > 0.95
    torch.testing.assert_close(found.dense().sum(1), torch.ones(SIZE))


@pytest.mark.parametrize("soft", [None, 2])
@pytest.mark.parametrize("kind", ["kmeans", "deconvolved"])
@pytest.mark.parametrize("within", [None, "layer"])
def test_whole_rows_join_one_group(kind, soft, within):
    if kind == "kmeans" and soft:
        return
    by_row = ROWS % 2
    if kind == "deconvolved":
        clusterer = DeconvolvedMixture(2, criterion=None)
    else:
        clusterer = KMeans(2, n_init=2, random_state=0)
    features = None if kind == "deconvolved" else "mean"
    strategy = Cluster(clusterer, features, soft, unit="row", within=within)
    dense = (found := strategy.propose(posterior(by_row))).dense()
    for row in ROWS.unique():
        assert bool((dense[row == ROWS] == dense[row == ROWS][0]).all())
    truth = by_row if within is None else by_row + 2 * LAYERS
    assert adjusted_rand_score(truth, found.hard().index) == 1.0
    assert found.num_groups == (2 if within is None else 4)


def test_channels_of_a_convolution_are_units():
    net = BayesianModule(nn.Sequential(nn.Conv2d(2, 6, 3), nn.Flatten(), nn.Linear(6, 2)))
    channels = net.partition("channel").index.long()
    mean = torch.where(channels % 2 == 0, 1.0, -1.0) + 0.3 * torch.randn(len(channels))
    one = torch.ones_like(mean)
    groups = Assignment(torch.zeros(len(mean), dtype=torch.long))
    given = WeightPosterior(mean, one, one, groups, partition=net.partition)
    found = Cluster(KMeans(2, random_state=0), unit="channel").propose(given)
    assert all(len(found.index[channels == channel].unique()) == 1 for channel in channels.unique())
    assert adjusted_rand_score(channels % 2, found.index) == 1.0


@pytest.mark.parametrize("option", ["within", "unit"])
def test_parts_need_a_net(option):
    strategy = Cluster(KMeans(2, random_state=0), **{option: "row"})
    with pytest.raises(ValueError, match=f"{option}: 'row' needs the weights of a BayesianModule"):
        strategy.propose(posterior(SCATTERED, partition=None))
    with pytest.raises(ValueError, match="grouping: expected one of"):
        Cluster(KMeans(2, random_state=0), **{option: "stripe"}).propose(posterior(SCATTERED))


def test_trajectories_end_to_end():
    """Through a Monitor: what the strategy proposes is what the clusterer says of its snapshots."""
    monitor = Monitor(steps=2)
    clusterer = CorrelationClustering(3, random_state=0)
    svi = PhasedSVI(
        regression(),
        AutoMeanField,
        Adam,
        regroup=Regroup(clusterer, steps=10, stop=10),
        callbacks=[monitor],
    )
    svi.run([data()] * 9, 1, progress=False)
    path = monitor.trajectories["weights"].means.clone()
    assert len(path) == 4
    svi.regroup()
    labels = CorrelationClustering(3, random_state=0).fit_predict(path.T.numpy())
    assert adjusted_rand_score(labels, svi.model.assignment.index) == 1.0
    assert svi.phase == 1


def test_without_a_monitor_it_says_so():
    svi = PhasedSVI(
        regression(), AutoMeanField, Adam, regroup=Regroup(CorrelationClustering(2), steps=99)
    )
    svi.step(*data())
    with pytest.raises(ValueError, match="put a Monitor among the callbacks"):
        svi.regroup()
    assert svi.phase == 0


def test_draws_of_a_guide_show_weights_that_move_together():
    model = BayesianModule(nn.Linear(11, 1), likelihoods.Normal())
    batch = torch.randn(5, 11), torch.randn(5, 1)
    guide = AutoLowRank(model, rank=2)
    guide.setup(*batch)
    sides = torch.arange(12) % 2
    with torch.no_grad():
        guide.factors["weights"].copy_(9 * torch.eye(2)[sides])
    given = weight_posteriors(model, guide, *batch)["weights"]
    strategy = Cluster(CorrelationClustering(2, random_state=0), "draws")
    found = strategy.propose(given)
    assert adjusted_rand_score(sides, found.index) == 1.0


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Cluster(CorrelationClustering(), soft=2), TypeError, "no predict_proba"),
        (lambda: Cluster(DeconvolvedMixture(), soft="yes"), ValueError, "soft: expected a number"),
        (partial(Cluster, GaussianMixture(2), "sd"), ValueError, "features: expected one of"),
    ],
)
def test_bad_options(make, error, match):
    with pytest.raises(error, match=match):
        make()
