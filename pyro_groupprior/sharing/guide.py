# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A guide whose weights share their means and deviations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..assignment import Assignment
from ..digest import digest
from ..guides import AutoMeanField, ParameterMove
from ..guides.draws import mean_and_sd
from ..guides.initialization import init_to_weights
from ..guides.latent import LatentSite, inverse_softplus
from ..nn import BayesianModule
from .codebook import Codebook
from .nearest import centres


def with_pruned_group(assignment: Assignment, keep: Tensor) -> Assignment:
    """
    The grouping with one group more, for the weights that are pruned.

    Example::

        >>> from pyro_groupprior.sharing import with_pruned_group
        >>> keep = torch.tensor([True, False, True])
        >>> with_pruned_group(Assignment(torch.tensor([0, 0, 1])), keep).index.tolist()
        [0, 2, 1]

    :param Assignment assignment: of all weights; a soft one becomes hard.
    :param Tensor keep: which weights are not pruned, bool ``[W]``.
    :raises ValueError: if there are more weights than these, or fewer.
    """
    if keep.shape != (assignment.num_weights,):
        raise ValueError(f"keep: expected [{assignment.num_weights}], got {tuple(keep.shape)}")
    index, pruned = assignment.hard().index, assignment.num_groups
    return Assignment(torch.where(keep.to(index.device), index, pruned), pruned + 1)


class AutoShared(AutoMeanField):
    """
    A mean-field posterior of a net's weights in a few numbers: those of a codebook, from which each
    weight's mean and deviation are gathered, so that the gradients of all weights with an entry
    come together in it. Every weight has noise of its own, and counts in the divergence from the
    prior. All other sites are as in :class:`~pyro_groupprior.AutoMeanField`.

    Example::

        >>> from pyro_groupprior.comparison import weight_moments
        >>> from pyro_groupprior.sharing import AutoShared, make_codebook
        >>> model = BayesianModule(nn.Linear(20, 1), likelihoods.Normal())
        >>> x, y = torch.randn(9, 20), torch.randn(9, 1)
        >>> full = AutoMeanField(model)
        >>> full.setup(x, y)
        >>> guide = AutoShared(model, make_codebook(model.layout, weight_moments(model, full), 4))
        >>> guide.setup(x, y)
        >>> guide.codebook().num_numbers <= 2 * 2 * 4
        True

    A net that collapses onto its prior is not repaired: there is a warning. Checkpoints do not hold
    the codebook's indices: they are for a guide that was made from the same one.

    :param BayesianModule model: the net, centred.
    :param Codebook codebook: where to start. Weights that it has pruned must be pruned in the model
        (:func:`~pyro_groupprior.pruning.prune_model`), which does not read them; put them in a
        group of their own (:func:`with_pruned_group`), or they will have a say in others' prior.
    :param options: of :class:`~pyro_groupprior.AutoMeanField`.
    :raises TypeError: if the model is no :class:`~pyro_groupprior.BayesianModule`.
    :raises ValueError: if the codebook is for other weights or has pruned others, or the model is
        not centred.
    """

    #: A repair of a collapse widens or replaces single weights' numbers, which these are not.
    can_start_anew = False

    def __init__(
        self,
        model: BayesianModule,
        codebook: Codebook,
        *,
        init_loc_fn: Callable[..., Any] = init_to_weights,
        init_scale: float = 0.1,
        local_reparam: bool = False,
    ) -> None:
        super().__init__(
            model, init_loc_fn=init_loc_fn, init_scale=init_scale, local_reparam=local_reparam
        )
        if not isinstance(model, BayesianModule):
            raise TypeError(f"model: expected a BayesianModule, got {type(model).__name__}")
        if not model.centered:
            raise ValueError("model: expected one with centered=True, whose weights are latent")
        self.weights = model.site
        self._take(codebook)

    def _take(self, codebook: Codebook) -> None:
        model = cast(BayesianModule, self.model)
        expected = [(entry.name, entry.shape) for entry in model.layout]
        if [(entry.name, entry.shape) for entry in codebook.layout] != expected:
            raise ValueError("codebook: expected one for the model's weights, got another's")
        kept = codebook.kept
        read = torch.ones_like(kept) if model.mask is None else model.mask.to(kept.device)
        if bool((read & ~kept).any()):
            raise ValueError(
                "codebook: has pruned weights that the model reads; "
                "take prune_model(model, codebook.kept)"
            )
        live = torch.cat([codebook.scale, codebook.outliers.scale]) > 0
        self._codebook = codebook
        self._live = nn.Buffer(live, persistent=False)
        self._units = nn.Buffer(codebook.units(), persistent=False)
        self._kept = nn.Buffer(kept, persistent=False)
        self._any_pruned = not bool(kept.all())

    def _add_site(self, site: LatentSite, node: Mapping[str, Any]) -> None:
        if site.name != self.weights:
            super()._add_site(site, node)
            return
        self.to(node["value"].device)
        self._make_parameters(site)

    def _make_parameters(self, site: LatentSite) -> None:
        book = self._codebook
        loc = torch.cat([book.loc, book.outliers.loc]).to(self._live.device)
        scale = torch.cat([book.scale, book.outliers.scale]).to(loc)
        self.locs[site.key] = nn.Parameter(loc)
        wide = torch.where(self._live, scale, 1.0)
        self.unconstrained_scales[site.key] = nn.Parameter(inverse_softplus(wide))

    def loc_scale(self, site: LatentSite) -> tuple[Tensor, Tensor]:
        if site.name != self.weights:
            return super().loc_scale(site)
        book = self._codebook = self._codebook.to(self._units.device)
        number = book.num_entries
        loc, scale = (
            self._units * book.gather(value[:number], value[number:])
            for value in self._numbers(site)
        )
        if self._any_pruned:  # the net does not read them: they are as their prior
            scale = torch.where(self._kept, scale, cast(BayesianModule, self.model).base_scale)
        return loc, scale

    @torch.no_grad()
    def codebook(self) -> Codebook:
        """The codebook as it is now; pruned weights are exactly 0."""
        if not self.is_set_up:
            return self._codebook
        number = self._codebook.num_entries
        loc, scale = self._numbers(self.site(self.weights))
        return self._codebook.with_numbers(
            loc[:number], scale[:number], loc[number:], scale[number:]
        )

    @torch.no_grad()
    def replace_codebook(self, codebook: Codebook) -> list[ParameterMove]:
        """
        Share the weights' numbers in another way, as after a merger; all else stays as it is. In
        :class:`~pyro_groupprior.PhasedSVI` leave it to :class:`MergeEntries`, which tells the
        optimizer too.

        :param Codebook codebook: of the same weights.
        :return: what moved where: each new entry comes from an old one whose weights it has.
        :raises ValueError: if the codebook is for other weights or has pruned others; nothing has
            changed then.
        """
        self._require_setup()
        site, before = self.site(self.weights), self._codebook
        blocks = (self.locs, self.unconstrained_scales)
        old = [block[site.key] for block in blocks]
        self._take(codebook)
        self.to(old[0].device)
        self._make_parameters(site)
        source = _sources(before, codebook).to(old[0].device)
        new = [block[site.key] for block in blocks]
        return [ParameterMove(one, other, source) for one, other in zip(old, new, strict=True)]

    @property
    def structure(self) -> str:
        book = self._codebook
        parts = [book.unit, book.index, *book.blend, book.outliers.places]
        return super().structure + digest(repr(book.tables), parts)

    @property
    def num_numbers(self) -> int:
        pruned = int((~self._live).sum())
        return super().num_numbers - 2 * pruned

    def _numbers(self, site: LatentSite) -> tuple[Tensor, Tensor]:
        """Of the entries and the outliers; 0 for pruned weights."""
        scale = F.softplus(self.unconstrained_scales[site.key])
        return self.locs[site.key] * self._live, scale * self._live

    def _fit_site(self, site: LatentSite, draws: Tensor) -> None:
        if site.name != self.weights:
            super()._fit_site(site, draws)
            return
        book, units = self._codebook, self._units
        mean, sd = (value / units for value in mean_and_sd(draws))
        shared = self._kept.clone()
        shared[book.outliers.places] = False
        # Those between two entries count for the first.
        loc, scale = centres(book.index[shared], book.num_entries, mean[shared], sd[shared])
        loc = torch.cat([loc, mean[book.outliers.places]])
        scale = torch.cat([scale, sd[book.outliers.places]])
        old, used = self._numbers(site), self._live & loc.isfinite()
        wide = torch.where(used, scale, torch.where(self._live, old[1], 1.0))
        self.locs[site.key].copy_(torch.where(used, loc, old[0]))
        self.unconstrained_scales[site.key].copy_(inverse_softplus(wide))


def _sources(old: Codebook, new: Codebook) -> Tensor:
    """Row of an old codebook's numbers that each of a new one's continues, or -1."""

    def rows(book: Codebook) -> Tensor:
        index, places = book.index.long().cpu().clone(), book.outliers.places.cpu()
        index[places] = book.num_entries + torch.arange(len(places))
        return index

    before, after = rows(old), rows(new)
    source = torch.full((new.num_entries + len(new.outliers.places),), -1)
    # Of the old rows with weights in a new one, that with most of them.
    pairs, counts = torch.stack([after, before]).unique(dim=1, return_counts=True)
    for place in counts.argsort(stable=True).tolist():
        source[pairs[0, place]] = pairs[1, place]
    return source
