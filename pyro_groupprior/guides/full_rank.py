# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The full-rank guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions.kl import register_kl

from .base import SiteGuide
from .draws import standardized_cholesky
from .initialization import init_to_weights
from .latent import LatentSite, inverse_softplus
from .low_rank import kl_from_independent_normal


class AutoFullRank(SiteGuide):
    """
    A normal posterior with a full covariance over each site with an event dimension, such as
    weights; all other sites as in :class:`AutoMeanField` ("full-rank ADVI", Kucukelbir et al.
    2017). For up to a few thousand weights, since memory and time grow with their square. In
    contrast to Pyro's AutoMultivariateNormal, weights and group parameters are independent, so
    that the divergence of the weights has a closed form and a regroup can resize the rest.

    Example::

        >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal())
        >>> guide = AutoFullRank(model)
        >>> guide.setup(torch.zeros(3, 2), torch.zeros(3, 1))
        >>> guide.factor(guide.site("weights")).covariance_matrix.shape
        torch.Size([3, 3])

    :param callable model: a Pyro model.
    :param init_loc_fn: where to start; any of Pyro's initialisation strategies.
    :param float init_scale: first posterior standard deviation, in units of the base scale for
        weights, in the unconstrained space for other sites.
    :param int max_weights: largest number of weights of a site.
    :raises ValueError: at setup, if a site has more.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        init_loc_fn: Callable[..., Any] = init_to_weights,
        init_scale: float = 0.1,
        max_weights: int = 5000,
    ) -> None:
        super().__init__(model, init_loc_fn=init_loc_fn, init_scale=init_scale)
        self.max_weights = max_weights
        self.correlations = nn.ParameterDict()

    def _add_site(self, site: LatentSite, node: Mapping[str, Any]) -> None:
        size = node["value"].shape[-1] if site.event_dim == 1 else 0
        if size > self.max_weights:
            raise ValueError(
                f"max_weights: {site.name!r} has {size} weights, whose full covariance has "
                f"{size**2} entries; expected at most {self.max_weights}. Use AutoLowRank"
            )
        super()._add_site(site, node)
        loc = self.locs[site.key]
        if site.event_dim == 1 and site.unconstrained_event_dim == 1 and loc.dim() == 1:
            self.correlations[site.key] = nn.Parameter(loc.new_zeros(size, size))

    def factor(self, site: LatentSite, batch: tuple[int, ...] = ()) -> TorchDistribution:
        if site.key not in self.correlations:
            return super().factor(site, batch)
        loc, scale = self.loc_scale(site)
        # Unit diagonal times scale, so that one learning rate fits weights of all sizes.
        below = self.correlations[site.key].tril(-1) * scale.unsqueeze(-1)
        fn = FullRankNormal(loc, scale_tril=below + scale.diag(), validate_args=False)
        return fn.expand(batch) if batch else fn

    def _fit_site(self, site: LatentSite, draws: Tensor) -> None:
        super()._fit_site(site, draws)
        if site.key in self.correlations:
            below, own = standardized_cholesky(draws)
            self.correlations[site.key].copy_(below)
            self.unconstrained_scales[site.key].copy_(
                inverse_softplus(self.loc_scale(site)[1] * own)
            )

    @property
    def num_numbers(self) -> int:
        # Of the matrices only what is below the diagonal is used.
        sizes = [len(correlation) for correlation in self.correlations.values()]
        return super().num_numbers - sum(size * (size + 1) // 2 for size in sizes)

    def marginals(self, site: LatentSite) -> tuple[Tensor, Tensor]:
        if site.key not in self.correlations:
            return super().marginals(site)
        fn = self.factor(site)
        return fn.mean, fn.variance.sqrt()


class FullRankNormal(dist.MultivariateNormal):
    """Pyro's distribution under a name of its own, for which a closed-form KL is registered."""


register_kl(FullRankNormal, torch.distributions.Independent)(kl_from_independent_normal)
