# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The exact posterior over all hard assignments, for a handful of weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .gibbs import log_partition_prior, positive

_BATCH = 4096


@dataclass(frozen=True)
class EnumeratedPosterior:
    """
    The posterior over all ``G ** W`` hard assignments, as :func:`enumerate_assignments` gives it.

    :param Tensor assignments: group indices, int64, shape ``[G ** W, W]``.
    :param Tensor log_probs: of each, summing to one, float64, shape ``[G ** W]``.
    :param Tensor responsibilities: the probability that a weight is in a group, ``[W, G]``.
    :param Tensor co_clustering: the probability that two weights share a group, ``[W, W]``.
    :param float log_evidence: the log probability of the data, assignments summed out.
    """

    assignments: Tensor
    log_probs: Tensor
    responsibilities: Tensor
    co_clustering: Tensor
    log_evidence: float


@torch.no_grad()
def enumerate_assignments(
    log_evidence: Callable[[Tensor], Tensor],
    num_weights: int,
    num_groups: int,
    log_weights: Tensor | None = None,
    concentration: float | None = None,
    max_assignments: int = 2**20,
) -> EnumeratedPosterior:
    """
    The exact posterior over assignments, by going through all of them.

    Example, two observed weights that are near the first and the second of two groups::

        >>> from pyro_groupprior.mcmc import enumerate_assignments
        >>> loc = torch.tensor([-1.0, 1.0])
        >>> density = lambda z: dist.Normal(loc[z], 1.0).log_prob(torch.tensor([-1.0, 1.0])).sum(1)
        >>> enumerate_assignments(density, num_weights=2, num_groups=2).responsibilities
        tensor([[0.8808, 0.1192],
                [0.1192, 0.8808]], dtype=torch.float64)

    :param log_evidence: gives ``log p(data | assignment)``, shape ``[B]``, for group indices of
        shape ``[B, W]``; see :func:`linear_log_evidence`.
    :param Tensor log_weights: log proportions of the groups in the prior, shape ``[G]``; they are
        normalised. Default: all equal.
    :param float concentration: instead of ``log_weights``: the proportions have a symmetric
        Dirichlet prior with this concentration and are integrated out.
    :param int max_assignments: refuse to go through more.
    :raises ValueError: if there are too many assignments, or an argument is out of range.
    """
    for name, number in (("num_weights", num_weights), ("num_groups", num_groups)):
        if number < 1:
            raise ValueError(f"{name}: expected a positive number, got {number}")
    total = num_groups**num_weights
    if total > max_assignments:
        raise ValueError(
            f"max_assignments: expected at most {max_assignments} assignments, but {num_weights} "
            f"weights in {num_groups} groups have {num_groups}**{num_weights}"
        )
    if concentration is not None:
        positive("concentration", concentration)
        if log_weights is not None:
            raise ValueError("concentration: expected log_weights or concentration, got both")
    elif log_weights is None:
        log_weights = torch.zeros(num_groups)
    if log_weights is not None and log_weights.shape != (num_groups,):
        raise ValueError(
            f"log_weights: expected shape [{num_groups}], got {tuple(log_weights.shape)}"
        )
    digits = num_groups ** torch.arange(num_weights - 1, -1, -1)
    z = torch.arange(total)[:, None] // digits % num_groups
    parts = [log_evidence(part).double() for part in z.split(_BATCH)]
    if any(part.shape != (len(batch),) for part, batch in zip(parts, z.split(_BATCH))):
        raise ValueError("log_evidence: expected one number for each row of indices")
    sizes = torch.stack([(z == group).sum(1) for group in range(num_groups)], 1).double()
    if concentration is not None:
        log_prior = log_partition_prior(sizes, concentration)
    else:
        assert log_weights is not None
        log_prior = (log_weights.double().log_softmax(0)[z]).sum(1)
    log_joint = torch.cat(parts) + log_prior
    log_total = log_joint.logsumexp(0)
    log_probs = log_joint - log_total
    probs = log_probs.exp()
    members = [(z == group).double() for group in range(num_groups)]
    return EnumeratedPosterior(
        z,
        log_probs,
        torch.stack([probs @ member for member in members], 1),
        torch.stack([(member * probs[:, None]).T @ member for member in members]).sum(0),
        float(log_total),
    )


def linear_log_evidence(
    x: Tensor,
    y: Tensor,
    noise: float,
    loc: Tensor,
    scale: Tensor,
    base_scale: Tensor | float | None = None,
    loc_sd: Tensor | float = 0.0,
) -> Callable[[Tensor], Tensor]:
    r"""
    ``log p(y | assignment)`` of a linear regression under group priors, weights integrated out, for
    :func:`enumerate_assignments`. With :math:`B = diag(b)` and :math:`Z` the assignment as a matrix
    of zeros and ones,

    .. math:: y \sim Normal(X B Z\,loc,\; \sigma^2 I + X B\,[diag(scale_z^2)
        + Z\,diag(loc\_sd^2)\,Z^T]\,B X^T).

    Example::

        >>> from pyro_groupprior.mcmc import linear_log_evidence
        >>> log_evidence = linear_log_evidence(
        ...     torch.ones(1, 1), torch.zeros(1), 0.6, torch.zeros(1), torch.tensor([0.8]))
        >>> log_evidence(torch.zeros(1, 1, dtype=torch.long))  # the density of Normal(0, 1) at 0
        tensor([-0.9189], dtype=torch.float64)

    :param Tensor x: inputs, shape ``[N, W]``.
    :param Tensor y: observations, shape ``[N]``.
    :param float noise: their known standard deviation, positive.
    :param Tensor loc: the groups' locations, shape ``[G]``, in units of the base scale.
    :param Tensor scale: the groups' scales, shape ``[G]``, not negative, in the same units.
    :param base_scale: a number, or shape ``[W]``. Default: 1.
    :param loc_sd: for groups' locations that are latent, ``Normal(loc, loc_sd)``, and integrated
        out as well: their standard deviation, a number or shape ``[G]``. Default: known locations.
    :raises ValueError: if shapes do not fit or the noise is not positive.
    """
    positive("noise", noise)
    if x.dim() != 2 or y.shape != x.shape[:1]:
        raise ValueError(
            f"x: expected shape [N, W] with y of shape [N], got {tuple(x.shape)} and "
            f"{tuple(y.shape)}"
        )
    if loc.dim() != 1 or scale.shape != loc.shape:
        raise ValueError(
            f"scale: expected the shape [G] of loc, got {tuple(scale.shape)} and {tuple(loc.shape)}"
        )
    x, y, loc, scale = (tensor.detach().double() for tensor in (x, y, loc, scale))
    if base_scale is not None:
        x = x * torch.as_tensor(base_scale).double()
    spread = torch.as_tensor(loc_sd).double().expand_as(loc)
    # Rotated so that the weights reach only the first W rows; in the others there is but noise.
    q, x = torch.linalg.qr(x)
    rotated = q.T @ y
    rest = torch.distributions.Normal(0.0, noise)
    spare = len(y) - len(rotated)
    left = (y.square().sum() - rotated.square().sum()).clamp(min=0.0)
    constant = spare * rest.log_prob(torch.zeros((), dtype=y.dtype)) - left / (2 * noise**2)
    eye = noise**2 * torch.eye(len(rotated), dtype=y.dtype)

    def log_evidence(index: Tensor) -> Tensor:
        inputs = x.expand(len(index), *x.shape)
        covariance = eye + inputs * scale[index].square().unsqueeze(1) @ x.T
        # Columns of a group add up to one column for its location.
        summed = inputs @ torch.nn.functional.one_hot(index, len(loc)).double()
        covariance = covariance + summed * spread.square() @ summed.mT
        prior = torch.distributions.MultivariateNormal(summed @ loc, covariance)
        return prior.log_prob(rotated) + constant

    return log_evidence
