# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Log-densities of several chains with their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Documented under torch.func as the way to see what a transform does, though its home is not.
from torch.fx.experimental.proxy_tensor import make_fx

# Of positions [C, D] and, where there are any, data.
ValueAndGradient = Callable[..., tuple[Tensor, Tensor]]
WORTH_COMPILING = 5_000  # gradients: a small net's take that many milliseconds more uncompiled
# Inductor would work weights out anew for each row that reads them; this keeps them in memory.
OPTIONS: dict[str, Any] = {"realize_reads_threshold": 2, "realize_opcount_threshold": 5}


def value_and_gradient(density: Callable[..., Tensor]) -> ValueAndGradient:
    """
    The function that gives a log-density and its gradient, run op by op as written.

    Example::

        >>> from pyro_groupprior.mcmc.gradient import value_and_gradient
        >>> value_and_gradient(lambda position: position.square().sum(1))(torch.ones(2, 1))
        (tensor([1., 1.]), tensor([[2.],
                [2.]]))

    :param callable density: of positions ``[C, D]``, and of data where there are any, gives
        ``[C]``; each chain's for itself.
    """

    def evaluate(position: Tensor, *data: Any) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            position = position.detach().requires_grad_(True)
            value = density(position, *data)
            # Chains do not depend on each other: one backward pass serves all.
            (gradient,) = torch.autograd.grad(value.sum(), position)
        return value.detach(), gradient

    return evaluate


def fast(
    evaluate: ValueAndGradient, num_calls: int, position: Tensor, *batches: tuple[Any, ...]
) -> ValueAndGradient:
    """
    The same function as fast as it is worth for so many calls.

    Example::

        >>> from pyro_groupprior.mcmc.gradient import fast, value_and_gradient
        >>> evaluate = value_and_gradient(lambda position: position.square().sum(1))
        >>> fast(evaluate, 10, torch.ones(2, 1))(torch.full((2, 1), 2.0))[0]
        tensor([4., 4.])

    :param int num_calls: how often it will be called: by number, not by time, since the same seed
        is to give the same draws.
    :param Tensor position: of the shape that it will be called with.
    :param batches: data, as for :func:`recorded`.
    """
    graph = recorded(evaluate, position, *batches)
    worth = graph is not evaluate and num_calls >= WORTH_COMPILING
    return compiled(graph, position, *batches) if worth else graph


def recorded(
    evaluate: ValueAndGradient, position: Tensor, *batches: tuple[Any, ...]
) -> ValueAndGradient:
    """
    The same function without the Python around its tensor operations, which are recorded at one
    position: Pyro's handlers take as long as a small net. What cannot be recorded (a model whose
    branches depend on values) or does not repeat itself (one that draws numbers of its own) is
    given back as it is.

    Example::

        >>> from pyro_groupprior.mcmc.gradient import recorded, value_and_gradient
        >>> evaluate = value_and_gradient(lambda position: position.square().sum(1))
        >>> recorded(evaluate, torch.ones(2, 1))(torch.full((2, 1), 2.0))[0]
        tensor([4., 4.])

    :param Tensor position: of the shape that it will be called with.
    :param batches: data of the shape that it will be called with, where it takes any: it is
        recorded with the first of these tuples and has to agree on all.
    """
    batches = batches or ((),)
    try:
        graph = make_fx(evaluate)(position, *batches[0])
    except RuntimeError:  # a value was asked for
        return evaluate
    graph.graph.eliminate_dead_code()
    graph.recompile()
    moved = position + 0.01 * torch.randn_like(position)
    same = all(_agree(graph(moved, *data), evaluate(moved, *data)) for data in batches)
    return graph if same else evaluate


def compiled(
    evaluate: ValueAndGradient, position: Tensor, *batches: tuple[Any, ...]
) -> ValueAndGradient:
    """
    The same function by :func:`torch.compile`, which takes some seconds, for a shape that is new
    to the machine some dozen. Without a working compiler it is given back as it is.

    Example::

        >>> from pyro_groupprior.mcmc.gradient import compiled, recorded, value_and_gradient
        >>> position = torch.ones(2, 1)
        >>> graph = recorded(value_and_gradient(lambda z: z.square().sum(1)), position)
        >>> compiled(graph, position)(torch.full((2, 1), 2.0))[0]
        tensor([4., 4.])

    :param callable evaluate: what :func:`recorded` gives: tensor operations only.
    :param Tensor position: of the shape that it will be called with.
    :param batches: data, as for :func:`recorded`.
    """
    batches = batches or ((),)
    try:
        translated = torch.compile(evaluate, dynamic=False, options=OPTIONS)
    except RuntimeError:  # a release that does not know them
        translated = torch.compile(evaluate, dynamic=False)
    try:
        again = [translated(position, *data) for data in batches]
    except RuntimeError:
        return evaluate
    expected = [evaluate(position, *data) for data in batches]
    return translated if all(map(_agree, again, expected)) else evaluate


def _agree(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> bool:
    """Chain by chain, up to rounding: it is all that is left of sums that come to nothing."""
    return all(
        torch.allclose(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()))
        for a, b in zip(found, expected, strict=True)
        for one, other in zip(a, b, strict=True)
    )
