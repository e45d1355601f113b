# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Which units a prior treats alike, so that exchanging them leaves a posterior as it is."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..hyperpriors import Hyper
from ..nn import BayesianModule
from .blocks import blocks
from .spec import Dim, Permutation, Symmetry, wholes


class GroupPrior:
    """
    The prior of a net's packed weights, as far as it tells units apart. A rearrangement leaves it
    as it is if weights keep their base scale and groups stay together: such as the columns of a
    unit, of which each is a group, when units change places. The groups' own parameters then
    change places too.

    :param BayesianModule model: of which the prior is.
    """

    def __init__(self, model: BayesianModule) -> None:
        assignment, self.layout = model.assignment, model.layout
        index = assignment.index.long().cpu().reshape(assignment.num_weights, -1).T
        self.groups = self.layout.unpack(index.contiguous())
        self.base_scale = self.layout.unpack(model.base_scale.cpu())
        shares = assignment.responsibilities
        self.shares = None if shares is None else self.layout.unpack(shares.cpu().T.contiguous())
        self.counts = torch.bincount(index.flatten(), minlength=assignment.num_groups)
        #: Whether groups can change places: not where each has hyperparameters of its own.
        self.exchangeable = all(map(_one_for_all, (model.prior_loc, model.prior_scale)))

    def kinds(self, symmetry: Symmetry) -> dict[str, Tensor]:
        """By axis, a number for each unit, the same for those that can be exchanged."""
        found = {}
        for axis, size in symmetry.axes.items():
            swap = torch.arange(size)
            swap[:2] = torch.tensor([1, 0])
            # These two, the first two exchanged and all moved on by one, generate all others.
            if not all(self._allows(symmetry, axis, order) for order in (swap, swap.roll(1))):
                found[axis] = self._kinds(symmetry, axis, size)
        return found

    def moved_groups(self, permutation: Permutation, symmetry: Symmetry) -> Tensor | None:
        """
        Of each group, the one whose parameters it takes over.

        :param Permutation permutation: without signs.
        :return: shape ``[G]``, or None where groups do not stay together.
        """
        moved = symmetry.apply(self.groups, permutation)
        before = torch.cat([value.flatten() for value in self.groups.values()])
        after = torch.cat([moved[name].flatten() for name in self.groups])
        source = torch.arange(len(self.counts)).scatter(0, before, after)
        return source if torch.equal(source[before], after) else None

    def _allows(self, symmetry: Symmetry, axis: str, order: Tensor) -> bool:
        """Whether one axis may be rearranged so."""
        one = symmetry.only(axis)
        names = [name for name, dims in one.tensors.items() if name in self.groups and _moves(dims)]
        permutation = Permutation({axis: order}, {})

        def pairs(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
            moved = one.apply({name: tensors[name] for name in names}, permutation)
            first = torch.cat([tensors[name].flatten() for name in names])
            return first, torch.cat([moved[name].flatten() for name in names])

        if not torch.equal(*pairs(self.base_scale)):
            return False
        if self.shares is not None and not torch.equal(*pairs(self.shares)):
            return False
        before, after = pairs(self.groups)
        if not self.exchangeable:
            return torch.equal(before, after)
        source = torch.arange(len(self.counts)).scatter(0, before, after)
        elsewhere = torch.bincount(before, minlength=len(self.counts)) < self.counts
        stays = source == torch.arange(len(source))
        return torch.equal(source[before], after) and bool((stays | ~elsewhere).all())

    def _kinds(self, symmetry: Symmetry, axis: str, size: int) -> Tensor:
        keys = self._keys(symmetry, axis, size).tolist()
        kinds, firsts = torch.empty(size, dtype=torch.long), list[int]()
        for unit in range(size):
            for kind, first in enumerate(firsts):
                if keys[first] == keys[unit]:
                    swap = torch.arange(size)
                    swap[[first, unit]] = swap[[unit, first]]
                    if self._allows(symmetry, axis, swap):
                        kinds[unit] = kind
                        break
            else:
                kinds[unit] = len(firsts)
                firsts.append(unit)
        return kinds

    def _keys(self, symmetry: Symmetry, axis: str, size: int) -> Tensor:
        """
        Of each unit, a number that is the same for those that can be exchanged: sums over its
        weights of random numbers, one for each group that is not the unit's own; and of base scales
        and shares in groups, by place.
        """
        members = _by_unit(symmetry, self.groups, axis)
        units = torch.arange(size)[:, None].expand_as(members)
        pairs = torch.stack([units.flatten(), members.flatten()]).unique(dim=1)
        # One that has members in two units at most may be theirs alone.
        own = torch.bincount(pairs[1], minlength=len(self.counts)) <= 2
        generator = torch.Generator().manual_seed(0)
        numbers = torch.randint(2**40, own.shape, generator=generator)
        if self.exchangeable:
            numbers = numbers.masked_fill(own, 0)
        keys = numbers[members].sum(1)
        for values in (self.base_scale, self.shares):
            if values is not None:
                kinds = _by_unit(symmetry, values, axis).unique(return_inverse=True)[1]
                places = torch.randint(2**30, (kinds.shape[1],), generator=generator)
                keys += (kinds + 1) @ places
        return keys


def _by_unit(symmetry: Symmetry, tensors: Mapping[str, Tensor], axis: str) -> Tensor:
    """What belongs to each unit of an axis, shape ``[n, m]``; slots of soft groups come last."""
    found = []
    for block in blocks(symmetry, tensors):
        for dim in block.dims(axis):
            found.append(block.value.movedim(dim, 0).reshape(symmetry.axes[axis], -1))
    return torch.cat(found, 1)


def _moves(dims: tuple[Dim, ...]) -> bool:
    return any(whole.axis is not None for dim in dims for whole in wholes(dim))


def _one_for_all(hyper: Hyper) -> bool:
    """Whether a hyperprior is the same for all groups."""
    if isinstance(hyper, Tensor):
        return hyper.numel() == 1 or bool((hyper == hyper.flatten()[0]).all())
    if isinstance(hyper, Distribution):
        if hyper.batch_shape.numel() == 1:
            return True
        values = [getattr(hyper, name, None) for name in hyper.arg_constraints]
        return bool(values) and all(isinstance(v, Tensor) and _one_for_all(v) for v in values)
    return hyper is None or isinstance(hyper, (int, float))
