# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Where chains start, and how they climb to where the posterior is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ..batch import device_of, move_batch
from ..guides import init_to_weights, posterior_draws
from ..nn import BayesianModule
from ..svi.parameters import quiet
from .frame import check_counts
from .gradient import ValueAndGradient
from .log_density import LogDensity, latent_nodes

ASCENT_RATE = 0.01  # of Adam, in units of decentred latents, whose priors are about 1 wide


def resolve_ascent(ascent_steps: int | None, start: Any, default: int) -> int:
    """
    How many steps chains climb before they warm up: none by default where they are told a start.

    Example::

        >>> from pyro_groupprior.mcmc.starts import resolve_ascent
        >>> resolve_ascent(None, None, 1000), resolve_ascent(None, "prior", 1000)
        (1000, 0)

    :raises TypeError: if it is no integer.
    :raises ValueError: if it is negative.
    """
    if ascent_steps is None:
        return default if start is None else 0
    check_counts(0, ascent_steps=ascent_steps)
    return ascent_steps


def chain_starts(density: LogDensity, start: Any, num_chains: int) -> Mapping[str, Tensor]:
    """
    Values of the model's own latent sites, each ``[C, ...]``.

    :param LogDensity density: of the model and its data.
    :param start: a trained guide, of which each chain takes a draw; values by site, each
        ``[C, ...]``; ``"prior"``, for draws of the model's own; or None: each chain's weights come
        from a fresh initialisation of the net, or, where it has none, from its base scale, all else
        from the prior median.
    :param int num_chains: how many chains.
    :raises TypeError: if ``start`` is of the wrong kind.
    :raises ValueError: if it is another name, or has not just the latent sites, or other shapes.
    """
    model, args = density.original, density.args
    if start is None:
        with quiet(model):
            old = _first_values(model, args)
        nets = [_fresh_values(density, old) for _ in range(num_chains)]
        return {name: torch.stack([values[name] for values in nets]) for name in nets[0]}
    if isinstance(start, str):
        if start != "prior":
            raise ValueError(f"start: expected 'prior', a guide or values by site, got {start!r}")
        with quiet(model), torch.no_grad():
            traces = [pyro.poutine.trace(model).get_trace(*args) for _ in range(num_chains)]
        values = [latent_nodes(trace) for trace in traces]
        return {name: torch.stack([v[name]["value"] for v in values]) for name in density.shapes}
    if isinstance(start, Mapping):
        expected = {name: (num_chains, *shape) for name, shape in density.shapes.items()}
        odd = [type(v).__name__ for v in start.values() if not isinstance(v, Tensor)]
        if odd:
            raise TypeError(f"start: expected tensors by site, got {odd[0]}")
        got = {name: tuple(value.shape) for name, value in start.items()}
        if got != expected:
            raise ValueError(f"start: expected values of shapes {expected}, got {got}")
        return move_batch(start, device_of(model))
    if not callable(start):
        raise TypeError(f"start: expected a guide or values by site, got {type(start).__name__}")
    return posterior_draws(start, num_chains, *args)


def ascend(
    evaluate: ValueAndGradient, position: Tensor, batches: Iterable[tuple[Any, ...]]
) -> Tensor:
    """
    Climb by Adam, one step for each batch.

    :param callable evaluate: log-density and gradient at positions ``[C, D]``, given a batch.
    :param Tensor position: where the chains are, shape ``[C, D]``.
    :param batches: data for each step; empty tuples where there is nothing to be said.
    """
    position = position.clone()
    optimizer = torch.optim.Adam([position], lr=ASCENT_RATE)
    for batch in batches:
        _, gradient = evaluate(position, *batch)
        position.grad = -gradient
        optimizer.step()
    return position.detach()


def _first_values(model: Callable[..., Any], args: tuple[Any, ...]) -> dict[str, Tensor]:
    """Weights as the net has them, all else at the prior median."""
    with torch.no_grad():
        started = pyro.infer.autoguide.initialization.InitMessenger(init_to_weights)(model)
        trace = pyro.poutine.trace(started).get_trace(*args)
    return {name: node["value"].detach() for name, node in latent_nodes(trace).items()}


def _fresh_values(density: LogDensity, old: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """
    Weights as newly initialised, all else as it was. Weights that no initialisation moves, such as
    parameters of a module of the user's own, are drawn as widely as their base scale says: from
    one place, chains would agree before they have seen anything.
    """
    model = density.original
    if isinstance(model, nn.Module):
        model = copy.deepcopy(model)
        for module in model.modules():
            if isinstance(module, BayesianModule):
                for part in module.net.modules():
                    reset = getattr(part, "reset_parameters", None)
                    if callable(reset):
                        reset()
    values = _first_values(model, density.args)
    for name, scale in density.base_scales.items():
        unmoved = values[name] == old[name]
        if bool(unmoved.any()):
            drawn = torch.randn_like(values[name]) * scale
            values[name] = torch.where(unmoved, drawn, values[name])
    return values
