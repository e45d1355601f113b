# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Pruning while a posterior is trained."""

from __future__ import annotations

import torch

from ..nn import BayesianModule
from ..svi import Callback, PhasedSVI
from .masks import keep_mask
from .scores import RULES, weight_scores


class GradualPruning(Callback):
    """
    Prune a model's weights while it trains, a few at a time: after step ``start + t`` the share of
    them that stay is ``share + (1 - share) (1 - t / steps)^3``, so that most go early, while others
    can still take their place. Those that go are the ones with the lowest scores; none comes back.
    The data say nothing about them any more: they go over to their prior, and have a say in that of
    their groups until they are there.

    Example::

        >>> from pyro_groupprior.pruning import GradualPruning
        >>> x = torch.randn(64, 10)
        >>> y = x[:, :1]
        >>> model = BayesianModule(nn.Linear(10, 1), likelihoods.Normal(), num_data=64)
        >>> pruning = GradualPruning(model, share=0.2, steps=200, start=200, every=10)
        >>> svi = PhasedSVI(model, AutoMeanField, callbacks=[pruning])
        >>> history = svi.run([(x, y)] * 10, epochs=50, progress=False)
        >>> int(model.mask.sum()), bool(model.mask[0])
        (2, True)

    Source: Zhu & Gupta 2018, "To prune, or not to prune", equation 1; there weights are scored by
    their magnitude.

    :param BayesianModule model: the net; its ``mask`` is written.
    :param float share: of the weights that stay in the end, above 0.
    :param int steps: how long weights are pruned. Train on after that.
    :param int start: steps before that.
    :param int every: steps from one time to the next. Of a few large cuts nets recover less well
        than of many small ones.
    :param str rule: of :func:`weight_scores`.
    :raises TypeError: if the model is no :class:`~pyro_groupprior.BayesianModule`.
    :raises ValueError: if a number is out of range, or there is no such rule.
    """

    def __init__(
        self,
        model: BayesianModule,
        share: float,
        steps: int,
        *,
        start: int = 0,
        every: int = 100,
        rule: str = "snr",
    ) -> None:
        if not isinstance(model, BayesianModule):
            raise TypeError(f"model: expected a BayesianModule, got {type(model).__name__}")
        if not 0 < share <= 1:
            raise ValueError(f"share: expected a number above 0, at most 1, got {share}")
        for name, value, least in (("steps", steps, 1), ("start", start, 0), ("every", every, 1)):
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        if rule not in RULES:
            raise ValueError(f"rule: expected one of {tuple(RULES)}, got {rule!r}")
        self.model, self.share, self.steps, self.start = model, share, steps, start
        self.every, self.rule = every, rule
        if model.mask is None:  # now: a checkpoint holds it, and is loaded before the first step
            model.mask = torch.ones_like(model.base_scale, dtype=torch.bool)

    def share_after(self, step: int) -> float:
        """:return: which share of the weights stays after so many steps."""
        left = min(max(1 - (step - self.start) / self.steps, 0.0), 1.0)
        return self.share + (1 - self.share) * left**3

    def on_run_start(self, svi: PhasedSVI, epochs: int, batches: int | None) -> None:
        if svi.model is not self.model:
            raise ValueError("model: expected the one that is trained, got another")

    def on_step(self, svi: PhasedSVI, loss: float) -> None:
        done = svi.step_count - self.start
        if not 0 < done <= self.steps or (done % self.every and done < self.steps):
            return
        model = self.model
        assert model.mask is not None
        scores = weight_scores(model, svi.guide, self.rule)
        scores = torch.where(model.mask, scores, -torch.inf)  # priors may be far from zero
        share = max(self.share_after(svi.step_count), 1 / len(scores))
        model.mask.logical_and_(keep_mask(scores, share))  # in place: svi.groups have it too
