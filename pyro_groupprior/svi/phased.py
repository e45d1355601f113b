# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Stochastic variational inference in phases, with a regroup between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Sized
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor

from ..batch import check_batch, device_of, longest, move_batch
from ..elbo import MeanFieldELBO
from ..exposure import parameters_held
from ..guides import ParameterMove, SiteGuide
from ..handlers import KLWeightMessenger
from ..nn import evaluation_mode
from ..regrouping import Regroup
from .batches import ResumableBatches
from .callbacks import Callback, Progress
from .checks import check_gradients, check_num_data, check_options, check_regroupable
from .convergence import UntilConverged, default_rate, default_warmup, warn_if_falling
from .groups import GroupSite, find_groups
from .history import EpochRecord, History
from .optimizer import make_optimizer
from .parameters import collect_parameters, quiet
from .regroup_step import carry_out, plan_regroup
from .warmup import WarmUp

SchedulerFactory = Callable[[torch.optim.Optimizer], "torch.optim.lr_scheduler.LRScheduler"]


class PhasedSVI:
    """
    SVI in phases: train, regroup, train on. In the shape of :class:`pyro.infer.SVI`, with one
    torch optimizer over all parameters.

    Example::

        >>> from sklearn.cluster import KMeans
        >>> x = torch.randn(64, 3)
        >>> y = x.sum(1, keepdim=True)
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> model = BayesianModule(net, likelihoods.Normal(), num_data=64)
        >>> svi = PhasedSVI(
        ...     model,
        ...     AutoMeanField(model),
        ...     functools.partial(torch.optim.Adam, lr=0.01),
        ...     regroup=Regroup(KMeans(4, random_state=0), epochs=2),
        ... )
        >>> history = svi.run([(x, y)], epochs=4, progress=False)
        >>> svi.phase, model.assignment.num_groups
        (2, 4)

    :param callable model: a Pyro model.
    :param guide: its guide, or a class or ``functools.partial`` that makes one from the model.
        Pyro's own autoguides must come as the latter if the number of groups is to change, since
        they cannot be resized.
    :param optim: a factory of a torch optimizer, such as
        ``functools.partial(torch.optim.Adam, lr=0.01)``, or one of :mod:`pyro.optim`; default: Adam
        with a rate of some hundredths of the weights' base scale.
    :param ELBO loss: default :class:`~pyro_groupprior.MeanFieldELBO`.
    :param Regroup regroup: when and how to regroup; default: never.
    :param int warmup: steps over which the weight of the divergence rises linearly to one; default:
        a third of those of the first :meth:`run`, and where that is without end 1,000 or ten
        epochs, whichever is longer.
    :param int retries: how often a run whose net has collapsed onto its prior is rolled back and
        retried with stronger measures; see :class:`~pyro_groupprior.CollapseRepair`. 0: there is
        a warning only.
    :param scheduler: a factory of a learning-rate scheduler from the optimizer; stepped once
        after every optimizer step.
    :param float clip_norm: bound on the norm of the gradient.
    :param UntilConverged convergence: how it trains where :meth:`run` is not told for how long.
    :param callbacks: see :class:`~pyro_groupprior.svi.Callback`.
    :raises TypeError: if an argument is of the wrong kind.
    :raises ValueError: if a number is out of range.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Any,
        optim: Any = None,
        loss: ELBO | None = None,
        *,
        regroup: Regroup | None = None,
        warmup: int | None = None,
        retries: int = 2,
        scheduler: SchedulerFactory | None = None,
        clip_norm: float | None = None,
        convergence: UntilConverged | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        check_options(
            model=model,
            loss=loss,
            regroup=regroup,
            warmup=warmup,
            retries=retries,
            clip_norm=clip_norm,
            convergence=convergence,
        )
        self.guide_factory = guide if isinstance(guide, (type, partial)) else None
        self.model = model
        self.guide = guide if self.guide_factory is None else self.guide_factory(model)
        if not callable(self.guide):
            raise TypeError(f"guide: expected a callable, got {type(self.guide).__name__}")
        if isinstance(self.guide, SiteGuide) and self.guide.model is not model:
            raise ValueError("guide: it was made for another model")
        self.optim, self.loss = optim, MeanFieldELBO() if loss is None else loss
        self.regroup_schedule, self.warm_up = regroup, WarmUp(warmup)
        self.retries = retries
        self.scheduler_factory, self.clip_norm = scheduler, clip_norm
        self.convergence = UntilConverged() if convergence is None else convergence
        self.callbacks = list(callbacks)
        self.optimizer: torch.optim.Optimizer | None = None
        self.scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
        self.parameters: dict[str, Tensor] = {}
        self.groups: dict[str, GroupSite] = {}
        self.step_count = self.epoch = self.phase = 0
        self.label = ""  # of checkpoints: one of another label is refused
        self.history = History()
        self.should_stop = self.until_converged = False
        self.batches = ResumableBatches()
        self.epoch_loss = (0.0, 0)  # sum and number of the losses of the present epoch
        self.last_batch: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    @property
    def batch_in_epoch(self) -> int:
        """Batches of the present epoch that are done."""
        return self.batches.position

    @property
    def kl_weight(self) -> float:
        """The weight of the divergence at the next step."""
        return self.warm_up.weight(self.step_count)

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """
        Make the guide's parameters and the optimizer from one batch. The first step does so by
        itself. Neither random state nor batch statistics move.

        :raises ValueError: if the guide was made for another grouping, or there is nothing to
            optimise.
        """
        if self.optimizer is not None:
            return
        check_batch(args)
        check_batch(kwargs)
        with quiet(self.model):
            self.groups = find_groups(self.model, *args, **kwargs)
        if self.regroup_schedule is not None:
            check_regroupable(self.groups)
        self.last_batch = (args, kwargs)
        self.make_optimizer()

    def rename_parameters(self, moves: Sequence[ParameterMove]) -> None:
        """Know parameters that a regroup has replaced by their successors."""
        successors = {id(move.old): move.new for move in moves}
        self.parameters = {
            name: successors.get(id(parameter), parameter)
            for name, parameter in self.parameters.items()
        }

    def make_optimizer(self) -> None:
        """Make optimizer and scheduler anew over the present parameters of model and guide."""
        self.parameters = collect_parameters(
            self.model, self.guide, self.loss, self.last_batch, at_start=self.optimizer is None
        )
        optim = self.optim or partial(torch.optim.Adam, lr=default_rate(self.groups))
        self.optimizer = make_optimizer(optim, list(self.parameters.values()))
        if self.scheduler_factory is not None:
            self.scheduler = self.scheduler_factory(self.optimizer)
            if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                self.optimizer = None
                raise TypeError(
                    "scheduler: ReduceLROnPlateau waits for a loss without noise; take one that "
                    "depends on the number of steps"
                )

    def step(self, *args: Any, **kwargs: Any) -> float:
        """
        One optimizer step on one batch; arguments are the model's. Regroups afterwards if that is
        due by the number of steps; a schedule by epochs needs :meth:`run`, which counts them.

        :return: the negative ELBO before the step, with the divergence at its present weight
            (``kl_weight``): below that at full weight as long as there is a warm-up.
        :raises ValueError: if the batch has NaN or inf; nothing has changed then.
        :raises FloatingPointError: if the loss or its gradient has; the parameters have not changed
            then.
        """
        if self.optimizer is None:
            self.setup(*args, **kwargs)
        assert self.optimizer is not None
        check_batch(args)
        if kwargs:
            check_batch(kwargs)
        self.optimizer.zero_grad(set_to_none=True)
        weight = self.kl_weight
        with parameters_held(), nullcontext() if weight == 1.0 else KLWeightMessenger(weight):
            loss = self.loss.differentiable_loss(self.model, self.guide, *args, **kwargs)
        value = float(loss.detach())
        if value != value or value in (float("inf"), float("-inf")):
            raise FloatingPointError(
                f"loss: it is {value} at step {self.step_count + 1}; the step was not taken. Try a "
                "lower learning rate, clip_norm, or standardised data"
            )
        loss.backward()
        check_gradients(self.parameters)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.clip_norm)
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.step_count += 1
        if longest((*args, *kwargs.values())) != 1:  # one row does not show what a net does
            self.last_batch = (args, kwargs)
        self._regroup_if_due(epoch_ended=False)
        return value

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """
        The negative ELBO of a batch at full weight of the divergence, in evaluation mode; nothing
        is learned.
        """
        if self.optimizer is None:
            self.setup(*args, **kwargs)
        check_batch(args)
        check_batch(kwargs)
        with torch.no_grad(), evaluation_mode(self.model):
            return float(self.loss.loss(self.model, self.guide, *args, **kwargs))

    def run(
        self, loader: Iterable[Any], epochs: int | None = None, progress: bool = True
    ) -> History:
        """
        Train for further epochs, or until the loss has converged.

        :param loader: an iterable of batches that can be passed over repeatedly, such as a
            :class:`~torch.utils.data.DataLoader`: tuples are passed to the model as positional
            arguments, dictionaries by keyword.
        :param int epochs: how many. An epoch that a checkpoint has left in the middle counts as
            one. There is a :class:`~pyro_groupprior.svi.ConvergenceWarning` if the loss was still
            falling at the end. Default: until it has converged, at a learning rate that is
            lowered by itself; see :class:`~pyro_groupprior.svi.UntilConverged`.
        :param bool progress: show a progress bar.
        :return: the history so far.
        :raises ValueError: if the loader gives no batch, or minibatches to a model that does not
            know the size of the data; or without ``epochs`` where there is a scheduler.
        """
        if epochs is not None and epochs < 1:
            raise ValueError(f"epochs: expected a positive number, got {epochs}")
        if epochs is None and self.scheduler_factory is not None:
            raise ValueError("epochs: expected a number, since there is a scheduler that needs one")
        batches = len(loader) if isinstance(loader, Sized) else None
        if batches == 0:
            raise ValueError("loader: expected at least one batch, got none")
        check_num_data(self.model, batches)
        self.should_stop, self.until_converged, first_epoch = False, epochs is None, self.epoch
        if epochs is None:
            warmup = min(default_warmup(batches), self.convergence.max_steps // 3)
            self.warm_up.plan(self.step_count, warmup, share=1.0)
            self.convergence.begin(self)
        else:
            self.convergence.end(self)
            if batches is not None:
                self.warm_up.plan(self.step_count, epochs * batches)
        callbacks = [*self.callbacks, *([Progress()] if progress else []), *self._guard()]
        try:
            for callback in callbacks:
                callback.on_run_start(self, epochs or self.convergence.outlook(batches), batches)
            # No count of its own: a callback may roll back.
            while not self.should_stop and (epochs is None or self.epoch < first_epoch + epochs):
                self._run_epoch(loader, callbacks)
        finally:
            for callback in callbacks:
                callback.on_run_end(self)
        if epochs is not None and not self.should_stop:
            warn_if_falling(self, first_epoch)
        return self.history

    def regroup(self) -> None:
        """
        Propose and commit a new grouping of every group prior, now.

        :raises RuntimeError: if there is no ``regroup`` schedule, or no step was taken yet.
        """
        if self.regroup_schedule is None or self.optimizer is None:
            raise RuntimeError("regroup: needs a Regroup and at least one step before it")
        schedule = self.regroup_schedule
        plans = [plan_regroup(self, site, schedule) for site in self.groups.values()]
        self.phase += 1
        for plan in plans:
            carry_out(self, plan)
        for callback in self.callbacks:
            callback.on_phase(self)

    def save(self, path: str | Path) -> None:
        """
        Save model, guide, optimizer, scheduler, assignments, history and random state in one
        file, atomically; see :func:`~pyro_groupprior.svi.checkpoint.save_checkpoint`.
        """
        from .checkpoint import save_checkpoint

        save_checkpoint(self, path)

    def load(self, path: str | Path, *args: Any, **kwargs: Any) -> None:
        """
        Take up a saved run, so that it goes on exactly as if it had not been interrupted. Make
        model, guide and this object as before, then load, then
        ``run(loader, epochs=planned - svi.epoch)``.

        :param args: one batch, if no step was taken yet: the guide needs it to make its
            parameters.
        :raises ValueError: if the file is damaged or of another model or guide; nothing has
            changed then.
        """
        from .checkpoint import load_checkpoint

        load_checkpoint(self, path, *args, **kwargs)

    def _guard(self) -> list[Callback]:
        """What notices and repairs a collapse, unless the user has brought his own."""
        from ..collapse import CollapseMonitor, CollapseRepair, has_cheap_moments

        own = any(isinstance(callback, CollapseMonitor) for callback in self.callbacks)
        if own or not has_cheap_moments(self.guide):
            return []
        repair = self.retries and getattr(self.guide, "can_start_anew", True)
        return [CollapseRepair(self.retries) if repair else CollapseMonitor()]

    def _run_epoch(self, loader: Iterable[Any], callbacks: Sequence[Callback]) -> None:
        device = next(iter(self.parameters.values())).device if self.parameters else None
        for batch in self.batches.epoch(loader):
            if device is None:
                device = device_of(self.model)
            batch = move_batch(batch, device)
            if self.until_converged and self.optimizer is not None:
                self.convergence.set_rate(self)
            try:
                if isinstance(batch, dict):
                    loss = self.step(**batch)
                else:
                    loss = self.step(*batch if isinstance(batch, (tuple, list)) else (batch,))
            except BaseException:
                self.batches.position -= 1  # a batch that failed is not done
                raise
            self.epoch_loss = (self.epoch_loss[0] + loss, self.epoch_loss[1] + 1)
            for callback in callbacks:
                callback.on_step(self, loss)
            if self.should_stop:
                return
        assert self.optimizer is not None
        (total, steps), self.epoch_loss = self.epoch_loss, (0.0, 0)
        self.epoch += 1
        self.history.epochs.append(
            EpochRecord(
                epoch=self.epoch,
                step=self.step_count,
                phase=self.phase,
                loss=total / steps,
                learning_rate=float(self.optimizer.param_groups[0]["lr"]),
                kl_weight=self.kl_weight,
            )
        )
        self._regroup_if_due(epoch_ended=True)
        if self.until_converged:
            self.convergence.after_epoch(self)
        for callback in callbacks:
            callback.on_epoch(self)

    def _regroup_if_due(self, epoch_ended: bool) -> None:
        schedule = self.regroup_schedule
        if schedule is not None and schedule.is_due(
            step=self.step_count, epoch=self.epoch, epoch_ended=epoch_ended
        ):
            self.regroup()
