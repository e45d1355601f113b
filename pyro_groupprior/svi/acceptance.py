# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Whether the ELBO speaks for a proposed grouping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor
from torch.func import functional_call

from ..assignment import Assignment
from ..guides import SiteGuide
from ..handlers import RegroupMessenger
from ..regrouping import assignment_cost
from .parameters import quiet

if TYPE_CHECKING:
    from .phased import PhasedSVI
    from .regroup_step import Plan

NUM_PARTICLES = 16  # draws of the group parameters to average over


def elbo_gain(svi: PhasedSVI, plan: Plan) -> float:
    """
    By how much a regroup would raise the ELBO of the present posterior, less the rise in what it
    costs to state the groups, in nats. The data's part of the ELBO depends on the weights alone,
    which a regroup leaves as they are, so that only divergences are compared. Nothing changes: the
    grouping is put in force by the ``regroup`` handler, and the group parameters that go with it
    by :func:`torch.func.functional_call`.

    :raises TypeError: if the guide is not one of this package's.
    """
    if not isinstance(svi.guide, SiteGuide):
        raise TypeError(
            f'accept: "elbo" needs one of this package\'s guides, got {type(svi.guide).__name__}'
        )
    name = plan.site.name
    proposed = {
        path: value
        for path, (_, value) in svi.guide.regrouped(name, plan.source, plan.first).items()
    }
    present = plan.site.assignment
    before = _divergence(svi, {name: present}, {}, {}) + assignment_cost(present)
    after = _divergence(svi, {name: plan.matched}, proposed, plan.first)
    return before - after - assignment_cost(plan.matched)


def _divergence(
    svi: PhasedSVI,
    grouping: Mapping[str, Assignment],
    parameters: Mapping[str, Tensor],
    points: Mapping[str, Tensor],
) -> float:
    """
    The negative ELBO without the data, under a grouping, with some of the guide's parameters
    replaced.
    """
    args, kwargs = svi.last_batch

    def guide(*args: object, **kwargs: object) -> object:
        return functional_call(svi.guide, dict(parameters), args, kwargs)

    # Within block, or it would hide the model's statements from them.
    handlers = RegroupMessenger(dict(grouping)), WithoutData(), LearnedPoints(points)
    with quiet(svi.model), pyro.poutine.block(), handlers[0], handlers[1], handlers[2]:
        torch.manual_seed(0)  # within quiet: the same draws for both, and the run's own untouched
        losses = [svi.loss.loss(svi.model, guide, *args, **kwargs) for _ in range(NUM_PARTICLES)]
    return sum(losses) / NUM_PARTICLES


class WithoutData(Messenger):
    """Leave the observations out of the log-density."""

    def _pyro_sample(self, msg: Message) -> None:
        if msg["is_observed"]:
            msg["mask"] = False


class LearnedPoints(Messenger):
    """Learned group parameters as they will be, while those in the ParamStore are as they were."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_param(self, msg: Message) -> None:
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True
