# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What all runs of chains have in common: numbers are checked, nothing outside is moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ..batch import check_batch, count_rows, device_of, move_batch
from ..nn import BayesianModule
from ..svi.checks import check_num_rows
from ..svi.parameters import quiet


def check_counts(least: int, **counts: int) -> None:
    """
    Refuse counts that are too small, or no whole numbers.

    Example::

        >>> from pyro_groupprior.mcmc.frame import check_counts
        >>> check_counts(1, num_samples=0)
        Traceback (most recent call last):
            ...
        ValueError: num_samples: expected at least 1, got 0

    :param int least: the least allowed.
    :param counts: by the name of the argument.
    :raises TypeError: if one is no integer.
    :raises ValueError: if one is too small.
    """
    for name, count in counts.items():
        if not isinstance(count, Integral):
            raise TypeError(f"{name}: expected an integer, got {count!r}")
        if count < least:
            raise ValueError(f"{name}: expected at least {least}, got {count}")


def placed(model: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
    """
    Data on the model's device.

    Example::

        >>> from pyro_groupprior.mcmc.frame import placed
        >>> placed(lambda x: None, (torch.ones(1),))
        (tensor([1.]),)

    :raises ValueError: if they are not finite.
    """
    check_batch(args, "args")
    return move_batch(args, device_of(model))


def all_rows(model: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
    """
    Data on the model's device, checked to be all that the model knows of.

    Example::

        >>> from pyro_groupprior.mcmc.frame import all_rows
        >>> model = BayesianModule(nn.Linear(1, 1), likelihoods.Normal(), num_data=3)
        >>> all_rows(model, (torch.ones(2, 1), torch.ones(2, 1)))
        Traceback (most recent call last):
            ...
        ValueError: num_data: expected BayesianModule(num_data=2), as many as args have rows, got 3

    :raises ValueError: if they are not finite, or another number of rows than the model's.
    """
    if isinstance(model, BayesianModule):
        check_num_rows(model, num_rows := count_rows(args, "args"), num_rows)
    return placed(model, args)


@contextmanager
def undisturbed(model: Callable[..., Any], seed: int) -> Iterator[None]:
    """
    Run chains of a model in evaluation mode, from a seed and without gradients of point parameters;
    afterwards all is as before, the process's random state included.

    Example::

        >>> from pyro_groupprior.mcmc.frame import undisturbed
        >>> with undisturbed(lambda: None, seed=0):
        ...     first = torch.randn(2)
        >>> with undisturbed(lambda: None, seed=0):
        ...     bool((torch.randn(2) == first).all())
        True
    """
    with quiet(model):
        torch.manual_seed(seed)
        yield


def stack_draws(draws: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """
    Draws by site, each ``[chains, draws, ...]``, of one ``[chains, ...]`` after the other.

    Example::

        >>> from pyro_groupprior.mcmc.frame import stack_draws
        >>> stack_draws([{"z": torch.zeros(4, 3)}] * 100)["z"].shape
        torch.Size([4, 100, 3])
    """
    return {name: torch.stack([draw[name] for draw in draws], 1) for name in draws[0]}
