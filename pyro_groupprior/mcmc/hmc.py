# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Hamiltonian Monte Carlo with all chains side by side."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from .adaptation import Adaptation
from .draws import ChainDraws
from .frame import all_rows, check_counts, stack_draws, undisturbed
from .gradient import ValueAndGradient, fast, value_and_gradient
from .log_density import LogDensity
from .starts import ascend, chain_starts, resolve_ascent

TARGET = 0.8  # probability of acceptance aimed at
ASCENT_STEPS = 200
LEAST_ACCEPTED, MOST_DIVERGENT = 0.2, 0.1  # of a chain's moves, beyond which there is a warning
MOVES = 20  # after which that can be told


class ChainWarning(UserWarning):
    """A chain has hardly moved, so that its draws are not the posterior's."""


@dataclass(frozen=True, eq=False)
class HMCResult(ChainDraws):
    """
    Draws of :func:`run_hmc`.

    :param samples: the model's latent sites by name, each ``[chains, draws, ...]``.
    :param Tensor log_joint: log-density of every draw with respect to the unconstrained, decentred
        latents, but for a constant: ``[chains, draws]``.
    :param Tensor accept_prob: mean probability of acceptance of each chain after the warm-up.
    :param Tensor divergences: moves of each chain after the warm-up whose energy was lost.
    :param float step_size: after the warm-up.
    :param Tensor inverse_mass: likewise, shape ``[D]``.
    """

    log_joint: Tensor
    accept_prob: Tensor
    divergences: Tensor
    step_size: float
    inverse_mass: Tensor


def run_hmc(
    model: Callable[..., Any],
    *args: Any,
    start: Any = None,
    num_samples: int = 100,
    warmup_steps: int = 100,
    num_chains: int = 8,
    num_steps: int = 80,
    ascent_steps: int | None = None,
    thin: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> HMCResult:
    """
    Sample a posterior by HMC (Neal 2011, "MCMC using Hamiltonian dynamics"), all chains at once:
    each gradient is one run of the model under an outer plate. Every chain starts from a net of
    its own, climbs a little first, and adapts step size and mass together with the others. For
    nets, whose posteriors have many modes that no chain gets to see all of, several chains of
    moderate length predict better than one long one (Izmailov et al. 2021, "What are Bayesian
    neural network posteriors really like?", section 5).

    All data are used at every step: for tens of thousands of rows take a guide instead. Point
    parameters, such as those of norm layers, stay as they are. From 5,000 gradients on, they are
    compiled, if there is a compiler.

    Example::

        >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal(), num_data=9)
        >>> x = torch.randn(9, 2)
        >>> options = {"num_samples": 5, "warmup_steps": 5, "num_chains": 2, "num_steps": 4}
        >>> result = mcmc.run_hmc(model, x, x[:, :1], progress=False, **options)
        >>> result.samples["weights"].shape
        torch.Size([2, 5, 3])
        >>> predict(model, result, x).mean.shape
        torch.Size([9, 1])

    :param callable model: a Pyro model that allows outer plates, such as a
        :class:`~pyro_groupprior.BayesianModule`; it runs in evaluation mode.
    :param args: what it is run with, all data; moved to the model's device.
    :param start: where chains start: a trained guide, of which each takes a draw; values by site,
        each ``[chains, ...]``, such as a former result's last draws; or None: each chain's weights
        come from a fresh initialisation of the net, all else from the prior median.
    :param int num_samples: draws kept of each chain.
    :param int warmup_steps: moves before, in which step size and mass are found, also where
        ``start`` goes on from former draws; some dozens at least, to be of use.
    :param int num_chains: how many chains.
    :param int num_steps: leapfrog steps of a move on average; each move takes between half and
        one and a half times as many, drawn at random.
    :param int ascent_steps: steps of Adam on each chain's log-density before the first move: a few,
        since a mode is far from where a posterior of many weights has its mass; default: 200, or
        none from a ``start``.
    :param int thin: moves for each draw that is kept.
    :param int seed: the same seed gives the same draws. The process keeps its random state.
    :param bool progress: show a progress bar.
    :return: the draws. There is a :class:`~pyro_groupprior.mcmc.ChainWarning` if a chain has hardly
        moved: all have one step size, which may be too long for where one of them is.
    :raises TypeError: if ``start`` or a number is of the wrong kind.
    :raises ValueError: if a number is out of range, ``start`` has not a value for each site, data
        or the log-density at the start are not finite, or the model has no latent sites, no
        observations, another ``num_data`` than rows, or cannot run under an outer plate.
    """
    check_counts(1, num_samples=num_samples, warmup_steps=warmup_steps, thin=thin)
    check_counts(1, num_chains=num_chains, num_steps=num_steps)
    ascent_steps = resolve_ascent(ascent_steps, start, ASCENT_STEPS)
    args = all_rows(model, args)
    with undisturbed(model, seed), ExitStack() as stack:
        density = LogDensity(model, args)
        # Validation would check every chain's every value, for a third of the time.
        stack.enter_context(pyro.validation_enabled(False))
        position = density.unconstrain(chain_starts(density, start, num_chains))
        density.check_chains(position)
        num_gradients = ascent_steps + num_steps * (warmup_steps + thin * num_samples)
        evaluate = fast(value_and_gradient(density), num_gradients, position)
        position = ascend(evaluate, position, itertools.repeat((), ascent_steps))
        chains = Chains(evaluate, position, num_steps)
        adaptation = Adaptation(density.size, warmup_steps, TARGET, position)
        bar = tqdm(total=warmup_steps + thin * num_samples, disable=not progress, unit="move")
        for _ in range(warmup_steps):
            accept_prob, _ = chains.move(adaptation)
            adaptation.update(chains.position, accept_prob)
            bar.update()
        adaptation.finish()
        kept: list[tuple[dict[str, Tensor], Tensor]] = []
        accepted, diverged = position.new_zeros(num_chains), position.new_zeros(num_chains)
        for number in range(1, thin * num_samples + 1):
            accept_prob, divergent = chains.move(adaptation)
            accepted, diverged = accepted + accept_prob, diverged + divergent
            if number % thin == 0:
                kept.append((density.constrain(chains.position), chains.log_joint))
            bar.set_postfix(accept=f"{float(accepted.mean()) / number:.2f}", refresh=False)
            bar.update()
        bar.close()
    _check_moves(accepted / number, diverged / number, number)
    return HMCResult(
        stack_draws([draw for draw, _ in kept]),
        torch.stack([log_joint for _, log_joint in kept], 1),
        accepted / number,
        diverged.long(),
        adaptation.step_size,
        adaptation.inverse_mass,
    )


def _check_moves(accepted: Tensor, diverged: Tensor, number: int) -> None:
    """
    Warn of chains that stand still.

    :param Tensor accepted: share of each chain's moves, ``[C]``.
    :param Tensor diverged: likewise.
    :param int number: of moves.
    """
    stuck = (accepted < LEAST_ACCEPTED) | (diverged > MOST_DIVERGENT)
    if number >= MOVES and bool(stuck.any()):
        warnings.warn(
            f"chains {stuck.nonzero()[:, 0].tolist()} of {len(stuck)} have hardly moved: "
            f"{float(accepted[stuck].min()):.0%} of proposals accepted, up to "
            f"{float(diverged[stuck].max()):.0%} divergent. Their draws are not the posterior's: "
            "leave them out, or take a longer warm-up or more chains",
            ChainWarning,
            stacklevel=3,
        )


class Chains:
    """
    Where the chains are, and how they move.

    :param evaluate: of positions ``[C, D]``, gives log-densities ``[C]`` and gradients.
    :param Tensor position: where they start, ``[C, D]``.
    :param int num_steps: leapfrog steps of a move on average.
    :raises ValueError: if the log-density there is not finite.
    """

    def __init__(self, evaluate: ValueAndGradient, position: Tensor, num_steps: int) -> None:
        self.evaluate, self.position, self.num_steps = evaluate, position, num_steps
        self.log_joint, self.gradient = evaluate(position)
        if not bool(self.log_joint.isfinite().all()):
            raise ValueError(
                f"model: its log-density where the chains start is not finite: "
                f"{self.log_joint.tolist()}"
            )

    def move(self, adaptation: Adaptation) -> tuple[Tensor, Tensor]:
        """One proposal for every chain: the probability of acceptance, and whether it diverged."""
        step, inverse_mass = adaptation.step_size, adaptation.inverse_mass
        length = self.num_steps * (0.5 + float(torch.rand(())))
        position, gradient, log_joint = self.position, self.gradient, self.log_joint
        momentum = torch.randn_like(position) * inverse_mass.rsqrt()
        energy = log_joint - 0.5 * (momentum.square() * inverse_mass).sum(1)
        for _ in range(max(round(length), 1)):
            momentum = momentum + 0.5 * step * gradient
            position = position + step * inverse_mass * momentum
            log_joint, gradient = self.evaluate(position)
            momentum = momentum + 0.5 * step * gradient
        change = log_joint - 0.5 * (momentum.square() * inverse_mass).sum(1) - energy
        change = change.nan_to_num(-torch.inf, posinf=-torch.inf)
        accept_prob = change.clamp(max=0).exp()
        accept = torch.rand_like(accept_prob) < accept_prob
        self.position = torch.where(accept[:, None], position, self.position)
        self.gradient = torch.where(accept[:, None], gradient, self.gradient)
        self.log_joint = torch.where(accept, log_joint, self.log_joint)
        return accept_prob, change < -1000
