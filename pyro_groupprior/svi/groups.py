# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The grouped weight sites of a model, found by running it once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor

from ..assignment import Assignment
from ..assignment_buffer import AssignmentBuffer, assignment_of
from ..families import weight_loc_scale
from ..layout import Layout
from ..nn import BayesianModule
from ..regrouping import WeightPosterior, group_moments
from .parameters import quiet


@dataclass(frozen=True)
class GroupSite:
    """
    One group prior of a model.

    :param str name: the weights' site.
    :param source: where the model reads its assignment.
    :param base_scale: of the weights; 1 where the model gives none.
    :param bool centered: whether the weights themselves are latent.
    :param layout: names and shapes, where the weights are a net's.
    :param partition: groups those by name, see :meth:`BayesianModule.partition`.
    :param float unit_variance: variance of a weight whose group has scale 1, by the prior's family.
    :param mask: of a net that reads only some of the weights.
    """

    name: str
    source: Assignment | AssignmentBuffer
    base_scale: Tensor | float
    centered: bool
    layout: Layout | None
    partition: Callable[[str], Assignment] | None = None
    unit_variance: float = 1.0
    mask: Tensor | None = None

    @property
    def assignment(self) -> Assignment:
        """The grouping in force."""
        return assignment_of(self.source)

    def check_regroupable(self) -> None:
        """
        :raises ValueError: if the grouping cannot be rewritten.
        """
        if not isinstance(self.source, AssignmentBuffer):
            raise ValueError(
                f"regroup: the model holds the assignment of {self.name!r} as a constant; give "
                "group_prior an AssignmentBuffer"
            )
        if not self.centered:
            raise ValueError(
                f"regroup: the weights {self.name!r} are not centred, so that a regroup would move "
                "them; use centered=True"
            )

    def posterior(
        self,
        mean: Tensor,
        sd: Tensor,
        group_loc: Tensor,
        group_scale: Tensor,
        *,
        trajectory: Tensor | None,
        draw: Callable[[int], Tensor],
        phase: int,
    ) -> WeightPosterior:
        """
        Bundle posterior moments with what else a strategy wants to know.

        :param Tensor group_loc: of the present groups, in units of the base scale, shape ``[G]``.
        :param Tensor group_scale: likewise.
        """
        base = torch.as_tensor(self.base_scale).to(mean)
        prior_loc, prior_scale = weight_loc_scale(
            self.assignment,
            group_loc.to(mean),
            group_scale.to(mean),
            base,
            self.unit_variance if self.assignment.is_soft else 1.0,
        )
        return WeightPosterior(
            mean,
            sd,
            base.expand(mean.shape),
            self.assignment,
            layout=self.layout,
            prior_loc=prior_loc,
            prior_scale=prior_scale * self.unit_variance**0.5,
            partition=self.partition,
            trajectory=trajectory,
            draw=draw,
            phase=phase,
        )

    @torch.no_grad()
    def point_parameters(
        self, model: Callable[..., Any], names: Sequence[str], *args: Any, **kwargs: Any
    ) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """Group parameters that are fixed or learned points: three times the value itself."""
        with quiet(model), poutine.block():
            nodes = poutine.trace(model).get_trace(*args, **kwargs).nodes
        return {name: (nodes[name]["value"].detach(),) * 3 for name in names}


class _AssignRecorder(Messenger):
    def __init__(self) -> None:
        super().__init__()
        self.sources: dict[str, Assignment | AssignmentBuffer] = {}

    def _pyro_post_assign(self, msg: Message) -> None:
        self.sources[msg["name"]] = msg["args"][0]


@torch.no_grad()
def find_groups(model: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, GroupSite]:
    """The group priors that a model states when run with these arguments, by name."""
    with _AssignRecorder() as recorder:
        trace = poutine.trace(model).get_trace(*args, **kwargs)
    sites = {}
    nets = _nets(model)
    for name, source in recorder.sources.items():
        node = trace.nodes.get(name)
        if node is None or node["type"] != "sample":
            continue  # an assignment that is read for a purpose of the model's own
        base_scale = node["infer"].get("base_scale")
        sites[name] = GroupSite(
            name,
            source,
            1.0 if base_scale is None else base_scale,
            not node["infer"].get("_deterministic", False) and not node["is_observed"],
            nets[name].layout if name in nets else None,
            nets[name].partition if name in nets else None,
            _unit_variance(node["fn"]),
            nets[name].mask if name in nets else None,
        )
    return sites


def _nets(model: Any) -> dict[str, BayesianModule]:
    modules = model.modules() if isinstance(model, torch.nn.Module) else ()
    return {m.site: m for m in modules if isinstance(m, BayesianModule)}


def _unit_variance(fn: Any) -> float:
    """Variance of the prior's family at scale 1, read off the first weight's."""
    base = getattr(fn, "base_dist", fn)
    if not hasattr(base, "scale"):
        return 1.0
    ratio = float((base.variance / base.scale.square()).reshape(-1)[0])
    return ratio if math.isfinite(ratio) and ratio > 0 else 1.0


def group_start(
    posterior: WeightPosterior, proposal: Assignment, hyper: str
) -> tuple[Tensor, Tensor]:
    """
    Where group parameters without a predecessor start: ``loc`` and ``scale``, shape ``[G]``.

    :param str hyper: ``"reset"`` for 0 and 1, else the moments of the members.
    """
    if hyper == "reset":
        zeros = posterior.mean.new_zeros(proposal.num_groups)
        return zeros, zeros + 1
    return group_moments(posterior, proposal)
