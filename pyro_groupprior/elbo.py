# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The ELBO with divergences in closed form where there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from torch import Tensor
from torch.distributions import kl_divergence


class MeanFieldELBO(ELBO):
    """
    The same estimator as :class:`~pyro.infer.TraceMeanField_ELBO`: the divergence of each latent
    site's factor from its prior, in closed form where torch knows one, given the draws of the
    sites before it. It differs in speed only: Pyro's computes every log-density as well and
    throws most of them away.

    For guides whose factors do not depend on each other's draws, without plates that subsample
    latents.

    Example::

        >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal())
        >>> guide = AutoMeanField(model)
        >>> loss = MeanFieldELBO().loss(model, guide, torch.zeros(3, 2), torch.zeros(3, 1))

    :param int num_particles: draws of the guide to average over.
    :raises ValueError: when run, if model and guide have different latent sites.
    """

    def __init__(self, num_particles: int = 1) -> None:
        if num_particles < 1:
            raise ValueError(f"num_particles: expected a positive number, got {num_particles}")
        super().__init__(num_particles=num_particles)

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The negative ELBO, a float, without gradients."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The negative ELBO, a scalar tensor that can be differentiated."""
        total: Any = 0.0
        for _ in range(self.num_particles):
            total = total - self._elbo(*self._get_trace(model, guide, args, kwargs))
        return total / self.num_particles

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The negative ELBO; its gradients are added to the parameters'."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())

    # The abstract method of pyro.infer.ELBO, private there though every subclass must have it.
    def _get_trace(
        self, model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any
    ) -> tuple[poutine.Trace, poutine.Trace]:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        replayed = poutine.replay(model, trace=guide_trace)
        return poutine.trace(replayed).get_trace(*args, **kwargs), guide_trace

    def _elbo(self, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Any:
        elbo: Any = 0.0
        latents = []
        for name, site in model_trace.nodes.items():
            if site["type"] != "sample" or site["infer"].get("_deterministic"):
                continue
            if site["is_observed"]:
                log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
                elbo = elbo + scale_and_mask(log_prob, site["scale"], site["mask"]).sum()
            elif not _is_subsample(site):
                if name not in guide_trace.nodes:
                    raise ValueError(f"guide: the model's latent site {name!r} is missing in it")
                latents.append(name)
                elbo = elbo - _divergence(guide_trace.nodes[name], site)
        for name, site in guide_trace.nodes.items():
            if site["type"] != "sample" or _is_subsample(site) or name in latents:
                continue
            if site["infer"].get("is_auxiliary"):
                # Autoguides draw in an unconstrained space first; the latent itself is a Delta.
                log_prob = site["fn"].log_prob(site["value"])
                elbo = elbo - scale_and_mask(log_prob, site["scale"], site["mask"]).sum()
            elif not site["is_observed"]:
                raise ValueError(f"guide: its site {name!r} is no latent site of the model")
        return elbo


def _divergence(guide_site: Any, model_site: Any) -> Tensor:
    q, p = guide_site["fn"], model_site["fn"]
    try:
        divergence = kl_divergence(q, p)
    except NotImplementedError:
        value = model_site["value"]
        divergence = q.log_prob(value) - p.log_prob(value)
    return scale_and_mask(divergence, guide_site["scale"], guide_site["mask"]).sum()


def _is_subsample(site: Any) -> bool:
    # The indices of a plate are sample sites too, of a class that Pyro does not export.
    return type(site["fn"]).__name__ == "_Subsample"
