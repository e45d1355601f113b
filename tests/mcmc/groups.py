# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A small regression in two groups, and how draws of its groups are held against the truth."""

import arviz
import torch

LOC, SCALE = torch.tensor([-0.5, 1.0]), torch.tensor([0.3, 0.8])


def tiny_data(num_weights, rows=8):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(rows, num_weights, generator=generator)
    truth = torch.tensor([-0.6, 1.3])[torch.arange(num_weights) % 2]
    return x, x @ truth + 0.7 * torch.randn(rows, generator=generator)


def assert_agrees(draws, expected):
    """Means of draws, shape ``[chains, draws, ...]``, within 4 standard errors of the truth."""
    draws, expected = draws.double().flatten(2), expected.flatten()
    ess = torch.tensor([float(arviz.ess(d.numpy(), method="mean")) for d in draws.unbind(2)])
    error = 4 * (expected * (1 - expected) / ess).sqrt() + 1e-6
    difference = (draws.mean((0, 1)) - expected).abs()
    assert (ess > 30).all(), ess
    assert (difference < error).all(), (difference, error)


def upper(matrix):
    """The entries above the diagonal."""
    rows, columns = torch.triu_indices(*matrix.shape, 1)
    return matrix[rows, columns]


def pairs(z):
    """Which pairs of different weights share a group."""
    rows, columns = torch.triu_indices(z.shape[-1], z.shape[-1], 1)
    return z[..., rows] == z[..., columns]
