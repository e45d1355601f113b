# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Watching the weights' posterior moments during training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyro.poutine as poutine
import torch
from torch import Tensor

from ..guides import posterior_moments
from ..regrouping.trajectories import Trajectories
from .callbacks import Callback
from .parameters import quiet

if TYPE_CHECKING:
    from .phased import PhasedSVI


class Monitor(Callback):
    """
    Takes snapshots of the posterior moments of every group prior's weights during
    :meth:`PhasedSVI.run`. The interval bounds what it costs, ``max_memory`` what it holds; training
    itself goes on as it would without. A snapshot at an epoch's end comes after the regroup that
    was due with it, which leaves the weights' own posterior as it was.

    Example::

        >>> x = torch.randn(64, 3)
        >>> net = nn.Linear(3, 1)
        >>> model = BayesianModule(net, likelihoods.Normal(), num_data=64)
        >>> monitor = Monitor(steps=2)
        >>> adam = functools.partial(torch.optim.Adam, lr=0.01)
        >>> svi = PhasedSVI(model, AutoMeanField, adam, callbacks=[monitor])
        >>> history = svi.run([(x, x.sum(1, keepdim=True))], epochs=6, progress=False)
        >>> monitor.trajectories["weights"].means.shape
        torch.Size([3, 4])

    :param int epochs: a snapshot after every so many epochs; default: every epoch, unless
        ``steps`` is given;
    :param int steps: or after every so many steps.
    :param int max_snapshots: keep at most so many of each group prior, evenly spread over
        training; see :class:`~pyro_groupprior.regrouping.trajectories.Trajectories`.
    :param float max_memory: GiB that the snapshots of all group priors may take together, in main
        memory. Only one more is held while it is taken, where the guide is.
    :param torch.dtype dtype: what snapshots are stored in; ``torch.float16`` halves the memory.
    :param bool keep_sd: store standard deviations too; without them the memory halves.
    :param bool reset_at_phase: forget all snapshots at a regroup, to see one phase only.
    :raises TypeError: if ``dtype`` is no floating one.
    :raises ValueError: if both intervals are given, or a number is out of range.
    """

    def __init__(
        self,
        epochs: int | None = None,
        steps: int | None = None,
        *,
        max_snapshots: int = 32,
        max_memory: float = 1.0,
        dtype: torch.dtype = torch.float32,
        keep_sd: bool = True,
        reset_at_phase: bool = False,
    ) -> None:
        if epochs is not None and steps is not None:
            raise ValueError(
                f"epochs, steps: expected one of them, got epochs={epochs}, steps={steps}"
            )
        for name, every in (("epochs", epochs), ("steps", steps)):
            if every is not None and every < 1:
                raise ValueError(f"{name}: expected a positive number, got {every}")
        Trajectories(max_snapshots, max_memory, dtype)  # checks them, before training starts
        self.epochs = 1 if epochs is None and steps is None else epochs
        self.steps, self.dtype = steps, dtype
        self.max_snapshots, self.max_memory = max_snapshots, max_memory
        self.keep_sd, self.reset_at_phase = keep_sd, reset_at_phase
        self.trajectories: dict[str, Trajectories] = {}

    def on_step(self, svi: PhasedSVI, loss: float) -> None:
        if self.steps is not None and svi.step_count % self.steps == 0:
            self.snapshot(svi)

    def on_epoch(self, svi: PhasedSVI) -> None:
        if self.epochs is not None and svi.epoch % self.epochs == 0:
            self.snapshot(svi)

    def on_phase(self, svi: PhasedSVI) -> None:
        if self.reset_at_phase:
            for trajectories in self.trajectories.values():
                trajectories.clear()

    def snapshot(self, svi: PhasedSVI) -> None:
        """
        Offer a snapshot now; it is computed only if the store is to keep it.

        :raises ValueError: if not even four snapshots fit into the memory, or the guide's moments
            are not finite.
        """
        if not self.trajectories:
            widths = {name: site.assignment.num_weights for name, site in svi.groups.items()}
            self.trajectories = self._stores(widths)
        args, kwargs = svi.last_batch
        for name, trajectories in self.trajectories.items():
            if not trajectories.is_due:
                trajectories.skip()
                continue
            # Some guides need the model or random draws for their moments.
            with quiet(svi.model), poutine.block():
                mean, sd = posterior_moments(svi.guide, name, *args, **kwargs)
            kept = sd.flatten() if self.keep_sd else None
            trajectories.append(mean.flatten(), kept, step=svi.step_count)

    def state_dict(self) -> dict[str, Tensor]:
        """All snapshots, as plain tensors by ``NAME.ENTRY``."""
        return {
            f"{name}.{key}": value
            for name, trajectories in self.trajectories.items()
            for key, value in trajectories.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """
        Take up what :meth:`state_dict` gave.

        :raises ValueError: if the parts do not fit together or exceed the memory, or standard
            deviations are to be kept and there are none.
        """
        parts: dict[str, dict[str, Tensor]] = {}
        for path, value in state.items():
            name, _, key = path.rpartition(".")
            if key != "sds" or self.keep_sd:
                parts.setdefault(name, {})[key] = value
        if self.keep_sd and not all("sds" in part for part in parts.values()):
            raise ValueError("state: expected standard deviations, got none; use keep_sd=False")
        loaded = self._stores({name: part["means"].shape[-1] for name, part in parts.items()})
        for name, part in parts.items():
            loaded[name].load_state_dict(part)
        self.trajectories = loaded

    def _stores(self, widths: Mapping[str, int]) -> dict[str, Trajectories]:
        """A store for each group prior, with memory by its number of weights."""
        total = sum(widths.values())
        return {
            name: Trajectories(self.max_snapshots, self.max_memory * width / total, self.dtype)
            for name, width in widths.items()
        }
