# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""From a posterior to one that is shared."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from pyro.infer.autoguide.initialization import init_to_value
from torch import Tensor
from torch.distributions import Distribution

from ..comparison import weight_moments
from ..guides import init_to_weights, posterior_medians
from ..hyperpriors import Learned
from ..nn import BayesianModule
from ..packed import weight_sites
from .guide import AutoShared, with_pruned_group
from .making import make_codebook


def share_posterior(
    model: BayesianModule,
    posterior: Any,
    num_entries: int | Any = 16,
    *,
    local_reparam: bool = False,
    **options: Any,
) -> tuple[BayesianModule, AutoShared]:
    """
    A guide whose weights share their numbers, to be trained on, as near a given posterior as so few
    numbers allow. What the model's ``mask`` has pruned stays pruned, in a group of its own; all
    other sites start at the posterior's medians.

    Example::

        >>> from pyro_groupprior.pruning import GradualPruning
        >>> from pyro_groupprior.sharing import share_posterior
        >>> x = torch.randn(64, 10)
        >>> y = x[:, :4].sum(1, keepdim=True)
        >>> net = nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> model = BayesianModule(net, likelihoods.Normal(), num_data=64)
        >>> guide = AutoMeanField(model)
        >>> svi = PhasedSVI(model, guide, callbacks=[GradualPruning(model, 0.5, steps=3)])
        >>> history = svi.run([(x, y)], epochs=5, progress=False)
        >>> shared_model, shared = share_posterior(model, guide, num_entries=4)
        >>> history = PhasedSVI(shared_model, shared).run([(x, y)], epochs=5, progress=False)
        >>> guide.num_numbers - shared.num_numbers > 150
        True

    :param BayesianModule model: what the posterior is of, centred; it stays as it is.
    :param posterior: a guide that is set up, or draws by site, aligned if they are of MCMC
        (:func:`~pyro_groupprior.symmetry.align_draws`).
    :param num_entries: of each tensor; see :func:`make_codebook`.
    :param bool local_reparam: as in :class:`~pyro_groupprior.AutoMeanField`.
    :param options: of :func:`make_codebook`: which tensors share entries, outliers, blending.
    :return: a copy of the model, and its guide.
    :raises TypeError: if the model is no :class:`~pyro_groupprior.BayesianModule`.
    :raises ValueError: if it is not centred, or draws are missing or do not fit; or if something is
        pruned, and the prior has learned points or a hyperprior for each group, which cannot be had
        for one more.
    """
    if not isinstance(model, BayesianModule):
        raise TypeError(f"model: expected a BayesianModule, got {type(model).__name__}")
    keep = options.pop("keep", None)
    if model.mask is not None:
        keep = model.mask if keep is None else keep.to(model.mask.device) & model.mask
    moments = weight_moments(model, posterior)
    codebook = make_codebook(model.layout, moments, num_entries, keep=keep, **options)
    values, pruned = _medians(model, posterior), not bool(codebook.kept.all())
    if pruned:
        for name, prior in (("loc", model.prior_loc), ("scale", model.prior_scale)):
            several = isinstance(prior, Distribution) and len(prior.batch_shape) > 0
            if isinstance(prior, Learned) or several:
                raise ValueError(
                    f"model: its prior's {name} has a value for each group, and cannot have one "
                    f"more for pruned weights; expected a number, a tensor or a hyperprior for all "
                    f"groups, got {prior}"
                )
    model = copy.deepcopy(model)
    if pruned:
        model.mask = codebook.kept.to(model.base_scale.device)
        model.groups.assignment = with_pruned_group(model.assignment, codebook.kept)
        # Pruned weights are as wide as their base scale.
        for name, first in ((f"{model.site}_loc", 0.0), (f"{model.site}_scale", 1.0)):
            if name in values:
                values[name] = _with_one_more(values[name], first)
        model.prior_loc = _with_one_more(model.prior_loc, 0.0)
        model.prior_scale = _with_one_more(model.prior_scale, 1.0)
    start = init_to_value(values=values, fallback=init_to_weights)
    return model, AutoShared(model, codebook, init_loc_fn=start, local_reparam=local_reparam)


def _medians(model: BayesianModule, posterior: Any) -> dict[str, Tensor]:
    """Of all sites but the weights."""
    if isinstance(posterior, Mapping):
        # Chains, if there are any, stand one after the other.
        size = next(iter(weight_sites(model, posterior).values())).shape[0]
        found = {
            name: value.reshape(size, *_shape(value, size)).median(0).values
            for name, value in posterior.items()
            if name != model.site
        }
    else:
        found = posterior_medians(posterior)
        found.pop(model.site, None)
    return found


def _shape(value: Tensor, num_draws: int) -> tuple[int, ...]:
    """Of one draw, whose leading dimensions are draws, or chains and draws."""
    return tuple(value.shape[1 if value.shape[0] == num_draws else 2 :])


def _with_one_more(values: Any, value: float) -> Any:
    """Where there is one for each group."""
    if not isinstance(values, Tensor) or not values.dim():
        return values
    return torch.cat([values, values.new_full((1,), value)])
