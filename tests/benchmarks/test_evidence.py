# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Laplace's evidence against the marginal likelihood of a linear regression."""

import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn

from benchmarks.evidence import laplace_evidence
from pyro_groupprior import Assignment, BayesianModule, likelihoods


@pytest.mark.parametrize("soft", [False, True])
def test_a_linear_regression(soft):
    torch.manual_seed(0)
    x = torch.randn(20, 3)
    y = x @ torch.tensor([[1.0], [0.5], [-1.0]]) + 0.6 * torch.randn(20, 1)
    shares = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]) if soft else torch.eye(2)[[0, 1, 1]]
    model = BayesianModule(
        nn.Linear(3, 1, bias=False),
        likelihoods.Normal(),
        num_data=20,
        grouping=Assignment.from_dense(shares),
        base_scale=1.0,
    )
    loc, scale = torch.tensor([0.3, -0.2]), torch.tensor([0.5, 1.5])
    samples = {
        "weights": torch.randn(5, 3),
        "weights_loc": loc.repeat(5, 1),
        "weights_scale": scale.repeat(5, 1),
        "noise": torch.full((5,), 0.6),
    }
    # A weight's prior has the mean and the variance of the mixture of its groups.
    mean = shares @ loc
    variance = shares @ (scale.square() + loc.square()) - mean.square()
    covariance = x @ torch.diag(variance) @ x.T + 0.36 * torch.eye(20)
    exact = multivariate_normal((x @ mean).numpy(), covariance.double().numpy())
    expected = exact.logpdf(y[:, 0].numpy())
    assert laplace_evidence(model, samples, x, y) == pytest.approx(expected, abs=0.01)
