# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Log-densities of several chains with their gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Documented under torch.func as the way to see what a transform does, though its home is not.
from torch.fx.experimental.proxy_tensor import make_fx

ValueAndGradient = Callable[[Tensor], tuple[Tensor, Tensor]]


def value_and_gradient(density: Callable[[Tensor], Tensor]) -> ValueAndGradient:
    """
    The function that gives a log-density and its gradient, run op by op as written.

    Example::

        >>> from pyro_groupprior.mcmc.gradient import value_and_gradient
        >>> value_and_gradient(lambda position: position.square().sum(1))(torch.ones(2, 1))
        (tensor([1., 1.]), tensor([[2.],
                [2.]]))

    :param callable density: of positions ``[C, D]``, gives ``[C]``; each chain's for itself.
    """

    def evaluate(position: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            position = position.detach().requires_grad_(True)
            value = density(position)
            # Chains do not depend on each other: one backward pass serves all.
            (gradient,) = torch.autograd.grad(value.sum(), position)
        return value.detach(), gradient

    return evaluate


def recorded(evaluate: ValueAndGradient, position: Tensor) -> ValueAndGradient:
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
    """
    try:
        graph = make_fx(evaluate)(position)
    except RuntimeError:  # a value was asked for
        return evaluate
    graph.graph.eliminate_dead_code()
    graph.recompile()
    moved = position + 0.01 * torch.randn_like(position)
    return graph if _agree(graph(moved), evaluate(moved)) else evaluate


def compiled(evaluate: ValueAndGradient, position: Tensor) -> ValueAndGradient:
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
    """
    fast = torch.compile(evaluate, dynamic=False)
    try:
        again = fast(position)
    except RuntimeError:
        return evaluate
    return fast if _agree(again, evaluate(position)) else evaluate


def _agree(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-3) for a, b in zip(found, expected, strict=True))
