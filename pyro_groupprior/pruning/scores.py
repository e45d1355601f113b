# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""How much each weight matters, by its posterior."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch import distributions as dist
from torch.distributions import kl_divergence

from ..comparison import WeightMoments, weight_moments
from ..families import Normal as NormalFamily
from ..guides import posterior_medians
from ..nn import BayesianModule
from ..packed import flat_draws, prior_of_weights

NODES = 64  # of the quadrature

Rule: TypeAlias = "Callable[[BayesianModule, Any, WeightMoments], Tensor]"


def _sd(model: BayesianModule, posterior: Any, moments: WeightMoments) -> Tensor:
    return -moments.sd


def _snr(model: BayesianModule, posterior: Any, moments: WeightMoments) -> Tensor:
    return moments.snr


def _magnitude(model: BayesianModule, posterior: Any, moments: WeightMoments) -> Tensor:
    return moments.mean.abs()


def _kl(model: BayesianModule, posterior: Any, moments: WeightMoments) -> Tensor:
    loc, scale = _prior(model, posterior, "kl")
    if isinstance(model.family, NormalFamily):
        return _ranked(kl_divergence(_normal(moments), dist.Normal(loc, scale)), moments)
    # E_q[log q - log p] by Gauss-Hermite quadrature; -E_q[log q] is the entropy.
    prior = model.family.distribution(loc, scale)
    cross = torch.zeros_like(moments.mean)
    for node, weight in zip(*np.polynomial.hermite_e.hermegauss(NODES), strict=True):
        value = prior.log_prob(moments.mean + float(node) * moments.sd)
        cross += float(weight) / math.sqrt(2 * math.pi) * value
    return _ranked(-_normal(moments).entropy() - cross, moments)


def _evidence(model: BayesianModule, posterior: Any, moments: WeightMoments) -> Tensor:
    prior = model.family.distribution(*_prior(model, posterior, "evidence"))
    zero = torch.zeros_like(moments.mean)
    return _ranked(prior.log_prob(zero) - _normal(moments).log_prob(zero), moments)


def _ranked(scores: Tensor, moments: WeightMoments) -> Tensor:
    """Of a weight that is known exactly: the least if it is zero, else the most."""
    known = torch.where(moments.mean == 0, -torch.inf, torch.inf)
    return torch.where(moments.sd > 0, scores, known)


def _normal(moments: WeightMoments) -> dist.Normal:
    return dist.Normal(moments.mean, moments.sd, validate_args=False)


def _prior(model: BayesianModule, posterior: Any, rule: str) -> tuple[Tensor, Tensor]:
    """Location and scale of every weight's prior, at the median of its group's parameters."""
    if isinstance(posterior, WeightMoments):
        raise ValueError(f"posterior: rule={rule!r} needs a guide or draws, which know the prior")
    if not isinstance(posterior, Mapping):
        medians = posterior_medians(posterior)
    elif f"{model.site}_assignment" in posterior:
        raise ValueError(
            f"posterior: rule={rule!r} needs one grouping, got draws of the assignments"
        )
    else:
        groups = model.assignment.num_groups
        medians = {
            site: flat_draws(posterior, site, groups).median(0).values
            for site in (f"{model.site}_loc", f"{model.site}_scale")
            if site in posterior
        }
    medians = {site: value[None] for site, value in medians.items()}
    loc, scale = prior_of_weights(model, medians, like=model.base_scale)
    return loc.reshape(-1), scale.reshape(-1)


def _random(model: BayesianModule, posterior: Any, moments: WeightMoments) -> Tensor:
    return torch.rand_like(moments.mean)


RULES: dict[str, Rule] = {
    "snr": _snr,
    "magnitude": _magnitude,
    "sd": _sd,
    "kl": _kl,
    "evidence": _evidence,
    "random": _random,
}


@torch.no_grad()
def weight_scores(model: BayesianModule, posterior: Any, rule: str = "snr") -> Tensor:
    """
    How much each weight matters: those with the lowest scores are pruned first.

    Example::

        >>> from pyro_groupprior.comparison import WeightMoments
        >>> from pyro_groupprior.pruning import weight_scores
        >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal())
        >>> moments = WeightMoments(torch.tensor([0.1, -2.0, 1.0]), torch.tensor([1.0, 0.5, 1.0]))
        >>> weight_scores(model, moments)
        tensor([0.1000, 4.0000, 1.0000])

    :param BayesianModule model: the net.
    :param posterior: a guide, draws by site (aligned), or
        :class:`~pyro_groupprior.comparison.WeightMoments`, such as a plain net's weights with the
        standard deviations of a posterior that was brought into its frame by
        :func:`~pyro_groupprior.symmetry.in_frame`.
    :param str rule:

        - ``"snr"``: ``|mean| / sd`` (Blundell et al. 2015, "Weight uncertainty in neural
          networks", section 5.1);
        - ``"magnitude"``: ``|mean|``;
        - ``"sd"``: the least certain weights go first;
        - ``"kl"``: the divergence of the posterior from the weight's prior, at the median of its
          group's parameters: how much the data say about it. Where the prior's mean is far from
          zero, so may be a weight of which they say nothing;
        - ``"evidence"``: the log evidence that is lost where the weight is zero, by the
          Savage-Dickey ratio ``p(0) / q(0)``, likewise (Beckers et al. 2024, "Principled pruning
          of Bayesian neural networks through variational free energy minimization");
        - ``"random"``: for comparison, by torch's random state.
    :return: shape ``[W]``.
    :raises ValueError: if the rule is unknown, or the posterior lacks what it needs.
    """
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {list(RULES)}, got {rule!r}")
    return RULES[rule](model, posterior, weight_moments(model, posterior))
