# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Moments of groups, against samples of the mixture that each group is, and weight by weight."""

import numpy as np
import pytest
import torch

from pyro_groupprior import Assignment, WeightPosterior
from pyro_groupprior.regrouping import group_moments


def posterior(size=40, shift=0.0, dtype=torch.float64) -> WeightPosterior:
    mean, base = torch.randn(size, dtype=dtype) + shift, torch.rand(size, dtype=dtype) + 0.1
    assignment = Assignment(torch.zeros(size, dtype=torch.long))
    return WeightPosterior(mean, torch.rand(size, dtype=dtype), base, assignment)


def soft(size: int, groups: int) -> Assignment:
    return Assignment.from_dense(torch.rand(size, groups).softmax(1), 2)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_moments_of_the_members_mixture(kind):
    found = posterior()
    assignment = soft(40, 3) if kind == "soft" else Assignment(torch.arange(40) % 3)
    loc, scale = group_moments(found, assignment)
    z = (found.mean / found.base_scale).numpy()
    variance = (found.sd / found.base_scale).square().numpy()
    shares = assignment.dense().double().numpy()
    for group in range(3):
        first = np.average(z, weights=shares[:, group])
        second = np.average(z**2 + variance, weights=shares[:, group])
        assert loc[group].item() == pytest.approx(first, rel=1e-6)
        assert scale[group].item() == pytest.approx(np.sqrt(second - first**2), rel=1e-6)


def test_hard_is_soft_with_certainty():
    found, index = posterior(), torch.arange(40) % 4
    certain = Assignment(index.unsqueeze(-1), 4, torch.ones(40, 1, dtype=torch.float64))
    for one, other in zip(
        group_moments(found, Assignment(index)), group_moments(found, certain), strict=True
    ):
        assert torch.equal(one, other)


def test_far_from_zero_in_single_precision():
    """Where the difference of two large squares would be nothing but rounding."""
    mean = 1000.0 + torch.tensor([-0.01, 0.01] * 20)
    found = WeightPosterior(
        mean, torch.zeros(40), torch.ones(40), Assignment(torch.zeros(40, dtype=torch.long))
    )
    _, scale = group_moments(found, Assignment(torch.zeros(40, dtype=torch.long)))
    assert scale.item() == pytest.approx(mean.double().std(correction=0).item(), rel=1e-2)


def test_empty_groups_and_single_points():
    found = WeightPosterior(
        torch.tensor([2.0]), torch.zeros(1), torch.tensor([0.5]), Assignment(torch.tensor([0]))
    )
    loc, scale = group_moments(found, Assignment(torch.tensor([1]), 3))
    assert loc.tolist() == [0.0, 4.0, 0.0]
    assert scale[0] == scale[2] == 1 and 0 < scale[1] <= 1e-6
