# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What the data alone say about each weight, the prior taken out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Evidence(NamedTuple):
    """
    A normal summary of each weight's marginal likelihood.

    :param Tensor estimate: shape ``[W]``.
    :param Tensor noise: its standard deviation, shape ``[W]``; large where the data say little.
    """

    estimate: Tensor
    noise: Tensor


def cavity(
    mean: Tensor, sd: Tensor, prior_loc: Tensor, prior_scale: Tensor, tolerance: float = 0.1
) -> Evidence:
    r"""
    Divide the prior out of a normal posterior, weight by weight:

    .. math:: \lambda = 1/s^2 - 1/v, \qquad e = (m/s^2 - a/v) / \lambda, \qquad
        t^2 = 1/\lambda + (\epsilon / (s \lambda))^2

    for posterior ``N(m, s^2)`` and prior ``N(a, v)``: the cavity distribution of expectation
    propagation (Minka 2001) with the roles of prior and likelihood exchanged. To first order the
    present grouping has no say in it, which is why groups found from it do not lock in.

    Where the prior says more than the data, a small error of the posterior mean becomes a large
    one of the estimate. The noise allows for it: ``m`` is taken to be known to
    :math:`\epsilon s` only.

    Example::

        >>> one = torch.ones(1)
        >>> posterior_mean, posterior_sd = 2.0 * one, 0.5**0.5 * one  # prior N(0, 1), datum 4
        >>> found = cavity(posterior_mean, posterior_sd, 0.0 * one, one, tolerance=0.0)
        >>> found.estimate.round(decimals=3), found.noise.round(decimals=3)
        (tensor([4.]), tensor([1.]))

    :param Tensor mean: posterior means, shape ``[W]``.
    :param Tensor sd: posterior standard deviations, shape ``[W]``.
    :param Tensor prior_loc: the prior's means, shape ``[W]``.
    :param Tensor prior_scale: the prior's standard deviations, shape ``[W]``.
    :param float tolerance: how far an optimised posterior mean may lie from where it belongs, in
        posterior standard deviations.
    :raises FloatingPointError: if a number is not finite or a deviation not positive.
    """
    estimate, noise = torch.empty_like(mean), torch.empty_like(mean)
    for start in range(0, len(mean), CHUNK):
        rows = slice(start, start + CHUNK)
        _divide(
            mean[rows],
            sd[rows],
            prior_loc[rows],
            prior_scale[rows],
            tolerance,
            estimate[rows],
            noise[rows],
        )
    # A sum over all tells of NaN and inf without a copy; its overflow is looked at more closely.
    total = estimate.sum(dtype=torch.float64) + noise.sum(dtype=torch.float64)
    if not bool(total.isfinite()):
        _explain(mean, sd, prior_loc, prior_scale)
    return Evidence(estimate, noise)


def _divide(
    mean: Tensor,
    sd: Tensor,
    prior_loc: Tensor,
    prior_scale: Tensor,
    tolerance: float,
    estimate: Tensor,
    noise: Tensor,
) -> None:
    """:func:`cavity` of some weights, written to ``estimate`` and ``noise``."""
    # In units of the prior. No posterior can be wider, but an optimised one may seem to be.
    ratio = prior_scale / sd
    # Neither may be infinite, zero or negative; then these are, or are NaN.
    valid = (sd > 0) & (ratio > 0)  # no longer so for an infinite sd
    ratio.square_().mul_(torch.where(valid, 1.0, torch.nan))
    precision = (ratio - 1).clamp_(min=MIN_PRECISION)
    torch.addcmul(prior_loc, mean - prior_loc, ratio / precision, out=estimate)
    ratio *= tolerance**2
    ratio /= precision
    ratio += 1
    ratio /= precision
    torch.mul(ratio.sqrt_(), prior_scale, out=noise)


def _explain(mean: Tensor, sd: Tensor, prior_loc: Tensor, prior_scale: Tensor) -> None:
    for name, value in (("sd", sd), ("prior_scale", prior_scale)):
        if not bool(((value > 0) & value.isfinite()).all()):
            raise FloatingPointError(f"{name}: expected finite positive deviations only")
    for name, value in (("mean", mean), ("prior_loc", prior_loc)):
        if not bool(value.isfinite().all()):
            raise FloatingPointError(f"{name}: expected finite numbers only")


CHUNK = 2**15  # weights at a time: they stay in cache, and on one thread
MIN_PRECISION = 1e-3  # of the data, over that of the prior
