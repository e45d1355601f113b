# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The points that clusterers are given, each kind by its definition."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from pyro_groupprior import Assignment, WeightPosterior
from pyro_groupprior.regrouping.features import FEATURES, NUM_DRAWS, points_of

SIZE = 30


def posterior(**options) -> WeightPosterior:
    base = torch.rand(SIZE) + 0.2
    known = {
        "prior_loc": torch.randn(SIZE),
        "prior_scale": torch.rand(SIZE) + 1.0,
        "trajectory": torch.randn(6, SIZE),
        "draw": lambda n: torch.randn(n, SIZE),
    }
    groups = Assignment(torch.zeros(SIZE, dtype=torch.long))
    sd = torch.rand(SIZE) * 0.5 + 0.1
    return WeightPosterior(torch.randn(SIZE), sd, base, groups, **{**known, **options})


def scaled(*columns: torch.Tensor) -> np.ndarray:
    return StandardScaler().fit_transform(torch.stack(columns, 1).double().numpy())


def test_each_kind_by_its_definition():
    found = posterior()
    z, sd = found.mean / found.base_scale, found.sd / found.base_scale
    evidence = found.evidence()
    path = found.trajectory.double() - found.trajectory.double().mean(0)
    expected = {
        "mean": scaled(z),
        "moments": scaled(z, sd.log()),
        "estimate": scaled(evidence.estimate),
        "evidence": torch.stack(evidence, 1).numpy(),
        "trajectory": (path / path.norm(dim=0)).T.numpy(),
    }
    for features, points in expected.items():
        np.testing.assert_allclose(points_of(found, features), points, rtol=1e-4, atol=1e-5)


def test_draws_are_drawn_by_the_seed_and_leave_the_random_state():
    found = posterior()
    state = torch.get_rng_state()
    one, again, other = (points_of(found, "draws", seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.shape == (SIZE, NUM_DRAWS)
    assert (one == again).all() and (one != other).any()
    np.testing.assert_allclose(np.square(one).sum(1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(one.sum(1), 0.0, atol=1e-5)


@pytest.mark.parametrize("features", FEATURES)
def test_the_posterior_is_left_alone(features):
    found = posterior(draw=lambda n: torch.arange(float(n * SIZE)).sin().reshape(n, SIZE))
    kept = replace(found, mean=found.mean.clone(), sd=found.sd.clone())
    one = points_of(found, features)
    assert torch.equal(found.mean, kept.mean) and torch.equal(found.sd, kept.sd)
    assert (points_of(found, features) == one).all()


@pytest.mark.parametrize("features", [f for f in FEATURES if f != "draws"])
def test_order_of_the_weights_is_moot(features):
    found, order = posterior(), torch.randperm(SIZE)
    names = ("mean", "sd", "base_scale", "prior_loc", "prior_scale")
    permuted = replace(
        found,
        trajectory=found.trajectory[:, order],
        **{name: getattr(found, name)[order] for name in names},
    )
    one, other = points_of(found, features), points_of(permuted, features)
    np.testing.assert_allclose(one[order.numpy()], other, atol=1e-6)


@pytest.mark.parametrize("features", ["mean", "moments", "estimate"])
def test_equal_weights_make_equal_points(features):
    one = torch.ones(SIZE)
    points = points_of(posterior(), features)
    assert np.ptp(points) > 0
    equal = replace(posterior(prior_loc=0 * one, prior_scale=one), mean=one, sd=one / 2)
    points = points_of(replace(equal, base_scale=one), features)
    assert np.isfinite(points).all() and not np.ptp(points, 0).any()


@pytest.mark.parametrize(
    ("features", "lacking", "match"),
    [
        ("evidence", {"prior_loc": None}, "needs the present prior"),
        ("estimate", {"prior_scale": None}, "needs the present prior"),
        ("trajectory", {"trajectory": None}, "put a Monitor among the callbacks"),
        ("trajectory", {"trajectory": torch.zeros(2, SIZE)}, "at least 3 snapshots"),
        ("draws", {"draw": None}, "needs a posterior to draw from"),
    ],
)
def test_what_is_lacking_is_named(features, lacking, match):
    with pytest.raises(ValueError, match=match):
        points_of(posterior(**lacking), features)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("features", ["mean", "moments", "estimate", "evidence"])
def test_points_that_are_not_finite_are_refused(bad, features):
    found = posterior()
    found.mean[3] = bad
    with pytest.raises(FloatingPointError, match="expected finite"):
        points_of(found, features)
