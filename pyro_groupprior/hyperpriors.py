# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What a group's location or scale may be: a hyperprior, a fixed value or a learned point."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor


@dataclass(frozen=True)
class Learned:
    """
    A group parameter that is learned as a point, without a posterior (empirical Bayes).

    Example::

        >>> group_scale = Learned(1.0)

    :param init: first value, a number or a tensor of shape ``[G]``.
    """

    init: float | Tensor


Hyper: TypeAlias = "TorchDistribution | float | Tensor | Learned | None"


@lru_cache
def default_loc(num_groups: int, dtype: torch.dtype, device: torch.device) -> TorchDistribution:
    """``Normal(0, 1)`` for each group, in units of the base scale."""
    return dist.Normal(*_standard(num_groups, dtype, device))


@lru_cache
def default_scale(num_groups: int, dtype: torch.dtype, device: torch.device) -> TorchDistribution:
    """
    ``LogNormal(0, 1)`` for each group, in units of the base scale.

    It vanishes at zero, so that the joint mode of a group and its members is not at the point
    where all of them are zero (Chung et al. 2013, "A nondegenerate penalized likelihood estimator
    for variance parameters in multilevel models"), and its divergence from a log-normal posterior
    has a closed form, which lowers the noise of the ELBO.
    """
    return dist.LogNormal(*_standard(num_groups, dtype, device))


def _standard(num_groups: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    # They are kept: made under inference mode they would be barred from training later.
    with torch.inference_mode(False):
        zeros = torch.zeros(num_groups, dtype=dtype, device=device)
        return zeros, zeros + 1


def check_hyper(argument: str, hyper: Hyper, support: constraints.Constraint) -> None:
    """
    Refuse a group parameter that is of the wrong kind or outside ``support``.

    :raises TypeError: if it is no distribution, number, tensor or :class:`Learned`.
    :raises ValueError: if it has an event shape or values outside ``support``.
    """
    if hyper is None:
        return
    if isinstance(hyper, torch.distributions.Distribution):
        if hyper.event_shape:
            raise ValueError(
                f"{argument}: expected a distribution over one number a group, "
                f"got event shape {tuple(hyper.event_shape)}"
            )
        if support is constraints.positive and not _is_positive(hyper):
            raise ValueError(
                f"{argument}: expected a distribution over positive numbers, got {hyper}"
            )
        return
    value = hyper.init if isinstance(hyper, Learned) else hyper
    if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
        raise TypeError(
            f"{argument}: expected a Pyro distribution, a number, a tensor or Learned(...), "
            f"got {type(hyper).__name__}"
        )
    values = torch.as_tensor(value)
    if not bool((support.check(values) & values.isfinite()).all()):
        raise ValueError(f"{argument}: expected values that are {_words(support)}, got {value}")


def sample_hyper(
    name: str,
    hyper: Hyper,
    default: TorchDistribution,
    num_groups: int,
    like: Tensor,
) -> Tensor:
    """
    The statement for one group parameter, inside the group plate: a sample site for a
    distribution, a param for :class:`Learned`, a deterministic site for a fixed value.

    :param str name: site name.
    :param Tensor like: gives device and dtype of default and fixed values.
    :return: shape ``[..., G]``.
    :raises ValueError: if a value or a batch shape does not fit ``num_groups``.
    """
    if hyper is None or isinstance(hyper, torch.distributions.Distribution):
        fn = default if hyper is None else hyper
        _check_size(name, tuple(fn.batch_shape), num_groups)
        return pyro.sample(name, fn.expand([num_groups]) if fn.batch_shape else fn)
    if isinstance(hyper, Learned):
        init = torch.as_tensor(hyper.init, dtype=like.dtype, device=like.device)
        _check_size(name, tuple(init.shape), num_groups)
        constraint = constraints.positive if name.endswith("_scale") else constraints.real
        value = pyro.param(name, init.expand(num_groups).clone(), constraint=constraint)
        _check_size(name, tuple(value.shape), num_groups)
        return value
    fixed = torch.as_tensor(hyper, dtype=like.dtype, device=like.device)
    _check_size(name, tuple(fixed.shape), num_groups)
    return pyro.deterministic(name, fixed.expand(num_groups), event_dim=0)


def _check_size(name: str, shape: tuple[int, ...], num_groups: int) -> None:
    if shape not in ((), (1,), (num_groups,)):
        raise ValueError(
            f"{name}: expected one value for each of {num_groups} groups, got shape {shape}"
        )


def _is_positive(fn: torch.distributions.Distribution) -> bool:
    support = fn.support
    if support in (constraints.positive, constraints.nonnegative):
        return True
    return bool((torch.as_tensor(getattr(support, "lower_bound", -1)) >= 0).all())


def _words(support: constraints.Constraint) -> str:
    return "positive and finite" if support is constraints.positive else "finite"
