# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Softened and drawn assignments, by their definitions and frequencies."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from pyro_groupprior import Annealed, Assignment, Cluster, Sampled, WeightPosterior

SIZE = 400


class Given:
    """A strategy that proposes one assignment for ever."""

    def __init__(self, assignment):
        self.assignment = assignment

    def propose(self, posterior):
        return self.assignment


def posterior(phase=0, size=SIZE) -> WeightPosterior:
    one = torch.ones(size)
    present = Assignment(torch.zeros(size, dtype=torch.long))
    return WeightPosterior(torch.randn(size), one, one, present, phase=phase)


def soft(size=SIZE) -> Assignment:
    shares = torch.distributions.Dirichlet(torch.ones(4)).sample((size,))
    return Assignment.from_dense(shares, 3)


@pytest.mark.parametrize(("temperature", "phases"), [(4.0, 5), (1.0, 2), (100.0, 3)])
def test_temperature_falls_geometrically_to_one(temperature, phases):
    annealed = Annealed(Given(None), temperature, phases)
    course = [annealed.temperature_at(phase) for phase in range(phases + 3)]
    assert course[:phases] == pytest.approx(list(np.geomspace(temperature, 1, phases)))
    assert course[phases - 1 :] == [1.0] * 4


def test_responsibilities_are_flattened_by_the_temperature():
    given = soft()
    shares = given.responsibilities.double().numpy()
    entropies = []
    for phase in range(4):
        annealed = Annealed(Given(given), temperature=8.0, phases=4)
        found = annealed.propose(posterior(phase))
        expected = shares ** (1 / annealed.temperature_at(phase))
        expected /= expected.sum(1, keepdims=True)
        np.testing.assert_allclose(found.responsibilities, expected, rtol=1e-5)
        assert torch.equal(found.index, given.index) and found.num_groups == given.num_groups
        entropies.append(stats.entropy(found.responsibilities.numpy(), axis=1).mean())
    assert (np.diff(entropies) < 0).all()
    assert annealed.propose(posterior(3)) is given


def test_draws_have_the_responsibilities_as_frequencies():
    given = soft(5)
    sampled = Sampled(Given(given), seed=3)
    draws = torch.stack([sampled.propose(posterior(phase)).index for phase in range(4000)])
    for weight, dense in enumerate(given.dense()):
        counts = torch.bincount(draws[:, weight], minlength=4).numpy()
        possible = dense.numpy() > 0
        assert not counts[~possible].any()
        expected = 4000 * dense.double().numpy()[possible]
        expected *= 4000 / expected.sum()
        assert stats.chisquare(counts[possible], expected).pvalue > 1e-4


def test_draws_of_many_weights():
    given = soft(50_000)
    found = Sampled(Given(given)).propose(posterior())
    assert not found.is_soft and found.num_groups == given.num_groups
    torch.testing.assert_close(found.sizes() / 5e4, given.sizes() / 5e4, atol=0.01, rtol=0)
    own = given.dense().gather(1, found.index.long().unsqueeze(1))
    assert bool((own > 0).all())


def test_draws_depend_on_seed_and_phase_only():
    given = soft()
    one = Sampled(Given(given), seed=1).propose(posterior(2))
    torch.manual_seed(123)
    found = posterior(2)
    state = torch.get_rng_state()
    assert Sampled(Given(given), seed=1).propose(found) == one
    assert torch.equal(torch.get_rng_state(), state)
    assert Sampled(Given(given), seed=2).propose(found) != one
    assert Sampled(Given(given), seed=1).propose(replace(found, phase=3)) != one


def test_around_a_clusterer():
    mixture = Cluster(GaussianMixture(3, random_state=0), soft=3)
    plain = mixture.propose(found := posterior())
    softened = Annealed(mixture, temperature=3.0).propose(found)
    assert torch.equal(softened.hard().index, plain.hard().index)
    assert softened.responsibilities.amax(1).mean() < plain.responsibilities.amax(1).mean()
    drawn = Sampled(mixture).propose(found)
    assert 0 < drawn.churn(plain.hard()) < 0.7


@pytest.mark.parametrize("wrap", [Annealed, Sampled])
def test_hard_strategies_are_refused(wrap):
    with pytest.raises(ValueError, match="strategy: expected soft assignments"):
        wrap(Cluster(KMeans(2, random_state=0))).propose(posterior())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"temperature": 0.5}, "temperature: expected a number of at least 1, got 0.5"),
        ({"temperature": float("nan")}, "temperature"),
        ({"phases": 1}, "phases: expected at least 2, got 1"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        Annealed(Given(None), **options)
