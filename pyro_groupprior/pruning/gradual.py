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
    Prune a model's weights while it trains: after every epoch the share of them that stay is
    ``share + (1 - share) (1 - t)^3``, where ``t`` goes from 0 to 1 over ``epochs``, so that most go
    early, while others can still take their place. Those that go are the ones with the lowest
    scores; none comes back. The data say nothing about them any more: they follow their prior, and
    tell nothing to their groups.

    Example::

        >>> from pyro_groupprior.pruning import GradualPruning
        >>> x = torch.randn(64, 10)
        >>> y = x[:, :1]
        >>> model = BayesianModule(nn.Linear(10, 1), likelihoods.Normal(), num_data=64)
        >>> pruning = GradualPruning(model, share=0.2, epochs=20, start=20)
        >>> svi = PhasedSVI(model, AutoMeanField, callbacks=[pruning])
        >>> history = svi.run([(x, y)] * 10, epochs=50, progress=False)
        >>> int(model.mask.sum()), bool(model.mask[0])
        (2, True)

    Source: Zhu & Gupta 2018, "To prune, or not to prune", equation 1; there weights are scored by
    their magnitude.

    :param BayesianModule model: the net; its ``mask`` is written.
    :param float share: of the weights that stay in the end, above 0.
    :param int epochs: how long weights are pruned. Train on after that.
    :param int start: epochs before that.
    :param str rule: of :func:`weight_scores`.
    :raises TypeError: if the model is no :class:`~pyro_groupprior.BayesianModule`.
    :raises ValueError: if a number is out of range, or there is no such rule.
    """

    def __init__(
        self, model: BayesianModule, share: float, epochs: int, start: int = 0, rule: str = "snr"
    ) -> None:
        if not isinstance(model, BayesianModule):
            raise TypeError(f"model: expected a BayesianModule, got {type(model).__name__}")
        if not 0 < share <= 1:
            raise ValueError(f"share: expected a number above 0, at most 1, got {share}")
        if epochs < 1:
            raise ValueError(f"epochs: expected a positive number, got {epochs}")
        if start < 0:
            raise ValueError(f"start: expected no negative number, got {start}")
        if rule not in RULES:
            raise ValueError(f"rule: expected one of {tuple(RULES)}, got {rule!r}")
        self.share, self.epochs, self.start, self.rule = share, epochs, start, rule
        if model.mask is None:  # now: a checkpoint holds it, and is loaded before the first epoch
            model.mask = torch.ones_like(model.base_scale, dtype=torch.bool)

    def share_after(self, epoch: int) -> float:
        """:return: which share of the weights stays after so many epochs."""
        left = min(max(1 - (epoch - self.start) / self.epochs, 0.0), 1.0)
        return self.share + (1 - self.share) * left**3

    def on_epoch(self, svi: PhasedSVI) -> None:
        if not self.start < svi.epoch <= self.start + self.epochs:
            return
        model = svi.model
        assert isinstance(model, BayesianModule) and model.mask is not None
        scores = weight_scores(model, svi.guide, self.rule)
        scores = torch.where(model.mask, scores, -torch.inf)  # priors may be far from zero
        model.mask = keep_mask(scores, self.share_after(svi.epoch)) & model.mask
