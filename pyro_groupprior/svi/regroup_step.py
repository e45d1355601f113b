# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""One regroup: propose, match, carry over, commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from ..assignment import Assignment, AssignmentBuffer
from ..guides import SiteGuide, posterior_moments
from ..guides.base import ParameterMove
from ..guides.pyro_autoguides import carry_over
from ..regrouping import Regroup, match_groups
from .groups import GroupSite, group_start
from .history import PhaseRecord
from .optimizer import move_state
from .parameters import quiet

if TYPE_CHECKING:
    from .phased import PhasedSVI


def regroup_step(svi: PhasedSVI, site: GroupSite, schedule: Regroup) -> None:
    """
    Propose a new grouping of one group prior, commit it, and let guide and optimizer follow. The
    weights' own parameters and optimizer state stay exactly as they are.

    :raises ValueError: if the proposal is for other weights, or the guide cannot follow; nothing
        has changed then.
    """
    args, kwargs = svi.last_batch
    posterior = site.posterior(*posterior_moments(svi.guide, site.name, *args, **kwargs))
    proposal = schedule.strategy.propose(posterior)
    matched, source = match_groups(site.assignment, proposal.to(posterior.mean.device))
    churn = site.assignment.churn(matched)
    start = group_start(posterior, matched, schedule.hyper)
    if schedule.hyper != "carry":
        source = torch.full_like(source, -1)
    first = dict(zip((f"{site.name}_loc", f"{site.name}_scale"), start, strict=True))
    stays = torch.equal(source, torch.arange(site.assignment.num_groups))
    if not stays:
        check_guide_can_follow(svi, site.name)
    assert isinstance(site.source, AssignmentBuffer) and svi.optimizer is not None
    site.source.assignment = matched
    moves = _move_store(site.name, source, first)
    if isinstance(svi.guide, SiteGuide):
        moves += svi.guide.regroup(site.name, source, first)
    elif not stays and isinstance(svi.guide, AutoGuide):
        old = remake_guide(svi)
        moves += carry_over(old, svi.guide, site.name, source)
    move_state(svi.optimizer, moves)
    svi.rename_parameters(moves)
    _record(svi, site, matched, churn)


def check_guide_can_follow(svi: PhasedSVI, name: str) -> None:
    """
    :raises ValueError: if the guide cannot be given another number of groups.
    """
    if isinstance(svi.guide, SiteGuide) or svi.guide_factory is not None:
        return
    raise ValueError(
        f"guide: {type(svi.guide).__name__} cannot take another set of groups of {name!r}; give "
        "PhasedSVI the class, or a functools.partial of it, so that it can be made anew"
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
    with quiet(svi.model), pyro.poutine.block():
        svi.guide(*args, **kwargs)
    return old


def _move_store(name: str, source: Tensor, first: dict[str, Tensor]) -> list[ParameterMove]:
    """Group parameters that are learned points live in Pyro's ParamStore under the site's name."""
    store, moves = pyro.get_param_store(), []
    for site, start in first.items():
        if site not in store:
            continue
        value = store[site]
        old = value.unconstrained()
        rows = value.detach()[source.clamp(min=0).to(value.device)]
        fresh = (source < 0).to(value.device)
        store[site] = torch.where(fresh, start.to(rows), rows)
        moves.append(ParameterMove(old, store[site].unconstrained(), source))
    return moves


@torch.no_grad()
def _record(svi: PhasedSVI, site: GroupSite, matched: Assignment, churn: float) -> None:
    args, kwargs = svi.last_batch
    values = dict(svi.guide.median(*args, **kwargs)) if hasattr(svi.guide, "median") else {}
    names = (f"{site.name}_loc", f"{site.name}_scale")
    if not all(name in values for name in names):
        # Fixed or learned points are no latent sites: the model itself knows them.
        with quiet(svi.model), pyro.poutine.block():
            nodes = pyro.poutine.trace(svi.model).get_trace(*args, **kwargs).nodes
        values = {name: values.get(name, nodes[name]["value"]) for name in names}
    locs, scales = (values[name].expand(matched.num_groups).tolist() for name in names)
    svi.history.phases.append(
        PhaseRecord(
            name=site.name,
            phase=svi.phase,
            epoch=svi.epoch,
            step=svi.step_count,
            churn=churn,
            num_groups=matched.num_groups,
            sizes=tuple(matched.sizes().tolist()),
            locs=tuple(locs),
            scales=tuple(scales),
        )
    )
