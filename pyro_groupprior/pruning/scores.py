# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""How much each weight matters, by its posterior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from ..comparison import WeightMoments, weight_moments
from ..families import weight_loc_scale
from ..guides import posterior_medians
from ..nn import BayesianModule

Rule: TypeAlias = "Callable[[BayesianModule, Any, WeightMoments], Tensor]"


def _sd(model: BayesianModule, posterior: Any, moments: WeightMoments) -> Tensor:
    return -moments.sd


def _snr(model: BayesianModule, posterior: Any, moments: WeightMoments) -> Tensor:
    return moments.mean.abs() / moments.sd


def _magnitude(model: BayesianModule, posterior: Any, moments: WeightMoments) -> Tensor:
    return moments.mean.abs()


def _kl(model: BayesianModule, posterior: Any, moments: WeightMoments) -> Tensor:
    if isinstance(posterior, WeightMoments):
        raise ValueError("posterior: rule='kl' needs a guide or draws, which know the prior too")
    hyper = []
    for ending, fixed in (("loc", model.prior_loc), ("scale", model.prior_scale)):
        site = f"{model.site}_{ending}"
        if isinstance(posterior, Mapping) and site in posterior:
            hyper.append(posterior[site].median(0).values)
        elif isinstance(fixed, (int, float, Tensor)):
            groups = model.assignment.num_groups
            hyper.append(torch.as_tensor(fixed, dtype=moments.mean.dtype).expand(groups))
        else:
            medians = {} if isinstance(posterior, Mapping) else posterior_medians(posterior)
            if site not in medians:
                raise ValueError(f"posterior: rule='kl' needs {site!r}, which it does not have")
            hyper.append(medians[site])
    unit = model.family.unit_variance if model.assignment.is_soft else 1.0
    prior = weight_loc_scale(model.assignment, hyper[0], hyper[1], model.base_scale, unit)
    return kl_divergence(Normal(moments.mean, moments.sd), Normal(*prior))


def _random(model: BayesianModule, posterior: Any, moments: WeightMoments) -> Tensor:
    return torch.rand_like(moments.mean)


RULES: dict[str, Rule] = {
    "snr": _snr,
    "magnitude": _magnitude,
    "sd": _sd,
    "kl": _kl,
    "random": _random,
}


@torch.no_grad()
def weight_scores(model: BayesianModule, posterior: Any, rule: str = "snr") -> Tensor:
    """
    How much each weight matters: those with the lowest scores are pruned first.

    Example::

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
          group's parameters;
        - ``"random"``: for comparison.
    :return: shape ``[W]``.
    :raises ValueError: if the rule is unknown, or the posterior lacks what it needs.
    """
    if rule not in RULES:
        raise ValueError(f"rule: expected one of {list(RULES)}, got {rule!r}")
    return RULES[rule](model, posterior, weight_moments(model, posterior))
