# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The low-rank guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions.kl import register_kl

from .base import SiteGuide
from .draws import shared_directions
from .initialization import init_to_weights
from .latent import LatentSite, inverse_softplus


class AutoLowRank(SiteGuide):
    """
    A normal posterior whose covariance over each vector-valued real site is diagonal plus low
    rank, ``S (I + F F') S`` with diagonal ``S``; all other sites are as in
    :class:`AutoMeanField`. Its divergence from a normal group
    prior is taken in closed form.

    Example::

        >>> model = BayesianModule(nn.Linear(20, 1), likelihoods.Normal())
        >>> guide = AutoLowRank(model, rank=4)
        >>> guide.setup(torch.zeros(3, 20), torch.zeros(3, 1))
        >>> guide.factors["weights"].shape
        torch.Size([21, 4])

    :param callable model: a Pyro model.
    :param int rank: number of shared directions of a site.
    :param init_loc_fn: where to start; any of Pyro's initialisation strategies.
    :param float init_scale: as in :class:`AutoMeanField`.
    :raises ValueError: if ``rank`` is not positive.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        rank: int = 8,
        init_loc_fn: Callable[..., Any] = init_to_weights,
        init_scale: float = 0.1,
    ) -> None:
        super().__init__(model, init_loc_fn=init_loc_fn, init_scale=init_scale)
        if rank < 1:
            raise ValueError(f"rank: expected a positive number, got {rank}")
        self.rank = rank
        self.factors = nn.ParameterDict()

    def _add_site(self, site: LatentSite, node: Mapping[str, Any]) -> None:
        super()._add_site(site, node)
        loc = self.locs[site.key]
        if site.event_dim == 1 and site.unconstrained_event_dim == 1 and loc.dim() == 1:
            # Small and random: zero is a saddle point, and most of the variance starts diagonal.
            noise = torch.randn(*loc.shape, self.rank, dtype=loc.dtype, device=loc.device)
            self.factors[site.key] = nn.Parameter(0.1 * self.rank**-0.5 * noise)

    def factor(self, site: LatentSite, batch: tuple[int, ...] = ()) -> TorchDistribution:
        if site.key not in self.factors:
            return super().factor(site, batch)
        loc, scale = self.loc_scale(site)
        # In units of the diagonal scale, so that one learning rate fits weights of all sizes.
        factor = self.factors[site.key] * scale.unsqueeze(-1)
        fn = LowRankNormal(loc, factor, scale.square(), validate_args=False)
        return fn.expand(batch) if batch else fn

    def _fit_site(self, site: LatentSite, draws: Tensor) -> None:
        super()._fit_site(site, draws)
        if site.key in self.factors:
            factor = shared_directions(draws, self.rank)
            own = self.loc_scale(site)[1] / (1 + factor.square().sum(1)).sqrt()
            self.factors[site.key].copy_(factor)
            self.unconstrained_scales[site.key].copy_(inverse_softplus(own))

    def marginals(self, site: LatentSite) -> tuple[Tensor, Tensor]:
        if site.key not in self.factors:
            return super().marginals(site)
        fn = self.factor(site)
        return fn.mean, fn.variance.sqrt()


class LowRankNormal(dist.LowRankMultivariateNormal):
    """Pyro's distribution under a name of its own, for which a closed-form KL is registered."""


def kl_from_independent_normal(p: Any, q: Any) -> Tensor:
    """KL(N(m, C) || N(a, diag v)) = -H(p) - E_p[log q]; torch has no rule for this pair."""
    base = q.base_dist
    if not isinstance(base, torch.distributions.Normal) or q.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    variance = base.variance
    expected = ((p.mean - base.mean).square() + p.variance) / variance
    cross_entropy = 0.5 * (expected + (2 * torch.pi * variance).log()).sum(-1)
    return cross_entropy - p.entropy()


register_kl(LowRankNormal, torch.distributions.Independent)(kl_from_independent_normal)
