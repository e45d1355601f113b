# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Stochastic-gradient MCMC with all chains side by side."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, islice, repeat
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from ..batch import count_rows, take_rows
from ..nn.draws import NOT_BATCHABLE
from ..svi.checks import check_num_rows
from ..svi.parameters import quiet
from .draws import ChainDraws
from .frame import check_counts, placed, stack_draws, undisturbed
from .gradient import fast, value_and_gradient
from .langevin import Batch, LangevinAdaptation
from .log_density import LogDensity, latent_nodes
from .starts import ascend, chain_starts, resolve_ascent

FIRST_LOOKS = 10  # at the curvature, before the first step
BETWEEN_LOOKS, BETWEEN_DIFFERENCES = 50, 10  # steps
ASCENT_STEPS = 5000
HOT = 1.3  # temperature that is warned of, and five standard errors on top


class TemperatureWarning(UserWarning):
    """
    Chains have run hotter than the posterior, so that their draws lie too wide: some chain's mean
    temperature, over all latents, was above 1.3 by more than chance.
    """


@dataclass(frozen=True, eq=False)
class SGMCMCResult(ChainDraws):
    """
    Draws of :func:`run_sgmcmc`.

    :param samples: the model's latent sites by name, each ``[chains, draws, ...]``.
    :param Tensor temperature: mean square of each chain's momenta after the warm-up, ``[chains]``:
        1 on average where it draws from the posterior; above it, the posterior is drawn too wide.
    :param Tensor step_size: of each chain and unconstrained latent, ``[chains, D]``.
    """

    temperature: Tensor
    step_size: Tensor


def run_sgmcmc(
    model: Callable[..., Any],
    *args: Any,
    batch_size: int = 256,
    start: Any = None,
    num_samples: int = 100,
    warmup_steps: int = 4000,
    num_chains: int = 8,
    memory: float = 80.0,
    ascent_steps: int | None = None,
    thin: int = 40,
    seed: int = 0,
    progress: bool = True,
) -> SGMCMCResult:
    """
    Sample a posterior by underdamped Langevin dynamics on minibatches (Chen et al. 2014,
    "Stochastic gradient Hamiltonian Monte Carlo"; integrator BAOA), all chains at once, for data
    too large for :func:`run_hmc`. Nothing is rejected: draws are as good as the steps are small,
    so these are chosen while warming up, for each latent of each chain, from its site's curvature
    and the noise of the minibatches, for which the injected noise makes room
    (:class:`~pyro_groupprior.mcmc.langevin.LangevinAdaptation`).

    Of a few hundred rows take :func:`run_hmc`: where weights are many more, the climb can end at a
    noise of next to nothing, from which these chains do not come back (diabetes in
    ``benchmarks/gap.py``).

    Every chain starts from a net of its own and climbs first. Point parameters, such as those of
    norm layers, stay as they are. Each chain draws the rows of its batches for itself, or its noise
    would be that of the others too, and with replacement: the noise of batches that take turns is
    not independent, and to make room for it would cool the chains.

    Example::

        >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal(), num_data=100)
        >>> x = torch.randn(100, 2)
        >>> y = x[:, :1] + torch.randn(100, 1)
        >>> options = {"num_samples": 5, "warmup_steps": 500, "num_chains": 2, "ascent_steps": 500}
        >>> result = mcmc.run_sgmcmc(model, x, y, batch_size=50, progress=False, **options)
        >>> result.samples["weights"].shape
        torch.Size([2, 5, 3])
        >>> predict(model, result, x).mean.shape
        torch.Size([100, 1])

    :param callable model: a Pyro model that allows outer plates, such as a
        :class:`~pyro_groupprior.BayesianModule`; it runs in evaluation mode.
    :param args: what it is run with, all data: tensors of ``N`` rows, in any nesting; moved to the
        model's device. The model has to scale a batch up to ``N`` rows, as with
        ``BayesianModule(num_data=N)``.
    :param int batch_size: rows of a batch; all rows at every step, if there are no more.
    :param start: where chains start: a trained guide, of which each takes a draw; values by site,
        each ``[chains, ...]``, such as a former result's last draws; or None: each chain's weights
        come from a fresh initialisation of the net, all else from the prior median.
    :param int num_samples: draws kept of each chain.
    :param int warmup_steps: steps before, in which step sizes are found: they begin at a tenth of
        what seems right, and take some 1,200 steps to get there.
    :param int num_chains: how many chains.
    :param float memory: steps after which a momentum has lost all but a share 1/e.
    :param int ascent_steps: steps of Adam on each chain's log-density before the first: they come
        closer to the posterior than as many of the warm-up; default: 5,000, or none from a
        ``start``.
    :param int thin: steps for each draw that is kept.
    :param int seed: the same seed gives the same draws. The process keeps its random state.
    :param bool progress: show a progress bar.
    :return: the draws. There is a :class:`~pyro_groupprior.mcmc.TemperatureWarning` if a chain has
        run hot.
    :raises TypeError: if ``start`` or a number is of the wrong kind.
    :raises ValueError: if a number is out of range, ``start`` has not a value for each site,
        data are not finite or of unequal rows, or the model has no latent sites, has latents of
        single rows, or does not know the size of data that come in batches.
    :raises FloatingPointError: if the chains run away to where gradients are not finite.
    """
    check_counts(1, batch_size=batch_size, num_samples=num_samples, num_chains=num_chains)
    check_counts(1, thin=thin)
    check_counts(0, warmup_steps=warmup_steps)
    ascent_steps = resolve_ascent(ascent_steps, start, ASCENT_STEPS)
    if not 1 <= memory < math.inf:
        raise ValueError(f"memory: expected at least 1 and finite, got {memory}")
    num_rows = count_rows(args, "args")
    check_num_rows(model, num_rows, batch_size)
    args = placed(model, args)
    with undisturbed(model, seed), ExitStack() as stack:
        _check_all(model, args, num_rows, batch_size)
        density = LogDensity(model, take_rows(args, torch.arange(min(batch_size, num_rows))))
        _check_latents(model, args, density)
        # Validation would check every chain's every value, for a third of the time.
        stack.enter_context(pyro.validation_enabled(False))
        position = density.unconstrain(chain_starts(density, start, num_chains))
        density.check_chains(position)
        batches: Iterator[Batch] = repeat(())
        log_joint: Callable[..., Tensor] = density
        if batch_size < num_rows:
            size = (num_chains, batch_size)
            batches = ((torch.randint(num_rows, size, device=position.device),) for _ in count())
            log_joint = _on_rows(density, args, position, *next(batches))
        total = warmup_steps + thin * num_samples
        num_calls = ascent_steps + total
        examples = next(batches), next(batches)
        evaluate = fast(value_and_gradient(log_joint), num_calls, position, *examples)
        position = ascend(evaluate, position, islice(batches, ascent_steps))
        momentum = torch.randn_like(position)
        places = [site.place for site in density.sites.values()]
        adaptation = LangevinAdaptation(places, position, memory)
        for _ in range(FIRST_LOOKS):
            adaptation.look(evaluate, position, next(batches))
        kept: list[dict[str, Tensor]] = []
        heat = position.new_zeros(num_chains)
        for number in tqdm(range(1, total + 1), disable=not progress, unit="step"):
            batch = next(batches)
            _, gradient = evaluate(position, *batch)
            if number % BETWEEN_DIFFERENCES == 1:
                adaptation.see_noise(gradient, evaluate(position, *next(batches))[1])
            if number == 1 or (number % BETWEEN_LOOKS == 0 and number <= warmup_steps):
                adaptation.look(evaluate, position, next(batches))
                adaptation.grow(momentum)
            position, momentum = adaptation.move(position, momentum, gradient)
            if number > warmup_steps:
                heat += momentum.square().mean(1)
                if (number - warmup_steps) % thin == 0:
                    kept.append(density.constrain(position))
        temperature = heat / (thin * num_samples)
        independent = max(thin * num_samples / memory, 1) * density.size
        _check_temperature(temperature, HOT + 5 * math.sqrt(2 / independent))
    return SGMCMCResult(stack_draws(kept), temperature, adaptation.step)


def _on_rows(
    density: LogDensity, args: Batch, position: Tensor, rows: Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """The log-density of every chain on rows of its own, ``[C, D]`` and ``[C, B]`` to ``[C]``."""

    def one(position: Tensor, rows: Tensor) -> Tensor:
        return density(position.unsqueeze(0), *take_rows(args, rows))[0]

    try:
        torch.vmap(one)(position, rows)
    except NOT_BATCHABLE:  # a true error shows again
        return lambda position, rows: torch.stack(list(map(one, position, rows)))
    return torch.vmap(one)


def _check_all(model: Callable[..., Any], args: Batch, num_rows: int, batch_size: int) -> None:
    """A likelihood looks at its observations while validation is on: at all of them, once."""
    with poutine.block():
        for start in range(0, num_rows, batch_size):
            model(*take_rows(args, torch.arange(start, min(start + batch_size, num_rows))))


def _check_latents(model: Callable[..., Any], args: Batch, density: LogDensity) -> None:
    """Latents of single rows would be taken for those of other rows at every step."""
    with quiet(model), poutine.block():
        trace = poutine.trace(model).get_trace(*take_rows(args, torch.arange(1)))
    for name, node in latent_nodes(trace).items():
        if node["value"].shape != density.shapes[name]:
            raise ValueError(
                f"model: expected the same latents for all rows, but {name!r} has the shape "
                f"{tuple(density.shapes[name])} for a batch and {tuple(node['value'].shape)} for "
                "one row"
            )


def _check_temperature(temperature: Tensor, most: float) -> None:
    if not bool(temperature.isfinite().all()):
        raise FloatingPointError("model: chains have run away to where its gradient is not finite")
    if float(temperature.max()) > most:
        warnings.warn(
            f"chains have run at up to {float(temperature.max()):.2f} times the posterior's "
            "temperature, so their draws lie too wide: take larger batches or a longer warm-up",
            TemperatureWarning,
            stacklevel=3,
        )
