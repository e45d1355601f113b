# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Codebooks of given posteriors."""

from __future__ import annotations

import itertools
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor

from ..clustering import BinnedGaussianMixture
from ..comparison import WeightMoments
from ..layout import Entry, Layout
from ..mcmc.frame import check_counts
from .codebook import LEVELS, Blend, Codebook, Outliers, units_of
from .nearest import blended, centres, divergence, moments_of_members, nearest
from .outliers import highest, outlier_scores

SCOPES = ("tensor", "layer", "global")
MOST_GAIN = 4  # times as many weights as are to be blended are looked at: those that lose most
SAMPLE = 20_000  # weights of a mixture by which its entries are found
FEW = 2_000  # of which it is looked whether they differ


@torch.no_grad()
def make_codebook(
    layout: Layout,
    moments: WeightMoments,
    num_entries: int | Any = 16,
    *,
    scope: str = "tensor",
    keep: Tensor | None = None,
    outliers: float = 0.0,
    outlier_score: str | Tensor = "divergence",
    blend: float = 0.0,
    rate: float = 0.0,
    num_refinements: int = 20,
    seed: int = 0,
) -> Codebook:
    """
    Share means and standard deviations among weights. The points (mean, log deviation), in units of
    their tensor, are clustered by a normal mixture; then, as in Lloyd's algorithm, each weight goes
    to the entry, and each entry to the place, of the least ``KL(entry || weight)``: an error in a
    weight's mean counts by its precision.

    Example::

        >>> from pyro_groupprior.comparison import WeightMoments
        >>> from pyro_groupprior.sharing import make_codebook
        >>> mean = torch.tensor([-1.0, 1.0]).repeat(50) + 0.01 * torch.randn(100)
        >>> moments = WeightMoments(mean, torch.full((100,), 0.1))
        >>> codebook = make_codebook(Layout([("w", torch.Size([100]))]), moments, 2)
        >>> bool((codebook.moments()[0] - mean).abs().max() < 0.1)
        True

    Source: Lin et al., stochastic weight sharing for Bayesian neural networks (2DGBNN); there the
    mixture's components are the entries, with the moments of their members: ``num_refinements=0``.

    :param Layout layout: of the weights, such as ``model.layout``.
    :param WeightMoments moments: of the posterior, see
        :func:`~pyro_groupprior.comparison.weight_moments`.
    :param num_entries: the most entries of a mixture; or a clusterer in the interface of
        scikit-learn, with ``fit_predict``, which is cloned.
    :param str scope: whether every ``"tensor"``, every ``"layer"`` (a weight and its bias) or the
        whole net (``"global"``) has its own entries.
    :param Tensor keep: which weights are not pruned, bool ``[W]``; default: all.
    :param float outliers: the share of the weights that keep numbers of their own: those with the
        highest score.
    :param outlier_score: ``"divergence"`` of their entry from them; ``"mahalanobis"``, the distance
        of their point from those of their entry; or scores ``[W]``, such as the gradient of the
        loss times what the entry changes.
    :param float blend: the share of the weights that lie between two entries: those that gain most.
    :param float rate: how many nats of divergence are worth a nat of the file: above 0, entries
        that many weights have attract others, since their index is short (entropy-constrained
        quantisation; Chou, Lookabaugh & Gray 1989). Such a codebook has fewer entries.
    :param int num_refinements: how often entries move after the clustering.
    :param int seed: of the clustering, if no clusterer is given.
    :return: entries without weights are left out.
    :raises TypeError: if ``num_entries`` is neither a number nor a clusterer.
    :raises ValueError: if an argument is out of range, shapes do not fit, or a weight that is kept
        has no standard deviation.
    """
    keep = torch.ones_like(moments.mean, dtype=torch.bool) if keep is None else keep
    _check(layout, moments, keep)
    check_counts(0, num_refinements=num_refinements)
    for name, value in (("outliers", outliers), ("blend", blend)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}: expected a share between 0 and 1, got {value}")
    if not rate >= 0:
        raise ValueError(f"rate: expected no negative number, got {rate}")
    tables, clusterer = _tables(layout, scope), _clusterer(num_entries, seed)
    unit = torch.stack([_unit(moments, keep, entry) for entry in layout])
    zero = unit.new_zeros(0 if bool(keep.all()) else 1)  # the entry of pruned weights
    index = torch.zeros(len(keep), dtype=torch.int32, device=keep.device)
    units = units_of(layout, unit)
    mean, sd = moments.mean / units, moments.sd / units
    locs, scales, ranges = [zero], [zero], [(len(zero), len(zero))]
    for members in tables:
        where = slice(members[0].start, members[-1].stop)
        own = keep[where]
        start = stop = ranges[-1][1]
        if bool(own.any()):
            points = mean[where][own], sd[where][own]
            label, loc, scale = _shared(*points, clusterer, num_refinements, rate)
            index[where][own] = label + start
            locs.append(loc)
            scales.append(scale)
            stop += len(loc)
        ranges += [(start, stop)] * len(members)
    codebook = Codebook(
        layout, unit, torch.cat(locs), torch.cat(scales), index, tables=tuple(ranges[1:])
    )
    if outliers > 0:
        scores = outlier_scores(codebook, mean, sd, outlier_score)
        places = highest(scores, keep, outliers)
        shared = keep.clone()
        shared[places] = False
        found = _placed(
            index[shared], codebook.num_entries, mean[shared], sd[shared], num_refinements
        )
        used = found[
            0
        ].isfinite()  # none is left of an entry's weights, or it is that of pruned ones
        codebook = replace(
            codebook,
            loc=torch.where(used, found[0], codebook.loc),
            scale=torch.where(used, found[1], codebook.scale),
            outliers=Outliers(places, mean[places], sd[places]),
        )
    return _blended(codebook, mean, sd, keep, blend) if blend > 0 else codebook


def _check(layout: Layout, moments: WeightMoments, keep: Tensor) -> None:
    if len(moments.mean) != layout.num_weights:
        raise ValueError(
            f"moments: expected those of {layout.num_weights} weights, got {len(moments.mean)}"
        )
    if keep.shape != moments.mean.shape or keep.dtype != torch.bool:
        raise ValueError(f"keep: expected bool [{layout.num_weights}], got {keep.dtype}")
    kept = moments.mean[keep].isfinite() & moments.sd[keep].isfinite() & (moments.sd[keep] > 0)
    if not bool(kept.all()):
        raise ValueError("moments: expected finite means and positive standard deviations")


def _clusterer(num_entries: Any, seed: int) -> Any:
    if isinstance(num_entries, Integral):
        if num_entries < 1:
            raise ValueError(f"num_entries: expected a positive number, got {num_entries}")
        return BinnedGaussianMixture(int(num_entries), random_state=seed)
    if not hasattr(num_entries, "fit_predict"):
        raise TypeError(
            "num_entries: expected a number or a clusterer with fit_predict, got "
            f"{type(num_entries).__name__}"
        )
    return num_entries


def _tables(layout: Layout, scope: str) -> list[list[Entry]]:
    """Which tensors share their entries: neighbours in the packed vector."""
    if scope not in SCOPES:
        raise ValueError(f"scope: expected one of {SCOPES}, got {scope!r}")
    names = {
        "tensor": lambda entry: entry.name,
        "layer": lambda entry: entry.name.rpartition(".")[0],
        "global": lambda entry: "",
    }
    return [list(members) for _, members in itertools.groupby(layout, names[scope])]


def _unit(moments: WeightMoments, keep: Tensor, entry: Entry) -> Tensor:
    """The root of the mean square of a tensor's weights."""
    kept = keep[entry.slice]
    mean, sd = moments.mean[entry.slice][kept], moments.sd[entry.slice][kept]
    size = (mean.square() + sd.square()).mean().sqrt()
    return torch.where(size > 0, size, 1.0)  # NaN where none is kept


def _shared(
    mean: Tensor, sd: Tensor, clusterer: Any, num_refinements: int, rate: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One mixture: the entry of each weight, and the entries."""
    stride = 1 if num_refinements == 0 else -(-len(mean) // SAMPLE)
    some = mean[::stride], sd[::stride]
    points = torch.stack([some[0], some[1].log()], 1).cpu().numpy()
    label = torch.as_tensor(_clustered(points, clusterer), device=mean.device)
    label = label.unique(return_inverse=True)[1].int()
    if num_refinements == 0:
        return (label, *_placed(label, int(label.max()) + 1, mean, sd, 0))
    loc, scale = centres(label, int(label.max()) + 1, *some)
    for _ in range(num_refinements):
        near, _ = nearest(loc, scale, *some, _cost(label, len(loc), rate))
        if torch.equal(near, label):  # nothing will move any more
            break
        label = near
        loc, scale = centres(label, len(loc), *some)
        used = loc.isfinite()
        loc, scale = loc[used], scale[used]
        label = label.unique(return_inverse=True)[1].int()
    cost = _cost(label, len(loc), rate)
    label = nearest(loc, scale, mean, sd, cost)[0].unique(return_inverse=True)[1].int()
    return (label, *_placed(label, int(label.max()) + 1, mean, sd, num_refinements))


def _cost(label: Tensor, number: int, rate: float) -> Tensor | None:
    """What the indices of entries cost, in nats of divergence."""
    if rate == 0:
        return None
    counts = torch.bincount(label, minlength=number)
    return -rate * (counts / len(label)).log()


def _placed(
    label: Tensor, number: int, mean: Tensor, sd: Tensor, num_refinements: int
) -> tuple[Tensor, Tensor]:
    """Where entries stand, given their weights."""
    place = centres if num_refinements else moments_of_members
    return place(label, number, mean, sd)


def _clustered(points: np.ndarray, clusterer: Any) -> np.ndarray:
    """Labels of points, of which there may be fewer than the clusterer would find clusters."""
    clusterer = clone(clusterer)
    if hasattr(clusterer, "n_components"):
        some = points[:: -(-len(points) // FEW)]
        number = min(clusterer.n_components, len(np.unique(some, axis=0)))
        clusterer.set_params(n_components=number)
    return clusterer.fit_predict(points)


def _blended(codebook: Codebook, mean: Tensor, sd: Tensor, keep: Tensor, share: float) -> Codebook:
    """Put those weights between two entries of their own table that gain most by it."""
    gain = torch.full_like(mean, -torch.inf)
    second, alpha = codebook.index.clone(), torch.ones_like(mean)
    free = keep.clone()
    free[codebook.outliers.places] = False
    for entry, (start, stop) in zip(codebook.layout, codebook.tables, strict=True):
        places = free[entry.slice].nonzero().squeeze(1) + entry.start
        loc, scale = codebook.loc[start:stop], codebook.scale[start:stop]
        near = codebook.index[places] - start
        before = divergence(loc[near], scale[near], mean[places], sd[places])
        # None can gain more than it has lost.
        number = min(len(places), round(MOST_GAIN * share * len(places)) + 1)
        before, worst = before.topk(number) if number else (before, near.long())
        places, near = places[worst], near[worst]
        other, part, after = blended(loc, scale, near, mean[places], sd[places], LEVELS)
        gain[places], alpha[places] = before - after, part
        second[places] = other + start
    places = highest(gain, keep, share)
    places = places[(gain[places] > 0) & (alpha[places] < 1)]
    return replace(codebook, blend=Blend(places, second[places], alpha[places]))
