# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""One chain of a kernel of Pyro's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor
from tqdm import tqdm

from .frame import undisturbed
from .gradient import fast, value_and_gradient
from .log_density import LogDensity
from .potential import SITE, Potential
from .stored import ENERGY, LOG_JOINT, ChainFiles

KEPT = 100  # draws between two files
_STEPS = 50  # of a move, roughly: whether compiling pays


@dataclass(frozen=True)
class ChainResult:
    """What a chain gives back: draws ``[S, ...]``, none where they are in files."""

    samples: dict[str, Tensor]
    log_joint: Tensor
    energy: Tensor
    divergences: int
    num_steps: int
    step_size: float


@dataclass(frozen=True)
class Chain:
    """
    All that a chain needs but its number, seed and start; may be sent to another process.

    :param callable model: the model.
    :param args: what it is run with.
    :param kernel: makes the kernel from a ``potential_fn``.
    :param steps: of the warm-up, and draws.
    :param path: a folder for the draws, or None.
    :param bool progress: show a progress bar.
    """

    model: Callable[..., Any]
    args: tuple[Any, ...]
    kernel: Callable[..., MCMCKernel]
    steps: tuple[int, int]
    path: str | Path | None
    progress: bool

    def __call__(self, number: int, seed: int, position: Tensor) -> ChainResult:
        """:param Tensor position: where it starts, ``[D]``."""
        with undisturbed(self.model, seed), pyro.validation_enabled(False):
            density = LogDensity(self.model, self.args)
            moves = sum(self.steps)
            evaluate = fast(value_and_gradient(density), _STEPS * moves, position[None])
            run = _Run(density, Potential(evaluate), number, self)
            with torch.enable_grad():  # the kernels do not say so themselves
                return run(position)


class _Run:
    """A chain under way."""

    def __init__(
        self, density: LogDensity, potential: Potential, number: int, chain: Chain
    ) -> None:
        self.density, self.potential, self.number, self.chain = density, potential, number, chain
        self.files = None if chain.path is None else ChainFiles(chain.path, number)
        self.rows: list[dict[str, Tensor]] = []
        self.firsts: list[int] = []
        self.before = {"divergences": 0, "num_steps": 0}
        self.log_joint = torch.zeros(())

    def __call__(self, position: Tensor) -> ChainResult:
        warmup_steps, num_samples = self.chain.steps
        done = 0
        if self.files is not None and self.files.state_path.exists():
            kernel, position, done = self._resumed(self.files)
            warmup_steps = 0
        else:
            kernel = self.chain.kernel(potential_fn=self.potential)
            kernel.initial_params = {SITE: position}
            kernel.setup(warmup_steps)
        self.log_joint = -self.potential({SITE: position})
        total = warmup_steps + num_samples - done
        bar = tqdm(
            total=max(total, 0), disable=not self.chain.progress, desc=f"chain {self.number}"
        )
        params = {SITE: position}
        for _ in range(warmup_steps):
            params = kernel.sample(params)
            bar.set_postfix(kernel.logging(), refresh=False)
            bar.update()
        self.potential.num_calls = 0
        for draw in range(done, num_samples):
            with _Momentum() as momentum:
                params = kernel.sample(params)
            self._keep(params[SITE], momentum.kinetic)
            bar.set_postfix(kernel.logging(), refresh=False)
            bar.update()
            if self.files is not None and (len(self.rows) == KEPT or draw == num_samples - 1):
                self._write(self.files, kernel, params[SITE], draw + 1)
        bar.close()
        rows = self._stacked() if self.files is None else {}
        return ChainResult(
            {name: value for name, value in rows.items() if not name.startswith("_")},
            rows.get(LOG_JOINT, torch.zeros(0)),
            rows.get(ENERGY, torch.zeros(0)),
            len(kernel.diagnostics()["divergences"]) if num_samples > done else 0,
            self.potential.num_calls - (num_samples - done),
            float(kernel.step_size),
        )

    def _keep(self, position: Tensor, kinetic: Tensor) -> None:
        """One draw; the energy is that of where the move began."""
        energy = kinetic - self.log_joint
        self.log_joint = -self.potential({SITE: position})
        values = self.density.constrain(position[None])
        row = {name: value[0] for name, value in values.items()}
        self.rows.append({**row, LOG_JOINT: self.log_joint.detach(), ENERGY: energy.detach()})

    def _stacked(self) -> dict[str, Tensor]:
        return {name: torch.stack([row[name] for row in self.rows]) for name in self.rows[0]}

    def _write(self, files: ChainFiles, kernel: Any, position: Tensor, draws: int) -> None:
        inverse_mass = kernel.inverse_mass_matrix[(SITE,)]
        state = {
            "position": position,
            "random_state": torch.get_rng_state(),
            "inverse_mass": inverse_mass,
        }
        self.firsts.append(draws - len(self.rows))
        notes = {
            "draws": draws,
            "firsts": self.firsts,
            "step_size": float(kernel.step_size),
            "trajectory_length": float(kernel.trajectory_length),
            "divergences": self.before["divergences"] + len(kernel.diagnostics()["divergences"]),
            "num_steps": self.before["num_steps"] + self.potential.num_calls - draws,
        }
        files.write(self._stacked(), state, notes)
        self.rows = []

    def _resumed(self, files: ChainFiles) -> tuple[Any, Tensor, int]:
        """The kernel, where the chain stands, and how many draws there are."""
        state, notes = files.read_state()
        kernel: Any = self.chain.kernel(
            potential_fn=self.potential,
            step_size=notes["step_size"],
            adapt_step_size=False,
            adapt_mass_matrix=False,
        )
        kernel.trajectory_length = notes["trajectory_length"]
        position = state["position"].to(self._device)
        kernel.initial_params = {SITE: position}
        kernel.setup(0)
        inverse_mass = {(SITE,): state["inverse_mass"].to(self._device)}
        kernel.mass_matrix_adapter.inverse_mass_matrix = inverse_mass
        self.firsts, self.before = notes["firsts"], notes
        torch.set_rng_state(state["random_state"])
        return kernel, position, notes["draws"]

    @property
    def _device(self) -> torch.device:
        tensors = [value for value in self.chain.args if isinstance(value, Tensor)]
        return tensors[0].device if tensors else torch.device("cpu")


class _Momentum(Messenger):
    """Notes the kinetic energy of the momentum that a kernel draws before it moves."""

    kinetic: Tensor

    def _pyro_post_sample(self, msg: Message) -> None:
        if str(msg["name"]).startswith("r_t="):
            value: Any = msg["value"]
            self.kinetic = 0.5 * value.square().sum()
