# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What draws of assignments say, against scikit-learn, ArviZ and plain loops."""

import arviz
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from pyro_groupprior.mcmc import GibbsResult


def result(draws, num_groups, samples=None, log_joint=None):
    """Of group indices, shape ``[chains, draws, W]``."""
    shape = draws.shape[:2]
    shares = torch.full((*shape, num_groups), 1 / num_groups)
    log_joint = torch.randn(shape) if log_joint is None else log_joint
    return GibbsResult(
        samples or {}, {"w": draws.to(torch.int8)}, {"w": shares}, log_joint, torch.zeros(shape[0])
    )


def noisy(num_draws=60, num_weights=12, num_groups=3, chains=2, flips=0.15):
    """Draws about one grouping."""
    truth = torch.arange(num_weights) % num_groups
    draws = truth.expand(chains, num_draws, num_weights)
    other = torch.randint(num_groups, draws.shape)
    return torch.where(torch.rand(draws.shape) < flips, other, draws)


@given(st.integers(0, 10_000))
def test_nothing_depends_on_labels(seed):
    torch.manual_seed(seed)
    draws = noisy()
    names = torch.stack([torch.randperm(3) for _ in range(draws[..., 0].numel())])
    switched = names.reshape(*draws.shape[:2], 3).gather(-1, draws)
    one, other = result(draws, 3), result(switched, 3)
    torch.testing.assert_close(one.co_clustering("w"), other.co_clustering("w"))
    first, second = one.responsibilities("w"), other.responsibilities("w")
    # The groups themselves may be numbered in another order.
    order = [int((first[:, g, None] - second).abs().sum(0).argmin()) for g in range(3)]
    # Where overlaps tie, either label will do: a few of the 120 draws.
    torch.testing.assert_close(first, second[:, order], atol=5 / 120, rtol=0.0)
    points = one.point_assignment("w").index, other.point_assignment("w").index
    assert adjusted_rand_score(*points) == 1.0


def test_responsibilities_are_shares_of_the_draws():
    draws = noisy()
    shares = result(draws, 3).responsibilities("w", relabel=False)
    expected = [[float((draws[..., i] == g).double().mean()) for g in range(3)] for i in range(12)]
    torch.testing.assert_close(shares, torch.tensor(expected))


def test_relabelling_undoes_label_switching():
    draws = noisy(flips=0.05)
    names = torch.stack([torch.randperm(3) for _ in range(120)]).reshape(2, 60, 3)
    found = result(names.gather(-1, draws), 3).responsibilities("w")
    truth = torch.arange(12) % 3
    assert adjusted_rand_score(truth, found.argmax(1)) == 1.0
    torch.testing.assert_close(found.max(1).values, (draws == truth).float().mean((0, 1)))


def test_co_clustering_counts_pairs():
    draws = noisy()
    flat = draws.flatten(0, 1)
    expected = (flat[:, :, None] == flat[:, None, :]).float().mean(0)
    torch.testing.assert_close(result(draws, 3).co_clustering("w"), expected)


@pytest.mark.parametrize("num_groups", [1, 2, 4])
def test_point_assignment_has_the_largest_mean_rand_index(num_groups):
    draws = torch.randint(num_groups, (1, 25, 9))
    draws[0, 3:6] = 0  # one group only
    rows = draws[0].numpy()
    means = [np.mean([adjusted_rand_score(one, other) for other in rows]) for one in rows]
    point = result(draws, num_groups).point_assignment("w")
    assert point.num_groups == num_groups
    chosen = [row.tolist() for row in rows].index(point.index.tolist())
    assert means[chosen] == pytest.approx(max(means))


def test_sizes_and_many_draws():
    draws = noisy(num_draws=1500, chains=1)
    found = result(draws, 4)
    assert found.sizes("w").shape == (1, 1500, 4)
    assert torch.equal(found.sizes("w")[0, 7], torch.bincount(draws[0, 7], minlength=4))
    assert (found.sizes("w")[..., 3] == 0).all()
    torch.testing.assert_close(found.responsibilities("w").sum(1), torch.ones(12))
    point = found.point_assignment("w")
    assert adjusted_rand_score(point.index, torch.arange(12) % 3) > 0.5


def test_diagnostics_are_those_of_arviz():
    weights, draws = torch.randn(2, 60, 3), noisy()
    found = result(draws, 3, {"w": weights, "w_loc": torch.randn(2, 60, 3)})
    table = found.diagnostics()
    assert list(table.index) == ["log_joint", "w_occupied", "w_sizes", "w"]
    each = [weights[..., i].double().numpy() for i in range(3)]
    assert table.rhat["w"] == pytest.approx(max(float(arviz.rhat(e)) for e in each))
    assert table.ess["w"] == pytest.approx(min(float(arviz.ess(e)) for e in each))
    assert table.rhat["w_occupied"] == 1.0  # all groups in use in all draws
    assert found.converged == (table.rhat.max() < 1.05)


def test_convergence_is_seen_and_missed_where_it_should_be():
    draws = noisy(400)
    assert result(draws, 3).converged
    merged = draws.clone()
    merged[1] = 0
    assert not result(merged, 3).converged
    assert np.isinf(result(merged, 3).diagnostics().rhat["w_occupied"])
    drifting = torch.linspace(0, 3, 400).expand(1, 400) + torch.randn(1, 400)
    assert not result(draws[:1], 3, log_joint=drifting).converged
    assert result(draws[:1], 3).converged
    broken = torch.randn(2, 400)
    broken[0, 5] = torch.nan
    assert not result(draws, 3, log_joint=broken).converged


def test_refusals_name_the_argument():
    found = result(noisy(num_draws=5), 3)
    for method in ("responsibilities", "co_clustering", "point_assignment", "sizes"):
        with pytest.raises(ValueError, match=r"name: expected one of \['w'\], got 'v'"):
            getattr(found, method)("v")
    with pytest.raises(ValueError, match="draws: expected at least 8 a chain"):
        found.diagnostics()
    large = result(torch.zeros(1, 1, 5001), 1)
    with pytest.raises(ValueError, match=r"w: expected at most 5000 weights .* got 5001"):
        large.co_clustering("w")
