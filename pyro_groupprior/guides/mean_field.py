# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The mean-field guide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.distributions import TorchDistribution

from ..nn.noise import LOCAL_MOMENTS
from .base import SiteGuide
from .initialization import init_to_weights
from .latent import LatentSite


class AutoMeanField(SiteGuide):
    """
    A fully factorised normal posterior, log-normal on positive sites. Unlike Pyro's AutoNormal it
    emits these distributions themselves, so that
    :class:`~pyro_groupprior.MeanFieldELBO` and :class:`~pyro.infer.TraceMeanField_ELBO` take the
    weights' divergence from their group prior in closed form, given the group parameters; and it
    starts from the net's own weights.

    Example::

        >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal())
        >>> guide = AutoMeanField(model)
        >>> guide.setup(torch.zeros(3, 2), torch.zeros(3, 1))
        >>> mean, sd = guide.moments("weights")
        >>> mean.shape
        torch.Size([3])

    :param callable model: a Pyro model.
    :param init_loc_fn: where to start; any of Pyro's initialisation strategies.
    :param float init_scale: first posterior standard deviation: in units of the base scale for
        weights, in the unconstrained space for other sites.
    :param bool local_reparam: let linear and convolutional layers of a
        :class:`~pyro_groupprior.BayesianModule` draw noise for every row of data (see
        :class:`~pyro_groupprior.nn.noise.LocalNoise`): much less gradient noise, for about twice
        the time of these layers. Other layers go on with sampled weights. Batch statistics are
        then those of rows that do not share one draw of the weights.
    :raises ValueError: if ``init_scale`` is not positive; at set-up, if the model's weights are
        not those of a :class:`~pyro_groupprior.BayesianModule`, centred.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        init_loc_fn: Callable[..., Any] = init_to_weights,
        init_scale: float = 0.1,
        local_reparam: bool = False,
    ) -> None:
        super().__init__(model, init_loc_fn=init_loc_fn, init_scale=init_scale)
        self.local_reparam = local_reparam

    def setup(self, *args: Any, **kwargs: Any) -> None:
        super().setup(*args, **kwargs)
        weights = getattr(self.model, "site", None)
        if self.local_reparam and weights not in [site.name for site in self.sites]:
            self.sites = ()
            raise ValueError(
                "local_reparam: needs a BayesianModule with centered=True as the model, whose "
                "weights themselves are latent"
            )

    def infer_options(self, site: LatentSite, fn: TorchDistribution) -> dict[str, Any]:
        if self.local_reparam and site.name == getattr(self.model, "site", None):
            return {LOCAL_MOMENTS: (fn.base_dist.loc, fn.base_dist.scale)}
        return {}
