# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Clustering of posterior moments by scikit-learn's estimators."""

import numpy as np
import pytest
import torch
from sklearn.cluster import DBSCAN, AgglomerativeClustering, KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler

from pyro_groupprior import Assignment, Cluster, WeightPosterior

TRUTH = torch.arange(120) % 3
CLUSTERERS = {
    "kmeans": KMeans(3, n_init=2, random_state=0),
    "agglomerative": AgglomerativeClustering(3),
    "mixture": GaussianMixture(3, random_state=0),
    "dbscan": DBSCAN(eps=0.3, min_samples=3),
}


def posterior(mean, sd=None, base=None, device="cpu") -> WeightPosterior:
    one = torch.ones_like(mean)
    present = Assignment(torch.zeros(len(mean), dtype=torch.long))
    return WeightPosterior(mean, one if sd is None else sd, one if base is None else base, present)


def blobs() -> WeightPosterior:
    """Three groups that only show in units of the base scale."""
    base = torch.linspace(0.01, 10.0, 120)
    z = torch.tensor([-5.0, 0.0, 4.0])[TRUTH] + 0.1 * torch.randn(120)
    return posterior(base * z, base, base)


@pytest.mark.parametrize("clusterer", CLUSTERERS)
@pytest.mark.parametrize("features", ["mean", "moments"])
@pytest.mark.parametrize("max_points", [20_000, 60])
def test_finds_planted_groups(clusterer, features, max_points):
    strategy = Cluster(CLUSTERERS[clusterer], features, max_points=max_points)
    found = strategy.propose(blobs())
    assert adjusted_rand_score(TRUTH, found.index) == 1.0
    assert found.num_groups == 3 and not found.is_soft


@pytest.mark.parametrize("clusterer", ["kmeans", "mixture", "agglomerative"])
def test_spread_counts_where_it_is_asked_for(clusterer):
    sd = torch.tensor([0.1, 1.0, 10.0])[TRUTH] * torch.empty(120).uniform_(0.9, 1.1)
    flat = posterior(torch.zeros(120), sd)
    found = Cluster(CLUSTERERS[clusterer], "moments").propose(flat)
    assert adjusted_rand_score(TRUTH, found.index) == 1.0


@pytest.mark.parametrize("features", ["mean", "moments"])
@pytest.mark.parametrize("clusterer", ["kmeans", "mixture"])
def test_same_as_scikit_learn_on_standardised_points(clusterer, features):
    found = posterior(torch.randn(120), torch.rand(120) + 0.1, torch.rand(120) + 0.5)
    columns = [found.mean / found.base_scale]
    if features == "moments":
        columns.append((found.sd / found.base_scale).log())
    points = StandardScaler().fit_transform(torch.stack(columns, 1).double().numpy())
    expected = CLUSTERERS[clusterer].fit_predict(points)
    proposal = Cluster(CLUSTERERS[clusterer], features).propose(found)
    assert adjusted_rand_score(expected, proposal.index) == 1.0


@pytest.mark.parametrize("top_k", [1, 2, 3, 7])
def test_soft_responsibilities_are_the_mixtures_own(top_k):
    overlapping = posterior(torch.cat([torch.randn(80), torch.randn(40) + 2]))
    mixture = GaussianMixture(3, random_state=0)
    points = StandardScaler().fit_transform(overlapping.mean.double().numpy()[:, None])
    expected = mixture.fit(points).predict_proba(points)
    for row in expected:
        row[np.argsort(row)[:-top_k]] = 0.0
    expected /= expected.sum(1, keepdims=True)
    proposal = Cluster(mixture, soft=top_k).propose(overlapping)
    assert proposal.is_soft and proposal.index.shape == (120, min(top_k, 3))
    np.testing.assert_allclose(proposal.dense(), expected, atol=1e-4)


def test_noise_of_dbscan_is_a_group_of_its_own():
    mean = torch.cat([torch.zeros(20), torch.ones(20), torch.tensor([50.0, -70.0])])
    found = Cluster(DBSCAN(eps=0.01)).propose(posterior(mean))
    assert found.num_groups == 3
    assert found.sizes().sort().values.tolist() == [2.0, 20.0, 20.0]
    assert found.index[-1] == found.index[-2]


@pytest.mark.parametrize("max_points", [20_000, 30])
@pytest.mark.parametrize("eps", [100.0, 1e-9], ids=["one cluster", "noise only"])
def test_a_single_group_is_fine(eps, max_points):
    found = Cluster(DBSCAN(eps=eps), max_points=max_points).propose(posterior(torch.randn(60)))
    assert found == Assignment(torch.zeros(60, dtype=torch.long))


def test_equal_weights_make_one_point():
    found = Cluster(AgglomerativeClustering(2)).propose(posterior(torch.full((5,), 3.0)))
    assert found.num_groups == 2


class Sparse(KMeans):
    """Leaves a label unused, as estimators may."""

    def predict(self, points):
        return super().predict(points) * 2

    def fit_predict(self, points, y=None):
        return self.fit(points).predict(points)


def test_labels_are_numbered_without_gaps():
    found = Cluster(Sparse(3, n_init=1, random_state=0)).propose(blobs())
    assert found.num_groups == 3 and (found.sizes() == 40).all()


def test_the_estimator_given_is_left_alone():
    given = KMeans(3, random_state=0)
    Cluster(given).propose(blobs())
    assert not hasattr(given, "labels_")


def test_subsample_is_drawn_by_the_seed():
    points = posterior(torch.randn(200))
    mixture = GaussianMixture(4, random_state=0)
    one, again, other = (
        Cluster(mixture, max_points=40, seed=seed).propose(points) for seed in (1, 1, 2)
    )
    assert one == again
    assert adjusted_rand_score(one.index, other.index) < 1.0


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Cluster(object()), TypeError, "scikit-learn clusterer, got object"),
        (lambda: Cluster(StandardScaler()), TypeError, "StandardScaler"),
        (lambda: Cluster(KMeans(2), features="sd"), ValueError, "features"),
        (lambda: Cluster(KMeans(2), soft=2), TypeError, "no predict_proba"),
        (lambda: Cluster(GaussianMixture(2), soft=0), ValueError, "soft"),
        (lambda: Cluster(KMeans(2), max_points=1), ValueError, "max_points"),
    ],
)
def test_bad_options(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["mean", "sd"])
def test_moments_that_are_not_finite(bad, where):
    values = {"mean": torch.zeros(4), "sd": torch.ones(4)}
    values[where][2] = bad
    with pytest.raises(FloatingPointError, match="finite"):
        Cluster(KMeans(2), "moments").propose(posterior(**values))
