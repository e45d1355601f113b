# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The symmetry of a model's posterior, and draws of it freed from that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..comparison import WeightMoments, weight_moments
from ..nn import BayesianModule
from .alignment import Alignment, align
from .prior import GroupPrior
from .spec import Permutation, Symmetry
from .tracing import find_symmetry


def posterior_symmetry(model: BayesianModule, inputs: Any, prior: bool = True) -> Symmetry:
    """
    Which hidden units of a model can be exchanged without changing its posterior: those that the
    net and the prior treat alike. Groups by layer, row or column go with the units. Groups that
    were found single weights at a time tell all units apart.

    Example::

        >>> from pyro_groupprior.symmetry import posterior_symmetry
        >>> net = nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 1))
        >>> model = BayesianModule(net, likelihoods.Normal())
        >>> symmetry = posterior_symmetry(model, torch.randn(2, 4))
        >>> symmetry.axes, symmetry.signs
        ({'0': 50}, {})

    :param BayesianModule model: the model. Its point parameters and its buffers, such as those of
        norm layers, stay as they are, so that units they tell apart are not exchanged.
    :param inputs: what the model is called with.
    :param bool prior: False: what leaves the net's output as it is, whatever the prior, for draws
        of which the assignments were drawn as well (:func:`~pyro_groupprior.mcmc.run_gibbs`), or to
        look at the net alone. True: units are not exchanged where the prior tells them apart, and
        signs flipped only where all weights have a symmetric prior about 0 (``loc=0.0``).
    :raises TypeError: if ``model`` is no :class:`~pyro_groupprior.BayesianModule`.
    :raises ValueError: if the symmetry cannot be derived.
    """
    if not isinstance(model, BayesianModule):
        raise TypeError(f"model: expected a BayesianModule, got {type(model).__name__}")
    names = {name for entry in model.layout for name in (entry.name, *entry.aliases)}
    if isinstance(inputs, Mapping):
        symmetry = find_symmetry(model.net, kwargs=inputs, movable=names)
    else:
        args = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
        symmetry = find_symmetry(model.net, *args, movable=names)
    if not prior:
        return symmetry
    if not (model.family.is_symmetric and _is_zero(model.prior_loc)):
        symmetry = symmetry.unsigned()
    return Symmetry(symmetry.tensors, GroupPrior(model).kinds(symmetry), symmetry.tied)


def align_draws(
    model: BayesianModule, draws: Mapping[str, Tensor], symmetry: Symmetry, **options: Any
) -> tuple[dict[str, Tensor], Alignment]:
    """
    Rearrange the units of every draw so that all are alike, by :func:`align`.

    :param BayesianModule model: whose draws they are.
    :param draws: by site, each ``[S, ...]``.
    :param Symmetry symmetry: of the posterior.
    :param options: of :func:`align`; a ``template`` that is one draw is given by packed weights.
    :return: the draws, with the groups' parameters as :func:`permute_draws` moves them; and how
        they were rearranged.
    :raises ValueError: if there are no draws of the weights, or an option is out of range.
    """
    samples = model.layout.unpack(_weights(model, draws), aliases=True)
    if isinstance(options.get("template"), Tensor):
        options["template"] = model.layout.unpack(options["template"], aliases=True)
    alignment = align(samples, symmetry, **options)
    return permute_draws(model, draws, symmetry, alignment), alignment


@torch.no_grad()
def permute_draws(
    model: BayesianModule,
    draws: Mapping[str, Tensor],
    symmetry: Symmetry,
    alignment: Alignment,
) -> dict[str, Tensor]:
    """
    Draws of all sites, rearranged: weights, standardised weights and assignments by their units,
    the groups' parameters with their groups where these change places.

    :param BayesianModule model: whose draws they are.
    :param draws: by site, each ``[S, ...]``.
    :param Symmetry symmetry: of the posterior.
    :param Alignment alignment: of all draws.
    :raises ValueError: if there are more draws or fewer, or they would no longer be draws of one
        posterior: groups' parameters or standardised weights where groups do not stay together,
        or, with signs flipped, groups' locations.
    """
    count = len(_weights(model, draws))
    if count != len(alignment.similarity):
        raise ValueError(
            f"alignment: expected one of {count} draws, got one of {len(alignment.similarity)}"
        )
    moved, site, layout = dict(draws), model.site, model.layout
    numbers = layout.unpack(torch.arange(layout.num_weights), aliases=True)
    ones = layout.unpack(torch.ones(layout.num_weights), aliases=True)
    signed = [name for name in (site, f"{site}_decentered") if name in draws]
    along = [*signed, *(name for name in (f"{site}_assignment",) if name in draws)]
    hyper = [name for name in (f"{site}_loc", f"{site}_scale") if name in draws]
    moved |= {name: draws[name].clone() for name in (*along, *hyper)}
    prior = None if f"{site}_assignment" in draws else GroupPrior(model)
    for s in range(len(alignment.similarity)):
        permutation = alignment.permutation[s]
        places = Permutation(permutation.permutations, {})
        order = layout.pack(symmetry.apply(numbers, places))
        for name in along:
            moved[name][s] = draws[name][s][..., order.to(draws[name].device)]
        if permutation.signs and any(bool((sign < 0).any()) for sign in permutation.signs.values()):
            if f"{site}_loc" in draws and bool(draws[f"{site}_loc"].any()):
                raise ValueError(
                    f"draws: signs of weights cannot be flipped, and those of {site}_loc not; take "
                    "symmetry.unsigned()"
                )
            flips = layout.pack(symmetry.apply(ones, permutation))
            for name in signed:
                moved[name][s] *= flips.to(draws[name])
        if prior is None or not (hyper or f"{site}_decentered" in draws):
            continue
        source = prior.moved_groups(places, symmetry)
        if source is None:
            raise ValueError(
                f"draws: with {[*hyper, *signed]} weights can change places only with their whole "
                "groups; take a symmetry with prior=True"
            )
        for name in hyper:
            moved[name][s] = draws[name][s][source.to(draws[name].device)]
    return moved


@torch.no_grad()
def in_frame(
    model: BayesianModule,
    posterior: Any,
    symmetry: Symmetry,
    template: Tensor,
    **options: Any,
) -> WeightMoments:
    """
    The moments of a posterior's weights after its units have been rearranged to be as like a
    template's as possible: all draws one by one, or a guide's means, and its standard deviations
    along with them.

    :param BayesianModule model: the net.
    :param posterior: as in :func:`~pyro_groupprior.comparison.weight_moments`.
    :param Symmetry symmetry: of the net.
    :param Tensor template: packed weights, such as the mean of aligned draws, shape ``[W]``.
    :param options: of :func:`align`: ``by`` (not ``"likelihood"``, which has a template of its
        own), ``restarts``, ``seed`` and ``n_jobs``.
    :raises ValueError: as :func:`align`.
    """
    if isinstance(posterior, Mapping):
        draws, _ = align_draws(model, posterior, symmetry, template=template, **options)
        return weight_moments(model, draws)
    moments = weight_moments(model, posterior)
    means = model.layout.unpack(moments.mean[None], aliases=True)
    like = model.layout.unpack(template, aliases=True)
    permutation = align(means, symmetry, template=like, **options).permutation[0]
    mean, sd = (
        symmetry.apply(model.layout.unpack(value, aliases=True), permutation)
        for value in (moments.mean, moments.sd)
    )
    return WeightMoments(model.layout.pack(mean), model.layout.pack(sd).abs())


@torch.no_grad()
def in_one_frame(
    model: BayesianModule,
    posteriors: Mapping[str, Any],
    symmetry: Symmetry,
    reference: str,
    **options: Any,
) -> dict[str, WeightMoments]:
    """
    The moments of several posteriors' weights, with their units arranged alike, for
    :func:`~pyro_groupprior.comparison.compare_weights`. The reference's draws are aligned with each
    other, all others with its mean.

    Example::

        >>> from pyro_groupprior.comparison import compare_weights
        >>> from pyro_groupprior.symmetry import in_one_frame, posterior_symmetry
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> model = BayesianModule(net, likelihoods.Normal())
        >>> symmetry = posterior_symmetry(model, torch.randn(3, 2))
        >>> hmc, vi = {"weights": torch.randn(20, 33)}, {"weights": torch.randn(20, 33)}
        >>> moments = in_one_frame(model, {"hmc": hmc, "vi": vi}, symmetry, "hmc")
        >>> compare_weights(model, moments, "hmc")["posterior"].tolist()
        ['hmc', 'hmc', 'vi', 'vi']

    :param BayesianModule model: the net.
    :param posteriors: by name: guides, draws by site, the packed weights of an ensemble's members
        as draws, or :class:`~pyro_groupprior.comparison.WeightMoments`.
    :param Symmetry symmetry: of the posterior.
    :param str reference: the name of that which gives the frame.
    :param options: of :func:`align`. By ``"likelihood"`` the reference's draws are aligned with
        each other; the others go by their weights.
    :raises ValueError: if there is no such reference.
    """
    if reference not in posteriors:
        raise ValueError(f"reference: expected one of {list(posteriors)}, got {reference!r}")
    first = posteriors[reference]
    if isinstance(first, Mapping):
        first, _ = align_draws(model, first, symmetry, **options)
    moments = weight_moments(model, first)
    options.pop("template", None)
    if options.get("by") == "likelihood":
        options["by"] = "weights"
    return {
        name: moments
        if name == reference
        else in_frame(model, posterior, symmetry, moments.mean, **options)
        for name, posterior in posteriors.items()
    }


def _is_zero(loc: Any) -> bool:
    return isinstance(loc, (int, float, Tensor)) and not bool(torch.as_tensor(loc).any())


def _weights(model: BayesianModule, draws: Mapping[str, Tensor]) -> Tensor:
    weights = draws.get(model.site)
    if weights is None or weights.dim() != 2 or weights.shape[1] != model.layout.num_weights:
        shape = None if weights is None else tuple(weights.shape)
        raise ValueError(
            f"draws: expected [draws, {model.layout.num_weights}] of {model.site!r}, got {shape}"
        )
    return weights
