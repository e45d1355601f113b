# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What a group's location or scale may be: a hyperprior, a fixed value or a learned point."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any, TypeAlias

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.distributions.transforms import AffineTransform
from torch import Tensor

from .value_checks import all_finite, all_positive


@dataclass(frozen=True)
class Learned:
    """
    A group parameter that is learned as a point, without a posterior (empirical Bayes).

    Example::

        >>> group_scale = Learned(1.0)

    :param init: first value, a number or a tensor of shape ``[G]``.
    """

    init: float | Tensor


class Floored(dist.TransformedDistribution):
    """
    A distribution over positive numbers, shifted to start at a positive floor. As the hyperprior of
    group scales it keeps a prior, and with it the posterior of its members, from shrinking to
    nothing.

    Example::

        >>> scale = Floored(dist.HalfCauchy(1.0), 0.05)
        >>> model = BayesianModule(nn.Linear(4, 1), likelihoods.Normal(), scale=scale)
        >>> trace = pyro.poutine.trace(model).get_trace(torch.ones(1, 4))
        >>> bool((trace.nodes["weights_scale"]["value"] > 0.05).all())
        True

    :param Distribution base: over positive numbers, without event shape.
    :param float floor: the least value, in units of the base scale.
    :raises ValueError: if the base is not over positive numbers or the floor is not positive.
    """

    def __init__(
        self, base: TorchDistribution, floor: float, validate_args: bool | None = None
    ) -> None:
        check_hyper("base", base, constraints.positive)
        if not 0 < floor < float("inf"):
            raise ValueError(f"floor: expected a positive number, got {floor}")
        self.floor = float(floor)
        super().__init__(base, [AffineTransform(self.floor, 1.0)], validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """All numbers above the floor."""
        return constraints.greater_than(self.floor)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Floored:
        """The same distribution, once for each element of ``batch_shape``."""
        return Floored(self.base_dist.expand(batch_shape), self.floor)


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
    holds = all_positive if support is constraints.positive else all_finite
    if not holds(torch.as_tensor(value)):
        raise ValueError(f"{argument}: expected values that are {_words(support)}, got {value}")


def sample_hyper(
    name: str,
    hyper: Hyper,
    default: TorchDistribution,
    num_groups: int,
    like: Tensor,
    support: constraints.Constraint = constraints.real,
) -> Tensor:
    """
    The statement for one group parameter, inside the group plate: a sample site for a
    distribution, a param for :class:`Learned`, a deterministic site for a fixed value.

    :param str name: site name.
    :param Tensor like: gives device and dtype of what the user gave.
    :param Constraint support: what a :class:`Learned` value must stay within.
    :return: shape ``[..., G]``.
    :raises ValueError: if a value or a batch shape does not fit ``num_groups``.
    """
    if hyper is None or isinstance(hyper, torch.distributions.Distribution):
        fn = default if hyper is None else moved(name, hyper, like)
        _check_size(name, tuple(fn.batch_shape), num_groups)
        return pyro.sample(name, fn.expand([num_groups]) if fn.batch_shape else fn)
    if isinstance(hyper, Learned):
        init = torch.as_tensor(hyper.init, dtype=like.dtype, device=like.device)
        _check_size(name, tuple(init.shape), num_groups)
        value = pyro.param(name, init.expand(num_groups).clone(), constraint=support)
        _check_size(name, tuple(value.shape), num_groups)
        return value
    fixed = torch.as_tensor(hyper, dtype=like.dtype, device=like.device)
    _check_size(name, tuple(fixed.shape), num_groups)
    return pyro.deterministic(name, fixed.expand(num_groups), event_dim=0)


def moved(
    argument: str, fn: torch.distributions.Distribution, like: Tensor
) -> torch.distributions.Distribution:
    """
    A distribution on the device and of the dtype of ``like``; itself, if it is already.

    Distributions are no modules, so that ``model.to(...)`` does not reach a user's hyperprior.

    :raises ValueError: if a part of it that cannot be moved is on another device.
    """
    if all(_is_alike(tensor, like) for tensor in tensors_of(fn)):
        return fn
    copy = _moved(fn, like, {})
    left = next((t for t in tensors_of(copy) if t.device != like.device), None)
    if left is not None:
        raise ValueError(
            f"{argument}: the weights are on {like.device}, but a part of {fn} that cannot be "
            f"moved is on {left.device}; make it there"
        )
    return copy


def tensors_of(whole: Any) -> Iterator[Tensor]:
    """The tensors that a distribution is made of, those of its base and transforms included."""
    pending, seen = [whole], set()
    while pending:
        part = pending.pop()
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, torch.nn.Module):
            yield from part.parameters()
            yield from part.buffers()
        elif type(part) in (list, tuple):
            pending.extend(part)
        elif isinstance(part, _PARTS) and id(part) not in seen:
            seen.add(id(part))  # a transform and its inverse refer to each other
            pending.extend(vars(part).values())


def like_hypers(hypers: Iterable[Hyper], device: torch.device) -> Tensor:
    """
    An empty tensor of a dtype that all of these fit, on the device of the assignment, which is
    moved with its model, unlike tensors that the model only refers to.
    """
    values = [hyper.init if isinstance(hyper, Learned) else hyper for hyper in hypers]
    found = [t for value in values for t in tensors_of(value) if t.is_floating_point()]
    if not found:
        return torch.empty((), device=device)
    dtype = reduce(torch.promote_types, [tensor.dtype for tensor in found])
    return torch.empty((), dtype=dtype, device=found[0].device if device.type == "cpu" else device)


_PARTS = (torch.distributions.Distribution, torch.distributions.transforms.Transform)


def _is_alike(tensor: Tensor, like: Tensor) -> bool:
    same_dtype = tensor.dtype == like.dtype or not tensor.is_floating_point()
    return same_dtype and tensor.device == like.device


def _moved(part: Any, like: Tensor, memo: dict[int, Any]) -> Any:
    """:param memo: copies of parts by the identity of the original, as in :mod:`copy`."""
    if isinstance(part, Tensor):
        return part.to(like.device, like.dtype if part.is_floating_point() else part.dtype)
    if type(part) in (list, tuple):
        return type(part)(_moved(item, like, memo) for item in part)
    if not isinstance(part, _PARTS) or isinstance(part, torch.nn.Module):
        return part
    if id(part) in memo:
        return memo[id(part)]
    # Not by the constructor: those of composed distributions do not take their own parameters.
    copy = memo[id(part)] = object.__new__(type(part))
    for name, value in vars(part).items():
        # A transform refers weakly to its inverse, which is to be made anew.
        is_inverse = name == "_inv" and isinstance(value, weakref.ref)
        copy.__dict__[name] = None if is_inverse else _moved(value, like, memo)
    return copy


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
