# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What the data alone say about each weight, the prior taken out."""

from __future__ import annotations

from typing import NamedTuple

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
    mean: Tensor, sd: Tensor, prior_loc: Tensor, prior_scale: Tensor, max_noise: float = 1e3
) -> Evidence:
    r"""
    Divide the prior out of a normal posterior, weight by weight:

    .. math:: 1/t^2 = 1/s^2 - 1/v, \qquad e = t^2 (m/s^2 - a/v)

    for posterior ``N(m, s^2)`` and prior ``N(a, v)``: the cavity distribution of expectation
    propagation (Minka 2001) with the roles of prior and likelihood exchanged. To first order the
    present grouping has no say in it, which is why groups found from it do not lock in.

    Example::

        >>> one = torch.ones(1)
        >>> posterior_mean, posterior_sd = 2.0 * one, 0.5**0.5 * one  # prior N(0, 1), datum 4
        >>> cavity(posterior_mean, posterior_sd, 0.0 * one, one)
        Evidence(estimate=tensor([4.0000]), noise=tensor([1.0000]))

    :param Tensor mean: posterior means, shape ``[W]``.
    :param Tensor sd: posterior standard deviations, shape ``[W]``.
    :param Tensor prior_loc: the prior's means, shape ``[W]``.
    :param Tensor prior_scale: the prior's standard deviations, shape ``[W]``.
    :param float max_noise: largest noise, in units of the prior's scale: where the posterior is
        no narrower than the prior there is no evidence, only the noise of the optimisation.
    :raises FloatingPointError: if a number is not finite or a deviation not positive.
    """
    for name, value in (("sd", sd), ("prior_scale", prior_scale)):
        if not bool(((value > 0) & value.isfinite()).all()):
            raise FloatingPointError(f"{name}: expected finite positive deviations only")
    for name, value in (("mean", mean), ("prior_loc", prior_loc)):
        if not bool(value.isfinite().all()):
            raise FloatingPointError(f"{name}: expected finite numbers only")
    # In units of the prior, so that the bound means the same for weights of every size.
    ratio = (prior_scale / sd).square()
    precision = (ratio - 1).clamp(min=max_noise**-2)
    offset = (mean - prior_loc) * (ratio / precision)
    return Evidence(prior_loc + offset, prior_scale * precision.rsqrt())
