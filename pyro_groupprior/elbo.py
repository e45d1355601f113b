# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The ELBO with divergences in closed form where there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import kl_divergence


class MeanFieldELBO(ELBO):
    """
    The same estimator as :class:`~pyro.infer.TraceMeanField_ELBO`: the divergence of each latent
    site's factor from its prior, in closed form where torch knows one, given the draws of the
    sites before it. It differs in speed, since Pyro's computes every log-density as well and
    throws most of them away; and under AutoNormal and its like it keeps the Jacobian of constrained
    sites, which Pyro's drops (there the divergence of a ``Delta`` is the prior's ``-log_prob``).

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
    ) -> tuple[dict[str, Message], list[tuple[Message | None, Message]]]:
        """The guide's sites by name, and the model's with their partners in the guide."""
        with _Record() as record:
            guide(*args, **kwargs)
        with _Replay(record.sites) as replay:
            model(*args, **kwargs)
        return record.sites, replay.pairs

    def _elbo(
        self, guide_sites: dict[str, Message], pairs: list[tuple[Message | None, Message]]
    ) -> Any:
        elbo: Any = 0.0
        unused = dict(guide_sites)
        for guide_site, site in pairs:
            if site["is_observed"]:
                elbo = elbo + _log_prob(site)
            elif guide_site is None:
                raise ValueError(
                    f"guide: the model's latent site {site['name']!r} is missing in it"
                )
            else:
                elbo = elbo - _divergence(guide_site, site)
                unused.pop(site["name"])
        for name, site in unused.items():
            if site["infer"].get("is_auxiliary"):
                # Autoguides draw in an unconstrained space first; the latent itself is a Delta.
                elbo = elbo - _log_prob(site)
            elif not site["is_observed"]:
                raise ValueError(f"guide: its site {name!r} is no latent site of the model")
        return elbo


class _Record(Messenger):
    """A trace of what the ELBO needs: the sample statements, without copies or a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, Message] = {}

    def _pyro_post_sample(self, msg: Message) -> None:
        if not site_is_subsample(msg):
            self.sites[msg["name"]] = msg


class _Replay(Messenger):
    """A replay that also notes which site of the guide each site of the model belongs to."""

    def __init__(self, guide_sites: dict[str, Message]) -> None:
        super().__init__()
        self.guide_sites = guide_sites
        self.pairs: list[tuple[Message | None, Message]] = []

    def _pyro_sample(self, msg: Message) -> None:
        guide_site = self.guide_sites.get(msg["name"])
        if guide_site is not None and not msg["is_observed"]:
            msg["value"], msg["infer"], msg["done"] = guide_site["value"], guide_site["infer"], True

    def _pyro_post_sample(self, msg: Message) -> None:
        if not site_is_subsample(msg) and not msg["infer"].get("_deterministic"):
            self.pairs.append((self.guide_sites.get(msg["name"]), msg))


def _log_prob(site: Message) -> Tensor:
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(log_prob, site["scale"], site["mask"]).sum()


def _divergence(guide_site: Message, model_site: Message) -> Tensor:
    q, p = guide_site["fn"], model_site["fn"]
    # A scale or mask on one side only leaves no divergence, just two log-densities. And Pyro's rule
    # for a Delta drops the Jacobian that autoguides keep in its log-density.
    alike = all(_same(guide_site[key], model_site[key]) for key in ("scale", "mask"))
    if alike and not isinstance(q, dist.Delta):
        try:
            divergence = kl_divergence(q, p)
            return scale_and_mask(divergence, guide_site["scale"], guide_site["mask"]).sum()
        except NotImplementedError:
            pass
    log_q = q.log_prob(model_site["value"])
    log_p = p.log_prob(model_site["value"])
    return (
        scale_and_mask(log_q, guide_site["scale"], guide_site["mask"]).sum()
        - scale_and_mask(log_p, model_site["scale"], model_site["mask"]).sum()
    )


def _same(first: Any, second: Any) -> bool:
    if first is second:
        return True
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second)
    return bool(first == second) if first is not None and second is not None else False
