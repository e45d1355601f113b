# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""One chain of a kernel of Pyro's."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pyro
import torch
from pyro.infer import HMC
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor
from tqdm import tqdm

from ..svi.random_state import get_random_state, set_random_state
from .assignment_moves import AssignmentMoves
from .chain_files import ChainFiles
from .frame import undisturbed
from .gradient import fast, value_and_gradient
from .log_density import LogDensity
from .potential import SITE, Potential

KEPT, KEPT_BYTES = 100, 2**26  # draws between two files, and memory for them, at most
_STEPS = 50  # of a move, roughly: whether compiling pays


@dataclass(frozen=True)
class ChainResult:
    """
    What a chain gives back.

    :param samples: by site, each ``[S, ...]``; none where they are in files.
    :param stats: by name, each ``[S]``, likewise.
    :param float step_size: after the warm-up.
    :param float accept_prob: mean probability of acceptance after the warm-up.
    """

    samples: dict[str, Tensor]
    stats: dict[str, Tensor]
    step_size: float
    accept_prob: float


@dataclass(frozen=True)
class Chain:
    """
    All that a chain needs but its number, seed and start; may be sent to another process.

    :param callable model: the model.
    :param args: what it is run with.
    :param kernel: makes the kernel from a ``potential_fn``.
    :param steps: of the warm-up, and draws.
    :param int planned: moves by which it was decided at first whether compiling pays.
    :param files: where draws are kept, by the chain's number; None to keep them in memory.
    :param bool progress: show a progress bar.
    :param store: learned points, for processes that have none of them.
    :param concentration: of groups' proportions, where assignments are drawn between moves.
    :param origin: process and thread that asked for it.
    """

    model: Callable[..., Any]
    args: tuple[Any, ...]
    kernel: Callable[..., HMC]
    steps: tuple[int, int]
    planned: int
    files: Callable[[int], ChainFiles] | None
    progress: bool
    store: Any
    concentration: float | None = None
    origin: tuple[int, int] = field(default_factory=lambda: (os.getpid(), threading.get_ident()))

    def __call__(self, number: int, seed: int, position: Tensor) -> ChainResult | None:
        """
        :param Tensor position: where it starts, ``[D]``.
        :return: None where all draws are in files already.
        :raises RuntimeError: in a thread beside the one that asked for it.
        """
        process, thread = self.origin
        if os.getpid() == process and threading.get_ident() != thread:
            raise RuntimeError(
                "run_mcmc: chains need a process each, as Pyro's state and torch's random numbers "
                "are a process's; got a joblib backend of threads"
            )
        files = None if self.files is None else self.files(number)
        if files is not None and files.num_draws >= self.steps[1]:
            return None
        if self.store is not None:
            pyro.get_param_store().set_state(self.store)
        with undisturbed(self.model, seed), pyro.validation_enabled(False):
            density = LogDensity(self.model, self.args)
            calls = _STEPS * self.planned
            moves = None
            if self.concentration is not None:
                moves = AssignmentMoves(density, self.concentration)
            data = () if moves is None else moves.indices
            evaluate = value_and_gradient(density if moves is None else moves)
            examples = [] if moves is None else [data, moves.others]
            potential = Potential(fast(evaluate, calls, position[None], *examples))
            potential.data = data
            run = _Run(density, potential, self, number, files, moves)
            with torch.enable_grad():  # the kernels do not say so themselves
                return run(position)


def make_kernel(kernel: Callable[..., HMC], potential: Potential, **options: Any) -> HMC:
    """
    Make a kernel, and see that it is one.

    :raises TypeError: if it is none of Pyro's HMC or NUTS over this potential.
    """
    expected = (
        "kernel: expected what makes one from potential_fn, such as pyro.infer.NUTS or "
        "functools.partial(pyro.infer.HMC, num_steps=20)"
    )
    if isinstance(kernel, HMC) or not callable(kernel):
        raise TypeError(f"{expected}, got {type(kernel).__name__}")
    try:
        made = kernel(potential_fn=potential, **options)
    except TypeError as error:
        raise TypeError(f"{expected}, got {kernel!r}: {error}") from error
    if not isinstance(made, HMC):
        raise TypeError(f"{expected}, got what makes {type(made).__name__}")
    return made


_Standing: TypeAlias = "tuple[Tensor, tuple[Tensor, ...], Any]"  # position, groups, random state
_Kept: TypeAlias = "dict[str, Any]"  # a draw, its statistics, and after the last one its standing


class _Run:
    """A chain under way."""

    def __init__(
        self,
        density: LogDensity,
        potential: Potential,
        chain: Chain,
        number: int,
        files: ChainFiles | None,
        moves: AssignmentMoves | None,
    ) -> None:
        self.density, self.potential, self.chain = density, potential, chain
        self.number, self.files, self.moves = number, files, moves
        self.kept: list[_Kept] = []
        self.cleared = False  # whether the kernel has to evaluate where it stands once more
        self.log_joint = torch.zeros(())
        self.divergences = 0
        self.before = (0, 0.0)  # draws that are there already, and their mean acceptance

    def __call__(self, position: Tensor) -> ChainResult:
        warmup_steps, num_samples = self.chain.steps
        files, resumed = self.files, self.files is not None and self.files.state_path.exists()
        if files is not None and resumed:
            kernel, position = self._resumed(files, position.device)
            warmup_steps = 0
        else:
            kernel = make_kernel(self.chain.kernel, self.potential)
            kernel.initial_params = {SITE: position}
            kernel.setup(warmup_steps)
        done = self.before[0]
        bar = tqdm(
            total=warmup_steps + num_samples - done,
            disable=not self.chain.progress,
            desc=f"chain {self.number}",
            position=self.number,
        )
        params = {SITE: position}
        for _ in range(warmup_steps):
            params = self._regrouped(kernel, kernel.sample(params))
            bar.set_postfix(kernel.logging(), refresh=False)
            bar.update()
        if files is not None and not resumed:
            self._write(files, kernel, self._standing(params), 0)
        self.log_joint = self._log_joint(params)
        kept = max(1, min(KEPT, KEPT_BYTES // (4 * self.density.size)))
        draw = done
        try:
            for draw in range(done + 1, num_samples + 1):
                params = self._move(kernel, params)
                bar.set_postfix(kernel.logging(), refresh=False)
                bar.update()
                if files is not None and (len(self.kept) == kept or draw == num_samples):
                    self._write(files, kernel, self._last(), draw)
        except KeyboardInterrupt:
            if files is not None and self.kept:
                self._write(files, kernel, self._last(), files.num_draws + len(self.kept))
            raise
        finally:
            bar.close()
        samples, stats = (_stacked([k[name] for k in self.kept]) for name in ("draw", "stats"))
        return ChainResult(samples, stats, float(kernel.step_size), self._accept_prob(kernel, draw))

    def _move(self, kernel: HMC, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Move, and keep the draw; the energy is that of where the move began."""
        self.potential.num_calls, cleared = 0, self.cleared
        with _Momentum() as momentum:
            params = kernel.sample(params)
        num_steps = self.potential.num_calls - cleared
        divergences = len(kernel.diagnostics()["divergences"])
        energy = momentum.kinetic - self.log_joint
        params = self._regrouped(kernel, params)
        self.log_joint = self._log_joint(params)
        own = self.density if self.moves is None else self.moves
        values = own.constrain(params[SITE][None] if self.moves is None else params[SITE])
        draw = {name: value[0].clone() for name, value in values.items()}
        stats = {
            "log_joint": self.log_joint.detach(),
            "energy": energy.detach(),
            "num_steps": torch.tensor(num_steps),
            "diverging": torch.tensor(divergences > self.divergences),
        }
        self.divergences = divergences
        # All at once: wherever it is interrupted, draws are those up to where the chain stands.
        kept = draw if self.moves is None else {**draw, **self.moves.draw()}
        standing = None if self.files is None else self._standing(params)
        self.kept.append({"draw": kept, "stats": stats, "standing": standing})
        if len(self.kept) > 1:
            self.kept[-2]["standing"] = None
        return params

    def _standing(self, params: dict[str, Tensor]) -> _Standing:
        indices = () if self.moves is None else self.moves.indices
        return params[SITE], indices, get_random_state()

    def _last(self) -> _Standing:
        return self.kept[-1]["standing"]

    def _regrouped(self, kernel: HMC, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Draw the assignments, where that is asked for."""
        if self.moves is None:
            return params
        position = self.moves.move(params[SITE])
        self.potential.data = self.moves.indices
        kernel.clear_cache()  # energy and gradient there were those under the former grouping
        self.cleared = True
        return {SITE: position}

    def _log_joint(self, params: dict[str, Tensor]) -> Tensor:
        prior = 0.0 if self.moves is None else self.moves.log_prior()
        return -self.potential(params).detach() + prior

    def _accept_prob(self, kernel: HMC, draws: int) -> float:
        """Over all draws; Pyro keeps that of the moves of this run."""
        done, mean = self.before
        own = float(kernel.logging()["acc. prob"])
        return (done * mean + (draws - done) * own) / draws if draws else own

    def _write(self, files: ChainFiles, kernel: HMC, standing: _Standing, draws: int) -> None:
        position, indices, (tensors, numbers) = standing
        state = {
            "position": position,
            "inverse_mass": kernel.inverse_mass_matrix[(SITE,)],
            **tensors,
        }
        state |= {f"index.{n}": index for n, index in enumerate(indices)}
        notes = {
            "step_size": float(kernel.step_size),
            "trajectory_length": float(kernel.trajectory_length),
            "accept_prob": self._accept_prob(kernel, draws),
            "random": numbers,
        }
        kept, self.kept = self.kept, []  # before: what is interrupted here is done again, not twice
        new, stats = (_stacked([k[name] for k in kept]) for name in ("draw", "stats"))
        files.write(new, stats, state, notes)

    def _resumed(self, files: ChainFiles, device: torch.device) -> tuple[HMC, Tensor]:
        """The kernel, and where the chain stands."""
        state, notes = files.read_state()
        kernel: Any = make_kernel(
            self.chain.kernel,
            self.potential,
            step_size=notes["step_size"],
            adapt_step_size=False,
            adapt_mass_matrix=False,
        )
        kernel.trajectory_length = notes["trajectory_length"]
        position = state["position"].to(device)
        if self.moves is not None:
            numbers = range(len(self.moves.indices))
            self.moves.indices = tuple(state[f"index.{n}"].to(device) for n in numbers)
            self.potential.data = self.moves.indices
        kernel.initial_params = {SITE: position}
        kernel.setup(0)
        inverse_mass = {(SITE,): state["inverse_mass"].to(device)}
        kernel.mass_matrix_adapter.inverse_mass_matrix = inverse_mass
        self.before = files.num_draws, notes["accept_prob"]
        set_random_state(state, notes["random"])
        return kernel, position


def _stacked(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Draws of one after the other, ``[S, ...]``, on the CPU."""
    return (
        {name: torch.stack([row[name] for row in rows]).cpu() for name in rows[0]} if rows else {}
    )


class _Momentum(Messenger):
    """Notes the kinetic energy of the momentum that a kernel draws before it moves."""

    kinetic: Tensor

    def _pyro_post_sample(self, msg: Message) -> None:
        if str(msg["name"]).startswith("r_t="):
            value: Any = msg["value"]
            self.kinetic = 0.5 * value.square().sum()
