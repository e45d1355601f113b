# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A model's potential energy in the form that Pyro's kernels take, fast."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .gradient import ValueAndGradient

SITE = "z"  # the one site that kernels see: the flat, unconstrained position


class Potential:
    """
    Minus a log-density, for :class:`pyro.infer.HMC` and :class:`pyro.infer.NUTS`: value and
    gradient come from one call of a function that was made fast before.

    Example::

        >>> from pyro_groupprior.mcmc.gradient import value_and_gradient
        >>> from pyro_groupprior.mcmc.potential import Potential
        >>> potential = Potential(value_and_gradient(lambda z: -0.5 * z.square().sum(1)))
        >>> float(potential({"z": torch.tensor([3.0, 4.0])})), potential.num_calls
        (12.5, 1)
        >>> kernel = pyro.infer.NUTS(potential_fn=potential)

    :param callable evaluate: of positions ``[1, D]``, gives log-density ``[1]`` and gradient
        ``[1, D]``.
    """

    def __init__(self, evaluate: ValueAndGradient) -> None:
        self.evaluate = evaluate
        self.data: tuple[Tensor, ...] = ()  #: what it is called with besides
        self.num_calls = 0  #: leapfrog steps, and some calls more where kernels start

    def __call__(self, params: dict[str, Tensor]) -> Tensor:
        """:param params: the position, ``[D]``, under the name ``"z"``."""
        self.num_calls += 1
        energy: Tensor = _Energy.apply(params[SITE], self.evaluate, self.data)
        return energy


class _Energy(torch.autograd.Function):
    """The gradient is worked out along with the value, and kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, position: Tensor, evaluate: ValueAndGradient, data: tuple[Tensor, ...]
    ) -> Tensor:
        value, gradient = evaluate(position.detach()[None], *data)
        ctx.gradient = gradient[0]
        return -value[0]

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None]:
        return -ctx.gradient * outputs[0], None, None
