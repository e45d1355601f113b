# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Mean and standard deviation of every weight, from any posterior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..guides import posterior_draws, posterior_moments
from ..nn import BayesianModule
from ..packed import packed_weights

Posterior: TypeAlias = "Any"  # a guide, draws by site, or WeightMoments
DRAWS = 200  # from a guide of a model that is not centered


@dataclass(frozen=True)
class WeightMoments:
    """
    Mean and standard deviation of a net's packed weights.

    Example::

        >>> from pyro_groupprior.comparison import WeightMoments
        >>> moments = WeightMoments(torch.tensor([0.0, -2.0]), torch.tensor([1.0, 0.5]))
        >>> moments.snr
        tensor([0., 4.])

    :param Tensor mean: shape ``[W]``.
    :param Tensor sd: likewise, not negative; zero for a weight that is known.
    :raises ValueError: if shapes differ, a number is NaN, or a standard deviation negative.
    """

    mean: Tensor
    sd: Tensor

    def __post_init__(self) -> None:
        if self.mean.dim() != 1 or self.sd.shape != self.mean.shape:
            raise ValueError(
                f"mean, sd: expected the same shape [W], got {tuple(self.mean.shape)} and "
                f"{tuple(self.sd.shape)}"
            )
        if bool(self.mean.isnan().any()) or not bool((self.sd >= 0).all()):
            raise ValueError("mean, sd: expected numbers, and standard deviations of 0 or more")

    @property
    def snr(self) -> Tensor:
        """``|mean| / sd`` of each weight; 0 where both are."""
        return torch.where(self.mean == 0, 0.0, self.mean.abs() / self.sd)


@torch.no_grad()
def weight_moments(model: BayesianModule, posterior: Posterior) -> WeightMoments:
    """
    Posterior mean and standard deviation of a net's weights.

    Example::

        >>> from pyro_groupprior.comparison import weight_moments
        >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal())
        >>> draws = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
        >>> weight_moments(model, {"weights": draws}).mean
        tensor([2., 2., 2.])

    :param BayesianModule model: the net.
    :param posterior: a guide, draws by site of which there are two or more, such as of MCMC or the
        packed weights of an ensemble's members, or :class:`WeightMoments`.
    :raises TypeError: if the guide is a point, of which there is no standard deviation.
    :raises ValueError: if there are no draws of the weights, or fewer than two, or moments do not
        fit the net.
    """
    size = model.layout.num_weights
    if isinstance(posterior, WeightMoments):
        if len(posterior.mean) != size:
            raise ValueError(f"posterior: expected moments [{size}], got [{len(posterior.mean)}]")
        return posterior
    if not isinstance(posterior, Mapping) and model.centered:
        found = WeightMoments(*posterior_moments(posterior, model.site))
        if not bool(found.sd.any()):
            raise TypeError(
                f"posterior: expected one with standard deviations, got a point of "
                f"{type(posterior).__name__}; of AutoLaplaceApproximation take what "
                "laplace_approximation(...) returns"
            )
        return found
    draws = posterior if isinstance(posterior, Mapping) else posterior_draws(posterior, DRAWS)
    weights = packed_weights(model, draws)
    if len(weights) < 2:
        raise ValueError(f"posterior: expected two or more draws, got {len(weights)}")
    return WeightMoments(weights.mean(0), weights.std(0))
