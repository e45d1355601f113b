# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What repairs a collapse: back to where all was well, and on with stronger measures."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.poutine import block, trace
from torch.distributions import biject_to

from ..guides import SiteGuide
from ..guides.latent import inverse_softplus
from ..guides.pyro_autoguides import RESIZABLE
from ..svi.parameters import quiet
from .monitor import CollapseMonitor, CollapseWarning
from .output import is_cut_off
from .signal import GROUP, Signal, signals_of

if TYPE_CHECKING:
    from ..svi.phased import PhasedSVI

FIRST_SCALE = 0.05  # posterior scale over base scale at the first retry,
NEXT_SCALE = 0.4  # and by how much it falls with each further one
POINTS = 10  # healthy points that are kept in a run, one after another
MARGIN = 4  # times the threshold: signal of every layer at such a point


def has_cheap_moments(guide: Any) -> bool:
    """Whether the guide's moments are known without drawing from it."""
    return isinstance(guide, (SiteGuide, *RESIZABLE))


class CollapseRepair(CollapseMonitor):
    """
    A :class:`CollapseMonitor` that, when layers without signal cut the net's output off from its
    input, takes the run back and lets it train on to the planned end with stronger measures:
    posterior scales of the weights of at most 0.05 of the base scale (0.02 at the second retry, and
    so on), and a KL warm-up anew, over half of the steps to come (then two thirds). The first
    retry begins at the last point at which every layer was well above the threshold, if there was
    one; all others at the start of the run. If the run started dead, all means go back to where the
    guide starts. A dead layer beside a shortcut is only warned of: it may well be pruned.

    :class:`PhasedSVI` has one by default. Points are kept in temporary files: the start, and about
    ten times a run the present, which replaces the last one.

    Example::

        >>> repair = CollapseRepair(retries=3, epochs=20)
        >>> x = torch.randn(64, 3)
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> model = BayesianModule(net, likelihoods.Normal(), num_data=64)
        >>> Adam = functools.partial(torch.optim.Adam, lr=0.01)
        >>> svi = PhasedSVI(model, AutoMeanField, Adam, callbacks=[repair])
        >>> _ = svi.run([(x, x[:, :1])], epochs=40, progress=False)
        >>> repair.attempt                  # all went well at once
        0

    :param int retries: how often to roll back in one run; a message says so each time, and if it
        was in vain.
    :param int epochs: as for :class:`CollapseMonitor`.
    :param float threshold: likewise.
    :raises ValueError: if a number is not positive.
    """

    def __init__(self, retries: int = 2, epochs: int | None = None, threshold: float = 0.1) -> None:
        super().__init__(epochs, threshold)
        if retries < 1:
            raise ValueError(f"retries: expected a positive number, got {retries}")
        self.retries = retries
        self._left, self._start = retries, 0
        self._batches: int | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._has_start, self._alive = False, True  # whether it is kept, and has signal
        self._healthy: int | None = None  # epoch of the healthy point that is kept

    def on_run_start(self, svi: PhasedSVI, epochs: int, batches: int | None) -> None:
        super().on_run_start(svi, epochs, batches)
        self._left, self._start, self._batches = self.retries, svi.epoch, batches
        self._folder, self._has_start, self._healthy = tempfile.TemporaryDirectory(), False, None
        if svi.optimizer is not None:
            self._keep_start(svi)

    def on_step(self, svi: PhasedSVI, loss: float) -> None:
        if not self._has_start and self._left:
            self._keep_start(svi)  # before the first step there was nothing to save

    def on_run_end(self, svi: PhasedSVI) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def check(self, svi: PhasedSVI) -> None:
        super().check(svi)
        age = svi.epoch - (self._start if self._healthy is None else self._healthy)
        # A run until it has converged may pass its end.
        due = age >= max(self._end - self._start, svi.epoch - self._start) / POINTS
        fine = svi.kl_weight == 1.0 and all(
            s.signal >= MARGIN * self.threshold for s in self.records[-1][-1] if s.kind != GROUP
        )
        # Only at first: a retry that is in vain may have looked well for a while.
        first = self._has_start and self._left == self.retries
        if due and fine and first and self._keep(svi, "healthy"):
            self._healthy = svi.epoch

    def on_collapse(self, svi: PhasedSVI, fresh: Sequence[Signal]) -> None:
        if svi.should_stop or not self._has_start or not is_cut_off(svi, self.dead):
            super().on_collapse(svi, fresh)
            return
        message = self.describe(svi, fresh)
        if not self._left:
            warnings.warn(
                f"{message} {self.retries} retries were in vain.", CollapseWarning, stacklevel=2
            )
            return
        self._left -= 1
        self.attempt += 1
        self._roll_back(svi, self.retries - self._left)
        warnings.warn(
            f"{message} Rolled back to epoch {svi.epoch}: retry {self.retries - self._left} of "
            f"{self.retries}, with smaller posterior scales and a longer KL warm-up.",
            CollapseWarning,
            stacklevel=2,
        )

    def _path(self, point: str) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / point

    def _keep(self, svi: PhasedSVI, point: str) -> bool:
        try:
            svi.save(self._path(point))
        except (OSError, TypeError) as error:
            # Training goes on: a full disk must not end a run that may never need this.
            self._left = 0
            warnings.warn(f"a collapse could not be repaired: {error}", stacklevel=2)
            return False
        return True

    def _keep_start(self, svi: PhasedSVI) -> None:
        self._has_start = self._keep(svi, "start")
        args, kwargs = svi.last_batch
        with quiet(svi.model):
            signals = signals_of(svi.groups, svi.guide, *args, **kwargs)
        self._alive = all(s.signal >= self.threshold for s in signals if s.kind != GROUP)

    def _roll_back(self, svi: PhasedSVI, retry: int) -> None:
        done, epochs = svi.step_count, max(svi.epoch, 1)
        svi.load(self._path("start" if self._healthy is None else "healthy"))
        if self._healthy is None and not self._alive:
            start_anew(svi)
        self._healthy = None  # if this retry is in vain, the next one begins at the start
        self._forget()
        bound_scales(svi, FIRST_SCALE * NEXT_SCALE ** (retry - 1))
        left = self._end - (self._start if svi.until_converged else svi.epoch)
        steps = left * (self._batches or round(done / epochs))
        svi.warm_up.begin(svi.step_count, int(steps * retry / (retry + 1)))


@torch.no_grad()
def bound_scales(svi: PhasedSVI, scale: float) -> None:
    """
    Bound the posterior standard deviations of all grouped weights by ``scale`` times the base
    scale. Of Pyro's own guides nothing is changed.
    """
    guide = svi.guide
    if not isinstance(guide, SiteGuide):
        return
    for name, group in svi.groups.items():
        if group.centered:
            parameter = guide.unconstrained_scales[guide.site(name).key]
            bound = inverse_softplus(torch.as_tensor(group.base_scale).to(parameter) * scale)
            parameter.copy_(torch.minimum(parameter, bound))


@torch.no_grad()
def start_anew(svi: PhasedSVI) -> None:
    """
    Put the posterior means of all latents back to where the guide starts, with an optimizer
    without memory. Of Pyro's own guides nothing is changed.
    """
    guide = svi.guide
    if not isinstance(guide, SiteGuide):
        return
    args, kwargs = svi.last_batch
    first: Any = InitMessenger(guide.init_loc_fn)(svi.model)
    with quiet(svi.model), block():
        nodes = trace(first).get_trace(*args, **kwargs).nodes
    for site in guide.sites:
        guide.locs[site.key].copy_(biject_to(site.support).inv(nodes[site.name]["value"]))
    svi.make_optimizer()
