# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Draws of the assignments between the moves of a kernel over a recorded potential."""

from __future__ import annotations

import torch
from pyro import poutine
from torch import Tensor

from ..assignment import Assignment
from ..assignment_buffer import AssignmentBuffer
from ..handlers import RegroupMessenger
from ..svi.groups import find_groups
from ..svi.parameters import quiet
from .gibbs import draw_groups, group_tables, log_partition_prior
from .log_density import LogDensity


class AssignmentMoves:
    """
    A log-density of positions given assignments, and draws of these from their exact conditionals
    given all else, as :class:`GibbsGroups` makes them. No state of the model is touched: groupings
    are proposed by :class:`~pyro_groupprior.RegroupMessenger`.

    Example::

        >>> from pyro_groupprior.mcmc.assignment_moves import AssignmentMoves
        >>> from pyro_groupprior.mcmc.log_density import LogDensity
        >>> groups = AssignmentBuffer(Assignment(torch.arange(4) % 2))
        >>> def model(y):
        ...     weights = group_prior("w", groups)
        ...     pyro.sample("y", dist.Normal(weights, 0.1).to_event(1), obs=y)
        >>> density = LogDensity(model, (torch.tensor([-1.0, -1.1, 1.0, 1.1]),))
        >>> moves = AssignmentMoves(density, concentration=1.0)
        >>> position = moves.move(torch.zeros(density.size))
        >>> moves(position[None], *moves.indices).shape, moves.draw()["w_proportions"].shape
        (torch.Size([1]), torch.Size([2]))

    :param LogDensity density: of a model with group priors on
        :class:`~pyro_groupprior.AssignmentBuffer`.
    :param float concentration: of the groups' proportions, see :class:`GibbsGroups`.
    :raises ValueError: if the model has no group prior, or one whose grouping cannot be rewritten.
    """

    def __init__(self, density: LogDensity, concentration: float) -> None:
        self.density, self.concentration = density, concentration
        with quiet(density.original):
            self.sites = find_groups(density.original, *density.args)
        if not self.sites:
            raise ValueError("model: expected a group_prior statement, found none")
        for site in self.sites.values():
            site.check_regroupable()
        sources = {id(site.source): site.source for site in self.sites.values()}
        buffers = [source for source in sources.values() if isinstance(source, AssignmentBuffer)]
        #: Of each grouping, which several group priors may share, where it is among the indices.
        self._places = {id(buffer): place for place, buffer in enumerate(buffers)}
        self._groups = [buffer.assignment.num_groups for buffer in buffers]
        self.indices = tuple(buffer.assignment.hard().index.long() for buffer in buffers)
        self.proportions = tuple(self._sizes(place) for place in range(len(buffers)))
        self.proportions = tuple(sizes / sizes.sum() for sizes in self.proportions)

    def __call__(self, position: Tensor, *indices: Tensor) -> Tensor:
        """
        :param Tensor position: shape ``[C, D]``.
        :param indices: of all groupings.
        :return: log-densities, shape ``[C]``, without those of the assignments.
        """
        with self._handler(indices):
            return self.density(position)

    @torch.no_grad()
    def move(self, position: Tensor) -> Tensor:
        """
        Draw proportions and assignments. Weights stay where they are, so that what the position
        says of them, in units of their groups' scales, does not.

        :param Tensor position: shape ``[D]``.
        :return: the position under the new grouping, shape ``[D]``.
        """
        values = self.constrain(position)
        with poutine.block(), self._handler(self.indices) as handler:
            one = {name: value[0] for name, value in values.items()}
            conditioned = poutine.condition(self.density.original, one)
            trace = poutine.trace(conditioned).get_trace(*self.density.args)
        tables = group_tables(self.sites, trace, handler.assignments)
        drawn = {
            place: draw_groups(tables[key], self._sizes(place), self.concentration)
            for key, place in self._places.items()
        }
        self.indices = tuple(drawn[place][0] for place in range(len(drawn)))
        self.proportions = tuple(drawn[place][1] for place in range(len(drawn)))
        with self._handler(self.indices):
            return self.density.unconstrain(values)[0]

    def constrain(self, position: Tensor) -> dict[str, Tensor]:
        """
        The model's own latent sites under the present grouping, each ``[1, ...]``.

        :param Tensor position: shape ``[D]``.
        """
        with self._handler(self.indices):
            return self.density.constrain(position[None])

    def draw(self) -> dict[str, Tensor]:
        """The present assignments, and proportions, by site."""
        found = {}
        for name, site in self.sites.items():
            place = self._places[id(site.source)]
            small = torch.int16 if self._groups[place] <= 2**15 else torch.int32
            found[f"{name}_assignment"] = self.indices[place].to(small)
            found[f"{name}_proportions"] = self.proportions[place]
        return found

    @property
    def others(self) -> tuple[Tensor, ...]:
        """Other assignments, to see that nothing has been recorded for the present ones only."""
        return tuple(
            (index + 1) % groups for index, groups in zip(self.indices, self._groups, strict=True)
        )

    def log_prior(self) -> float:
        """Log probability of the present assignments, proportions integrated out."""
        each = (
            log_partition_prior(self._sizes(place), self.concentration)
            for place in range(len(self.indices))
        )
        return sum(float(value) for value in each)

    def _sizes(self, place: int) -> Tensor:
        index = self.indices[place]
        return torch.bincount(index, minlength=self._groups[place]).to(torch.get_default_dtype())

    def _handler(self, indices: tuple[Tensor, ...]) -> RegroupMessenger:
        found = {}
        for name, site in self.sites.items():
            place = self._places[id(site.source)]
            found[name] = Assignment.trusted(indices[place], self._groups[place], None)
        return RegroupMessenger(found)
