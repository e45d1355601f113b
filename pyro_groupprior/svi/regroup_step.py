# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""One regroup: propose, match, carry over, commit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyro
import torch
from pyro.infer.autoguide import AutoGuide, AutoLowRankMultivariateNormal
from torch import Tensor

from ..assignment import Assignment
from ..assignment_buffer import AssignmentBuffer
from ..guides import SiteGuide
from ..guides.base import ParameterMove
from ..guides.pyro_autoguides import RESIZABLE, carry_over, posterior_medians
from ..handlers import RegroupMessenger
from ..regrouping import Regroup, assignment_cost, match_groups
from ..regrouping.agreement import rand_index_of
from ..regrouping.matching import churn_after, flows, overlaps
from .acceptance import LearnedPoints, elbo_gain
from .groups import GroupSite, group_start
from .history import PhaseRecord
from .monitor import Monitor
from .optimizer import move_state
from .parameters import quiet
from .posteriors import posterior_of

if TYPE_CHECKING:
    from .phased import PhasedSVI


@dataclass(frozen=True)
class Plan:
    """
    A regroup that has been thought through but not carried out.

    :param Assignment matched: the new grouping, under the old groups' names.
    :param Tensor continues: the old group that each new one continues, or -1.
    :param Tensor source: the old group whose parameters each new one takes over, or -1.
    :param first: where group parameters without a predecessor start, by site name.
    :param float churn: the share of the weights that change group.
    :param float rand_index: the adjusted Rand index between the groups before and after.
    :param bool accepted: whether the proposal is taken; else this plan leaves all as it is.
    :param gain: by how much it raises the ELBO less the cost of stating the groups, if known.
    """

    site: GroupSite
    matched: Assignment
    continues: Tensor
    source: Tensor
    first: dict[str, Tensor]
    churn: float
    rand_index: float
    accepted: bool = True
    gain: float | None = None

    @property
    def stays(self) -> bool:
        """Whether every group parameter stays what it is."""
        return torch.equal(self.source, torch.arange(self.site.assignment.num_groups))


def plan_regroup(svi: PhasedSVI, site: GroupSite, schedule: Regroup) -> Plan:
    """
    Propose a new grouping of one group prior, and find out all that could go wrong with it.
    Nothing changes.

    :raises ValueError: if the proposal is for other weights, or model or guide cannot follow.
    """
    args, kwargs = svi.last_batch
    posterior = posterior_of(
        svi.model,
        svi.guide,
        site,
        *args,
        trajectory=_trajectory(svi, site.name),
        phase=svi.phase,
        **kwargs,
    )
    proposal = schedule.strategy.propose(posterior)
    proposal = proposal.to(posterior.mean.device)
    counts = overlaps(site.assignment, proposal)
    matched, continues = match_groups(site.assignment, proposal, counts)
    churn = churn_after(site.assignment, matched, continues)
    start = group_start(posterior, matched, schedule.hyper)
    source = continues if schedule.hyper == "carry" else torch.full_like(continues, -1)
    first = dict(zip((f"{site.name}_loc", f"{site.name}_scale"), start, strict=True))
    plan = Plan(site, matched, continues, source, first, churn, rand_index_of(counts))
    if not plan.stays:
        check_guide_can_follow(svi, site.name)
    # Fixed values or hyperpriors for each group may not fit another number of groups.
    proposed = RegroupMessenger({site.name: matched})
    with quiet(svi.model), pyro.poutine.block(), proposed, LearnedPoints(first):
        svi.model(*args, **kwargs)
    if schedule.accept == "always":
        return plan
    gain = elbo_gain(svi, plan)
    return replace(plan, gain=gain) if gain > 0 else _rejected(plan, gain)


def _rejected(plan: Plan, gain: float) -> Plan:
    """The plan to leave everything as it is."""
    present = plan.site.assignment
    source = torch.arange(present.num_groups)
    return replace(
        plan,
        matched=present,
        continues=source,
        source=source,
        churn=0.0,
        rand_index=1.0,
        accepted=False,
        gain=gain,
    )


def _trajectory(svi: PhasedSVI, name: str) -> Tensor | None:
    for callback in svi.callbacks:
        if isinstance(callback, Monitor) and name in callback.trajectories:
            return callback.trajectories[name].means
    return None


def carry_out(svi: PhasedSVI, plan: Plan) -> None:
    """
    Commit a regroup, and let guide and optimizer follow. The weights' own parameters and
    optimizer state stay exactly as they are.
    """
    site, stays = plan.site, plan.stays
    moved = flows(site.assignment, plan.matched)
    assert isinstance(site.source, AssignmentBuffer) and svi.optimizer is not None
    if not plan.accepted:
        return _record(svi, plan, moved)
    site.source.assignment = plan.matched
    moves = _move_store(plan.source, plan.first)
    if isinstance(svi.guide, SiteGuide):
        moves += svi.guide.regroup(site.name, plan.source, plan.first)
    elif not stays and isinstance(svi.guide, AutoGuide):
        old = remake_guide(svi)
        moves += carry_over(old, svi.guide, site.name, plan.source, plan.first)
    move_state(svi.optimizer, moves)
    svi.rename_parameters(moves)
    _record(svi, plan, moved)


def check_guide_can_follow(svi: PhasedSVI, name: str) -> None:
    """
    :raises ValueError: if the guide cannot be given another number of groups.
    """
    if isinstance(svi.guide, SiteGuide):
        return
    kind = type(svi.guide).__name__
    if svi.guide_factory is None:
        raise ValueError(
            f"guide: {kind} cannot take another set of groups of {name!r}; give PhasedSVI the "
            "class, or a functools.partial of it, so that it can be made anew"
        )
    if not isinstance(svi.guide, RESIZABLE):
        known = ", ".join(guide.__name__ for guide in RESIZABLE)
        raise ValueError(
            f"guide: {kind} cannot take another set of groups of {name!r}; of Pyro's guides "
            f"{known} can"
        )


def remake_guide(svi: PhasedSVI) -> AutoGuide:
    """
    Replace one of Pyro's autoguides by a new one of the same kind for the model's present
    grouping; returns the old one.
    """
    assert svi.guide_factory is not None
    args, kwargs = svi.last_batch
    old, store = svi.guide, pyro.get_param_store()
    own = {id(parameter) for parameter in old.parameters()}
    for key, parameter in list(store.named_parameters()):
        if id(parameter) in own:
            del store[key]  # or the new guide would adopt it, of the old size
    svi.guide = svi.guide_factory(svi.model)
    if isinstance(old, AutoLowRankMultivariateNormal):
        svi.guide.rank = old.rank  # by default it depends on the number of latents
    with quiet(svi.model), pyro.poutine.block():
        svi.guide(*args, **kwargs)
    return old


@torch.no_grad()
def _move_store(source: Tensor, first: dict[str, Tensor]) -> list[ParameterMove]:
    """Group parameters that are learned points live in Pyro's ParamStore under the site's name."""
    store, moves = pyro.get_param_store(), []
    for site, start in first.items():
        if site not in store:
            continue
        old = store[site].unconstrained()
        store[site] = start.to(old)
        new = store[site].unconstrained()
        # Not by way of the constrained values: there and back again costs a rounding.
        new.copy_(torch.where((source < 0).to(old.device), new, old[source.clamp(min=0)]))
        moves.append(ParameterMove(old, new, source))
    return moves


@torch.no_grad()
def _record(svi: PhasedSVI, plan: Plan, moved: tuple[tuple[int, int, float], ...]) -> None:
    args, kwargs = svi.last_batch
    names = tuple(plan.first)
    with quiet(svi.model), pyro.poutine.block():
        values = posterior_medians(svi.guide, *args, **kwargs)
    missing = [name for name in names if name not in values]
    if missing:
        found = plan.site.point_parameters(svi.model, missing, *args, **kwargs)
        values |= {name: value for name, (_, value, _) in found.items()}
    locs, scales = (values[name].expand(plan.matched.num_groups).tolist() for name in names)
    svi.history.phases.append(
        PhaseRecord(
            name=plan.site.name,
            phase=svi.phase,
            epoch=svi.epoch,
            step=svi.step_count,
            churn=plan.churn,
            num_groups=plan.matched.num_groups,
            sizes=tuple(plan.matched.sizes().tolist()),
            locs=tuple(locs),
            scales=tuple(scales),
            rand_index=plan.rand_index,
            cost=assignment_cost(plan.matched),
            accepted=plan.accepted,
            gain=plan.gain,
            sources=tuple(plan.continues.tolist()),
            flows=moved,
        )
    )
