# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Prior families for weights given their groups' location and scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro.distributions as dist
from torch import Tensor

from .assignment import Assignment


class Family:
    """
    A location-scale family of priors. Subclasses give the distribution and the variance of its
    standard member (loc 0, scale 1), which the soft blend needs.
    """

    @property
    def unit_variance(self) -> float:
        """Variance at scale 1."""
        raise NotImplementedError

    @property
    def is_symmetric(self) -> bool:
        """Whether its members are symmetric about their ``loc``; unless it says so, it is not."""
        return False

    def distribution(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """
        The family's member with this ``loc`` and ``scale``, elementwise. Unchecked: they are built
        from group parameters that were checked, at every step of training.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Normal(Family):
    """``w ~ Normal(loc, scale)``."""

    @property
    def unit_variance(self) -> float:
        return 1.0

    @property
    def is_symmetric(self) -> bool:
        return True

    def distribution(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Normal(loc, scale, validate_args=False)


@dataclass(frozen=True)
class Laplace(Family):
    """``w ~ Laplace(loc, scale)``: a sharper peak, as in the Bayesian lasso."""

    @property
    def unit_variance(self) -> float:
        return 2.0

    @property
    def is_symmetric(self) -> bool:
        return True

    def distribution(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Laplace(loc, scale, validate_args=False)


@dataclass(frozen=True)
class StudentT(Family):
    """
    ``w ~ StudentT(df, loc, scale)``: heavy tails, so that a few weights may lie far from their
    group.

    :param float df: degrees of freedom, positive; above 2 for soft assignments, which match
        variances.
    :raises ValueError: if ``df`` is not finite and positive.
    """

    df: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.df < math.inf:
            raise ValueError(f"df: expected a finite positive number, got {self.df}")

    @property
    def unit_variance(self) -> float:
        if self.df <= 2:
            raise ValueError(
                f"df: a soft assignment matches variances and needs df above 2, got {self.df}"
            )
        return self.df / (self.df - 2)

    @property
    def is_symmetric(self) -> bool:
        return True

    def distribution(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.StudentT(self.df, loc, scale, validate_args=False)


FAMILIES: dict[str, type[Family]] = {"normal": Normal, "laplace": Laplace, "student_t": StudentT}


def as_family(family: str | Family) -> Family:
    """
    The family of this name, or the given one.

    :raises TypeError: if ``family`` is neither a name nor a :class:`Family`.
    :raises ValueError: if the name is unknown.
    """
    if isinstance(family, Family):
        return family
    if not isinstance(family, str):
        raise TypeError(f"family: expected a name or a Family, got {type(family).__name__}")
    if family not in FAMILIES:
        raise ValueError(f"family: expected one of {sorted(FAMILIES)}, got {family!r}")
    return FAMILIES[family]()


def weight_loc_scale(
    assignment: Assignment,
    loc: Tensor,
    scale: Tensor,
    base_scale: Tensor | float | None = None,
    unit_variance: float = 1.0,
) -> tuple[Tensor, Tensor]:
    r"""
    Location and scale of every weight's prior from those of the groups.

    Hard: ``b_i loc_z`` and ``b_i scale_z``. Soft: the moment-matched blend, with mean
    :math:`b_i \sum_g r_{ig} loc_g` and variance :math:`b_i^2 [\sum_g r_{ig} (c\,scale_g^2 +
    loc_g^2) - (\sum_g r_{ig} loc_g)^2]`, where :math:`c` is the family's variance at scale 1.

    Example::

        >>> soft = Assignment(torch.tensor([[0, 1]]), responsibilities=torch.tensor([[0.5, 0.5]]))
        >>> weight_loc_scale(soft, torch.tensor([-1.0, 1.0]), torch.tensor([1.0, 1.0]))
        (tensor([0.]), tensor([1.4142]))

    :param Tensor loc: shape ``[..., G]``, in units of the base scale.
    :param Tensor scale: shape ``[..., G]``, positive, in units of the base scale.
    :param base_scale: shape ``[W]`` or a number, positive; default 1.
    :return: two tensors of shape ``[..., W]``.
    """
    index, responsibilities = assignment.index, assignment.responsibilities
    if responsibilities is None:
        weight_loc, weight_scale = loc.index_select(-1, index), scale.index_select(-1, index)
    else:
        responsibilities = responsibilities.to(loc.dtype)
        slots, flat = index.shape, index.reshape(-1)
        locs = loc.index_select(-1, flat).unflatten(-1, slots)
        variances = scale.square().index_select(-1, flat).unflatten(-1, slots)
        weight_loc = (responsibilities * locs).sum(-1)
        # The spread of the locs about their blend, written as a sum of squares: never negative.
        spread = (responsibilities * (locs - weight_loc.unsqueeze(-1)).square()).sum(-1)
        within = (responsibilities * variances).sum(-1)
        weight_scale = (within + spread / unit_variance).sqrt()
    if base_scale is None:
        return weight_loc, weight_scale
    return base_scale * weight_loc, base_scale * weight_scale


__all__ = ["FAMILIES", "Family", "Laplace", "Normal", "StudentT", "as_family", "weight_loc_scale"]
