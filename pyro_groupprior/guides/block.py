# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The guide with a covariance for each block of weights, such as a unit's."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn
from torch.distributions.kl import register_kl

from ..nn import BayesianModule
from ..nn.grouping import Grouping
from .base import SiteGuide
from .draws import standardized_cholesky
from .initialization import init_to_weights
from .latent import LatentSite, inverse_softplus
from .low_rank import kl_from_independent_normal


class AutoBlockNormal(SiteGuide):
    """
    A normal posterior with a full covariance over each block of a net's weights, such as a unit's
    incoming ones, and none between blocks; all other sites are as in :class:`AutoMeanField`. Its
    divergence from a normal group prior is taken in closed form.

    Example::

        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> model = BayesianModule(net, likelihoods.Normal())
        >>> guide = AutoBlockNormal(model)
        >>> guide.setup(torch.zeros(3, 4), torch.zeros(3, 1))
        >>> guide.block_sizes                    # eight units of 4 + 1 weights, one of 8 + 1
        {5: 8, 9: 1}

    :param BayesianModule model: a net with centred weights.
    :param blocks: as ``grouping`` in :class:`~pyro_groupprior.BayesianModule`, such as ``"row"``,
        a unit's incoming weights and its bias, or indices ``[W]``, such as
        :func:`~pyro_groupprior.symmetry.unit_blocks` gives.
    :param init_loc_fn: where to start; any of Pyro's initialisation strategies.
    :param float init_scale: as in :class:`AutoMeanField`.
    :param int max_entries: largest number of entries of all covariances together.
    :raises TypeError: if the model is no :class:`~pyro_groupprior.BayesianModule`.
    :raises ValueError: if the model is not centered, the blocks are not hard or do not fit, or
        there are more entries.
    """

    def __init__(
        self,
        model: BayesianModule,
        *,
        blocks: Grouping = "row",
        init_loc_fn: Callable[..., Any] = init_to_weights,
        init_scale: float = 0.1,
        max_entries: int = 25_000_000,
    ) -> None:
        super().__init__(model, init_loc_fn=init_loc_fn, init_scale=init_scale)
        if not isinstance(model, BayesianModule):
            raise TypeError(f"model: expected a BayesianModule, got {type(model).__name__}")
        if not model.centered:
            raise ValueError("model: expected centered=True; else the weights are no site of it")
        assignment = model.partition(blocks)
        if assignment.is_soft:
            raise ValueError("blocks: expected each weight in one block, got a soft assignment")
        members = _by_size(assignment.index.long())
        entries = sum(places.shape[0] * places.shape[1] ** 2 for places in members)
        if entries > max_entries:
            raise ValueError(
                f"blocks: their covariances have {entries} entries together; expected at most "
                f"max_entries={max_entries}. Use smaller blocks, or AutoLowRank"
            )
        self.weights = model.site
        self.correlations = nn.ParameterList()
        self._num_sizes = len(members)
        for number, places in enumerate(members):
            self.register_buffer(f"_members{number}", places, persistent=False)
        order = torch.cat([places.flatten() for places in members]).argsort()
        self.register_buffer("_order", order, persistent=False)

    @property
    def _members(self) -> list[Tensor]:
        """Positions of the weights of all blocks of one size, ``[blocks, size]``."""
        return [self.get_buffer(f"_members{number}") for number in range(self._num_sizes)]

    @property
    def structure(self) -> str:
        blocks = hashlib.sha256(self.get_buffer("_order").cpu().numpy().tobytes()).hexdigest()
        return f"{super().structure} {self.block_sizes} {blocks}"

    @property
    def block_sizes(self) -> dict[int, int]:
        """How many blocks there are of each size."""
        return {places.shape[1]: places.shape[0] for places in self._members}

    def _add_site(self, site: LatentSite, node: Mapping[str, Any]) -> None:
        super()._add_site(site, node)
        if site.name == self.weights:
            like = self.locs[site.key]
            for places in self._members:
                number, size = places.shape
                self.correlations.append(nn.Parameter(like.new_zeros(number, size, size)))

    def factor(self, site: LatentSite, batch: tuple[int, ...] = ()) -> TorchDistribution:
        if site.name != self.weights:
            return super().factor(site, batch)
        loc, scale = self.loc_scale(site)
        trils = [
            # Unit diagonal times scale, so that one learning rate fits weights of all sizes.
            correlation.tril(-1) * scale[places].unsqueeze(-1) + scale[places].diag_embed()
            for correlation, places in zip(self.correlations, self._members, strict=True)
        ]
        fn = BlockNormal(loc, trils, self._members, order=self.get_buffer("_order"))
        return fn.expand(batch) if batch else fn

    def _fit_site(self, site: LatentSite, draws: Tensor) -> None:
        super()._fit_site(site, draws)
        if site.name != self.weights:
            return
        _, scale = self.loc_scale(site)
        for correlation, members in zip(self.correlations, self._members, strict=True):
            for row, places in zip(correlation, members, strict=True):
                below, own = standardized_cholesky(draws[:, places])
                row.copy_(below)
                scale[places] *= own
        self.unconstrained_scales[site.key].copy_(inverse_softplus(scale))

    @property
    def num_numbers(self) -> int:
        # Of the matrices only what is below the diagonal is used.
        unused = sum(number * size * (size + 1) // 2 for size, number in self.block_sizes.items())
        return super().num_numbers - unused

    def marginals(self, site: LatentSite) -> tuple[Tensor, Tensor]:
        if site.name != self.weights:
            return super().marginals(site)
        fn = self.factor(site)
        return fn.mean, fn.variance.sqrt()


def _by_size(index: Tensor) -> list[Tensor]:
    """The members of each block, those of blocks of one size together."""
    order = index.argsort(stable=True)
    sizes = torch.bincount(index)
    sizes = sizes[sizes > 0]
    blocks = order.split(sizes.tolist())
    return [
        torch.stack([block for block in blocks if len(block) == size])
        for size in sizes.unique().tolist()
    ]


class BlockNormal(TorchDistribution):
    """
    A normal distribution over vectors, of which blocks of entries are independent.

    :param Tensor loc: mean, shape ``[W]``.
    :param trils: for each size of blocks a lower Cholesky factor, ``[blocks, size, size]``.
    :param members: likewise the entries that each block is made of, ``[blocks, size]``; each entry
        is in one.
    :param Tensor order: where each entry stands among all blocks' one after another; default:
        worked out.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 -- torch's own
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        trils: Sequence[Tensor],
        members: Sequence[Tensor],
        batch_shape: torch.Size | tuple[int, ...] = (),
        order: Tensor | None = None,
    ) -> None:
        self.loc, self.trils = loc, list(trils)
        self.members = [places.to(loc.device) for places in members]
        if order is None:
            order = torch.cat([places.flatten() for places in self.members]).argsort()
        self.order = order.to(loc.device)
        super().__init__(torch.Size(batch_shape), loc.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> BlockNormal:
        """The same distribution with outer dimensions."""
        return BlockNormal(self.loc, self.trils, self.members, batch_shape, self.order)

    @property
    def mean(self) -> Tensor:
        """Shape ``[..., W]``."""
        return self.loc.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Of each entry, shape ``[..., W]``."""
        parts = [tril.square().sum(-1).flatten() for tril in self.trils]
        return self._in_place(parts).expand(self.batch_shape + self.event_shape)

    def rsample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draws, shape ``[*sample_shape, ..., W]``."""
        shape = torch.Size(sample_shape) + self.batch_shape
        parts = []
        for tril in self.trils:
            noise = torch.randn(*shape, *tril.shape[:-1], dtype=tril.dtype, device=tril.device)
            # One product for all draws: [blocks, size, size] @ [blocks, size, draws].
            columns = noise.reshape(-1, *tril.shape[:-1]).permute(1, 2, 0)
            parts.append((tril @ columns).permute(2, 0, 1).reshape(*shape, -1))
        return self.loc + self._in_place(parts)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density, shape ``[...]``."""
        return sum(
            (
                dist.MultivariateNormal(self.loc[places], scale_tril=tril, validate_args=False)
                .log_prob(value[..., places])
                .sum(-1)
                for tril, places in zip(self.trils, self.members, strict=True)
            ),
            start=value.new_zeros(()),
        )

    def entropy(self) -> Tensor:
        """In nats, shape ``[...]``."""
        diagonals = [tril.diagonal(dim1=-2, dim2=-1) for tril in self.trils]
        widths = torch.stack([diagonal.log().sum() for diagonal in diagonals]).sum()
        constant = 0.5 * len(self.loc) * (1 + math.log(2 * math.pi))
        return (widths + constant).expand(self.batch_shape)

    def _in_place(self, parts: Sequence[Tensor]) -> Tensor:
        """Values of all blocks, one after another, in the order of the entries."""
        return torch.cat(list(parts), -1)[..., self.order]


register_kl(BlockNormal, torch.distributions.Independent)(kl_from_independent_normal)
