# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The statements a model is written with: ``group_prior`` and, under it, ``assign``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.distributions import constraints
from pyro.poutine.runtime import effectful
from torch import Tensor

from .assignment import Assignment
from .assignment_buffer import AssignmentBuffer, assignment_of
from .families import Family, as_family, weight_loc_scale
from .hyperpriors import (
    Hyper,
    check_hyper,
    default_loc,
    default_scale,
    like_hypers,
    sample_hyper,
)
from .value_checks import all_finite, all_positive

# Key in ``infer`` of a site that a model predicts because it was given no observation.
PREDICTED = "predicted"


def assign(name: str, source: Assignment | AssignmentBuffer) -> Assignment:
    """
    State which grouping is in force. Returns what ``source`` holds, unless the
    :func:`~pyro_groupprior.regroup` handler rewrites it.

    Example::

        >>> assign("beta", Assignment(torch.tensor([0, 1, 1]))).num_groups
        2

    :param str name: the name that ``regroup`` knows the statement by.
    :param source: an :class:`Assignment`, or the :class:`AssignmentBuffer` that holds one.
    :raises TypeError: if ``source`` is neither.
    """
    if not isinstance(source, (Assignment, AssignmentBuffer)):
        raise TypeError(
            f"assignment: expected an Assignment or an AssignmentBuffer, "
            f"got {type(source).__name__}"
        )
    return _assign(source, name=name)


@effectful(type="assign")
def _assign(source: Assignment | AssignmentBuffer) -> Assignment:
    return assignment_of(source)


def group_prior(
    name: str,
    assignment: Assignment | AssignmentBuffer,
    *,
    loc: Hyper = None,
    scale: Hyper = None,
    base_scale: Tensor | float | None = None,
    family: str | Family = "normal",
    centered: bool = True,
    shape: torch.Size | tuple[int, ...] | None = None,
    init: Tensor | Callable[[], Tensor] | None = None,
) -> Tensor:
    r"""
    Sample weights under hierarchical group priors::

        loc_g   ~ loc,    scale_g ~ scale        in plate "{name}_groups"
        w_i     ~ family(b_i loc_z, b_i scale_z)      with z = z_i the group of weight i

    and, for a soft assignment, the moment-matched blend of the weight's groups (see
    :func:`~pyro_groupprior.families.weight_loc_scale`).

    Example, a regression whose 20 coefficients fall into 3 groups::

        >>> def model(x, y=None):
        ...     beta = group_prior("beta", Assignment(torch.arange(20) % 3))
        ...     with pyro.plate("data", len(x)):
        ...         return pyro.sample("y", dist.Normal(x @ beta, 1.0), obs=y)
        >>> trace = pyro.poutine.trace(model).get_trace(torch.randn(5, 20))
        >>> [name for name in trace.nodes if name.startswith("beta")]
        ['beta_groups', 'beta_loc', 'beta_scale', 'beta']

    :param str name: name of the weights' sample site, of event shape ``[W]``; ``{name}_loc`` and
        ``{name}_scale``, shape ``[G]``, stand before it.
    :param assignment: the grouping of the ``W`` weights; an :class:`AssignmentBuffer` makes it
        rewritable by ``regroup(...).commit()``.
    :param loc: hyperprior of the groups' locations, in units of the base scale: a Pyro
        distribution of batch shape ``[]`` or ``[G]``; or a number or tensor, fixed; or
        :class:`~pyro_groupprior.Learned`, a point without a posterior. Default: ``Normal(0, 1)``.
    :param scale: the same for the groups' scales, positive. Default: ``LogNormal(0, 1)``.
    :param base_scale: a positive number, or one for each weight (shape ``[W]``), that loc and
        scale are measured in, so that a group can span weights of different size. Default: 1.
    :param family: ``"normal"``, ``"laplace"``, ``"student_t"`` or a
        :class:`~pyro_groupprior.families.Family`.
    :param bool centered: if False, the latent site is the standardised ``{name}_decentered`` and
        ``{name}`` is deterministic (as under :class:`~pyro.infer.reparam.LocScaleReparam`):
        better for HMC when the data say little. A regroup then moves the weights themselves.
    :param shape: shape of the returned weights; default ``[W]``. Outer batch dimensions, as under
        vectorised particles, stay in front.
    :param init: first value for guides that start from it (see
        :func:`~pyro_groupprior.init_to_weights`), shape ``[W]``, or a callable that gives it.
    :return: the weights.
    :raises TypeError: if an argument is of the wrong kind.
    :raises ValueError: if shapes do not fit, a base scale or a fixed scale is not positive,
        ``init`` is not finite, or a guide or conditioned value was made for another number of
        groups.
    """
    check_prior(loc, scale, family)
    num_weights = assignment_of(assignment).num_weights
    if shape is not None and torch.Size(shape).numel() != num_weights:
        raise ValueError(f"shape: expected {num_weights} weights in all, got {tuple(shape)}")
    check_base_scale(base_scale, num_weights)
    init = _checked_init(init, num_weights)
    weights = sample_weights(
        name, assignment, loc, scale, base_scale, as_family(family), centered, init
    )
    if shape is None:
        return weights
    return weights.reshape(weights.shape[:-1] + torch.Size(shape))


def check_prior(loc: Hyper, scale: Hyper, family: str | Family) -> None:
    """Refuse arguments of :func:`group_prior` that do not depend on the weights."""
    check_hyper("loc", loc, constraints.real)
    check_hyper("scale", scale, constraints.positive)
    as_family(family)


def check_base_scale(base_scale: Tensor | float | None, num_weights: int) -> None:
    """Refuse a base scale that is not positive or does not fit the weights."""
    if base_scale is None:
        return
    scale = torch.as_tensor(base_scale)
    if scale.dim() and scale.shape != (num_weights,):
        raise ValueError(
            f"base_scale: expected a number or shape [{num_weights}], got {tuple(scale.shape)}"
        )
    if not all_positive(scale):
        raise ValueError("base_scale: expected finite positive numbers only")


def _checked_init(
    init: Tensor | Callable[[], Tensor] | None, num_weights: int
) -> Tensor | Callable[[], Tensor] | None:
    """Refuse first values that do not fit the weights; those of a callable when it is called."""
    if init is None:
        return None
    if not isinstance(init, Tensor) and callable(init):
        return lambda: _check_init(init(), num_weights)
    return _check_init(init, num_weights)


def _check_init(value: Any, num_weights: int) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"init: expected a tensor or a callable that gives one, got {type(value).__name__}"
        )
    if value.shape != (num_weights,):
        raise ValueError(f"init: expected shape [{num_weights}], got {tuple(value.shape)}")
    if not all_finite(value):
        raise ValueError("init: expected finite numbers only")
    return value


def sample_weights(
    name: str,
    assignment: Assignment | AssignmentBuffer,
    loc: Hyper,
    scale: Hyper,
    base_scale: Tensor | float | None,
    family: Family,
    centered: bool,
    init: Tensor | Callable[[], Tensor] | None,
) -> Tensor:
    """The statements of :func:`group_prior`, for arguments that have been checked once."""
    grouping = assign(name, assignment)
    like = _like(base_scale, init, loc, scale, grouping)
    # Always the innermost dim: an outer plate that was given none would shift the groups.
    with pyro.plate(f"{name}_groups", grouping.num_groups, dim=-1):
        default = default_loc(grouping.num_groups, like.dtype, like.device)
        group_loc = sample_hyper(f"{name}_loc", loc, default, grouping.num_groups, like)
        default = default_scale(grouping.num_groups, like.dtype, like.device)
        group_scale = sample_hyper(
            f"{name}_scale", scale, default, grouping.num_groups, like, constraints.positive
        )
    for site, value in ((f"{name}_loc", group_loc), (f"{name}_scale", group_scale)):
        if value.shape[-1] != grouping.num_groups:
            # Pyro itself would broadcast or index on silently.
            raise ValueError(
                f"{site}: the assignment has {grouping.num_groups} groups, but the guide or the "
                f"conditioned value has {value.shape[-1]}; it was made for another grouping"
            )
    unit_variance = family.unit_variance if grouping.is_soft else 1.0
    weight_loc, weight_scale = weight_loc_scale(
        grouping, group_loc, group_scale, base_scale, unit_variance
    )
    if weight_loc.dim() > 1 or weight_scale.dim() > 1:
        # Outer plates sit at negative dims left of the group plate's: keep their place.
        weight_loc, weight_scale = torch.broadcast_tensors(weight_loc, weight_scale)
        weight_loc, weight_scale = weight_loc.unsqueeze(-2), weight_scale.unsqueeze(-2)
    if centered:
        fn = family.distribution(weight_loc, weight_scale).to_event(1)
        weights = pyro.sample(name, fn, infer={"init": init, "base_scale": base_scale})
        return _aligned(name, weights, fn.event_shape, fn.batch_shape)
    zero, one = torch.zeros_like(weight_loc), torch.ones_like(weight_scale)
    fn = family.distribution(zero, one).to_event(1)
    infer = {"init": None if init is None else _standardised(init, base_scale)}
    noise = pyro.sample(f"{name}_decentered", fn, infer=infer)
    noise = _aligned(f"{name}_decentered", noise, fn.event_shape, fn.batch_shape)
    return pyro.deterministic(name, weight_loc + weight_scale * noise, event_dim=1)


def _aligned(name: str, value: Tensor, event_shape: torch.Size, batch_shape: torch.Size) -> Tensor:
    """
    The value of a weights' site in the site's own shape. :class:`~pyro.infer.Predictive` conditions
    on draws with an extra dimension of size one, or, for draws from MCMC in parallel, on draws
    without a place for the inner plates.
    """
    if value.shape[-1:] != event_shape:
        raise ValueError(
            f"{name}: expected a value of shape [{event_shape[0]}], got {tuple(value.shape)}"
        )
    shape = batch_shape + event_shape
    if value.shape == shape:
        return value
    if value.numel() == shape.numel():
        return value.reshape(shape)
    return value.unsqueeze(-2) if value.dim() == 2 else value


def _standardised(
    init: Tensor | Callable[[], Tensor], base_scale: Tensor | float | None
) -> Callable[[], Tensor]:
    # Groups start near loc 0 and scale 1, where standardising is dividing by the base scale.
    unit = 1.0 if base_scale is None else base_scale
    return lambda: (init() if callable(init) else init) / unit


def _like(base_scale: Any, init: Any, loc: Hyper, scale: Hyper, grouping: Assignment) -> Tensor:
    """
    A tensor of the weights' dtype and device, to make group parameters alike. Responsibilities do
    not count: a clusterer's float64 must not change the dtype of a model in float32.
    """
    for given in (init, base_scale):
        if isinstance(given, Tensor) and given.is_floating_point():
            return given
    return like_hypers((loc, scale), grouping.device)
