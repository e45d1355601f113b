# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A regroup depends neither on the order of the weights nor on the names of the groups."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from pyro_groupprior import (
    Assignment,
    AutoMeanField,
    BinnedGaussianMixture,
    Cluster,
    CorrelationClustering,
    DeconvolvedMixture,
    Naive,
    PhasedSVI,
    Regroup,
    WeightPosterior,
    match_groups,
)
from tests.svi.runs import NUM_WEIGHTS, THREE, Adam, data, regression

SIZE = 90
STRATEGIES = {
    "naive": Naive(3),
    "deconvolved": Cluster(DeconvolvedMixture(5)),
    "deconvolved hard": Cluster(DeconvolvedMixture(3, criterion=None), soft=None),
    "binned": Cluster(BinnedGaussianMixture(3, n_bins=(40, 40), random_state=0)),
    "correlation": Cluster(CorrelationClustering(3, random_state=0)),
    "kmeans on evidence": Cluster(KMeans(3, n_init=3, random_state=0), "estimate"),
}


def posterior(seed=0) -> WeightPosterior:
    rng = torch.Generator().manual_seed(seed)
    kind = torch.arange(SIZE) % 3
    base = torch.rand(SIZE, generator=rng, dtype=torch.float64) + 0.2
    z = 4.0 * (kind - 1) + 0.3 * torch.randn(SIZE, generator=rng, dtype=torch.float64)
    sd = 0.1 + 0.2 * torch.rand(SIZE, generator=rng, dtype=torch.float64)
    path = torch.randn(12, 3, generator=rng)[:, kind] + 0.1 * torch.randn(12, SIZE, generator=rng)
    present = Assignment(torch.randint(0, 3, (SIZE,), generator=rng), 3)
    prior = {"prior_loc": 0 * base, "prior_scale": 3 * base}
    return WeightPosterior(base * z, base * sd, base, present, trajectory=path, **prior)


def permuted(found: WeightPosterior, order: torch.Tensor) -> WeightPosterior:
    names = ("mean", "sd", "base_scale", "prior_loc", "prior_scale")
    present = Assignment(found.assignment.index[order], found.assignment.num_groups)
    return replace(
        found,
        trajectory=found.trajectory[:, order],
        assignment=present,
        **{name: getattr(found, name)[order] for name in names},
    )


def assert_same_up_to_names(one: Assignment, other: Assignment) -> None:
    matched, source = match_groups(one, other)
    assert source.tolist() == list(range(one.num_groups))
    torch.testing.assert_close(matched.dense(), one.dense(), atol=2e-3, rtol=0)


@settings(max_examples=5)
@given(seed=st.integers(0, 1000))
@pytest.mark.parametrize("name", STRATEGIES)
def test_order_of_the_weights_is_moot(name, seed):
    found = posterior(seed)
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(seed))
    one = STRATEGIES[name].propose(found)
    other = STRATEGIES[name].propose(permuted(found, order))
    back = torch.argsort(order)
    shares = None if other.responsibilities is None else other.responsibilities[back]
    assert_same_up_to_names(one, Assignment(other.index[back], other.num_groups, shares))


@settings(max_examples=5)
@given(names=st.permutations(list(range(3))))
@pytest.mark.parametrize("name", STRATEGIES)
def test_names_of_the_present_groups_are_moot(name, names):
    found = posterior()
    renamed = replace(found, assignment=found.assignment.relabel(torch.tensor(names)))
    assert STRATEGIES[name].propose(renamed) == STRATEGIES[name].propose(found)


@pytest.mark.parametrize("names", [[1, 2, 0], [2, 1, 0]])
def test_a_run_with_other_names_is_the_same_run(names):
    """Group parameters follow their group through training and a regroup, whatever its name."""
    labels = torch.tensor(names)
    runs = []
    for grouping in (THREE, labels[THREE]):
        torch.manual_seed(0)
        model = regression(grouping=grouping, scale=1.0, loc=0.0)
        svi = PhasedSVI(model, AutoMeanField, Adam, regroup=Regroup(Naive(4), steps=5))
        torch.manual_seed(1)
        for _ in range(8):
            svi.step(*data())
        runs.append(svi)
    one, other = runs
    assert_same_up_to_names(one.model.assignment, other.model.assignment)
    first, second = (run.history.phases[-1] for run in runs)
    assert sorted(first.sizes) == sorted(second.sizes)
    assert first.rand_index == pytest.approx(second.rand_index)
    assert first.churn == pytest.approx(second.churn)
    for name, value in one.guide.state_dict().items():
        torch.testing.assert_close(value, other.guide.state_dict()[name])


@settings(max_examples=10)
@given(st.lists(st.integers(0, 3), min_size=NUM_WEIGHTS, max_size=NUM_WEIGHTS))
def test_hyperparameters_follow_their_group(index):
    """For any proposal: a group that goes on keeps its parameters bit by bit."""

    class Proposes:
        def propose(self, posterior):
            return Assignment(torch.tensor(index), 4)

    svi = PhasedSVI(regression(), AutoMeanField, Adam, regroup=Regroup(Proposes(), steps=10**6))
    for _ in range(2):
        svi.step(*data())
    old = {name: value.clone() for name, value in svi.guide.state_dict().items()}
    _, source = match_groups(svi.model.assignment, Assignment(torch.tensor(index), 4))
    svi.regroup()
    new = svi.guide.state_dict()
    kept = source >= 0
    assert svi.model.assignment.num_groups == 4
    for name, value in new.items():
        if name.endswith(("weights_loc", "weights_scale")):
            assert torch.equal(value[kept], old[name][source[kept]]), name
        else:
            assert torch.equal(value, old[name]), name
