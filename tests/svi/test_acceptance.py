# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Regroups that the ELBO has to speak for, against divergences in closed form."""

from functools import partial

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from pyro_groupprior import (
    Assignment,
    AutoFullRank,
    AutoLowRank,
    AutoMeanField,
    Learned,
    PhasedSVI,
    Regroup,
    adjusted_rand_index,
    assignment_cost,
    match_groups,
)
from pyro_groupprior.families import weight_loc_scale
from pyro_groupprior.guides import SiteGuide
from pyro_groupprior.svi import History
from tests.svi.runs import GUIDES, THREE, Adam, Planned, assert_same, data, full_state, regression

LOC, SCALE = torch.tensor([-1.0, 0.0, 1.5]), torch.tensor([0.5, 0.2, 1.0])
KIND = torch.arange(31) // 11


def settled(proposal, guide=AutoMeanField, present=THREE, **prior) -> PhasedSVI:
    """A run whose weights lie where the groups of ``KIND`` say, whatever the present groups are."""
    prior = prior or {"loc": LOC, "scale": SCALE}
    model = regression(grouping=present, **prior)
    planned = Regroup(Planned(proposal), steps=10**6, accept="elbo")
    svi = PhasedSVI(model, guide, Adam, regroup=planned)
    svi.step(*data())
    if isinstance(svi.guide, SiteGuide):
        with torch.no_grad():
            where = (LOC[KIND] + SCALE[KIND] * torch.randn(31)) * model.base_scale
            svi.guide.locs["weights"].copy_(where)
    return svi


def cost(svi: PhasedSVI, assignment: Assignment) -> float:
    """Divergence of the weights and cost of the groups, for fixed group parameters."""
    q = Normal(*svi.guide.moments("weights"))
    p = Normal(*weight_loc_scale(assignment, LOC, SCALE, svi.model.base_scale))
    return kl_divergence(q, p).sum().item() + assignment_cost(assignment)


def soft() -> Assignment:
    shares = torch.full((31, 2), 0.9)
    shares[:, 1] = 0.1
    return Assignment(torch.stack([KIND, (KIND + 1) % 3], 1), 3, shares)


@pytest.mark.parametrize("proposal", [KIND, soft(), torch.tensor([0, 0, 1])[THREE] + 0 * KIND])
def test_gain_is_the_fall_of_divergence_and_cost(proposal):
    present = Assignment(THREE)
    proposal = proposal if isinstance(proposal, Assignment) else Assignment(proposal, 3)
    svi = settled(proposal)
    matched, _ = match_groups(present, proposal)
    expected = cost(svi, present) - cost(svi, matched)
    svi.regroup()
    record = svi.history.phases[-1]
    assert record.gain == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert record.accepted == (expected > 0)
    found = svi.model.assignment
    assert found == (matched if record.accepted else present)
    assert record.cost == pytest.approx(assignment_cost(found))
    assert record.rand_index == pytest.approx(adjusted_rand_index(present, found))


@pytest.mark.parametrize(
    "guide", [AutoMeanField, AutoFullRank, partial(AutoLowRank, rank=2)], ids=str
)
@pytest.mark.parametrize("prior", ["latent", "learned"])
def test_bad_proposals_change_nothing(guide, prior):
    random_groups = torch.randint(0, 3, (31,), generator=torch.Generator().manual_seed(1))
    options = {"scale": Learned(0.5)} if prior == "learned" else {"scale": None}
    svi = settled(random_groups, guide, present=KIND, **options)
    with torch.no_grad():  # groups that know where their weights are
        svi.guide.locs["weights_loc"].copy_(LOC)
        svi.guide.unconstrained_scales["weights_loc"].fill_(-3.0)
        if prior == "latent":
            svi.guide.locs["weights_scale"].copy_(SCALE.log())
    before, identity = full_state(svi), [id(p) for p in svi.parameters.values()]
    svi.regroup()
    after = full_state(svi)
    record = svi.history.phases[-1]
    assert not record.accepted and record.gain < 0
    assert (record.churn, record.rand_index) == (0.0, 1.0)
    assert [id(p) for p in svi.parameters.values()] == identity
    assert svi.phase == 1
    for plain in (before[1], after[1]):
        plain.pop("history"), plain.pop("counters")
    assert_same(before, after)
    assert torch.isfinite(torch.tensor(svi.step(*data())))


def test_good_proposals_are_taken():
    svi = settled(KIND, scale=None)
    with torch.no_grad():
        svi.guide.unconstrained_scales["weights"].fill_(-5.0)
        svi.guide.unconstrained_scales["weights_loc"].fill_(-3.0)
    svi.regroup_schedule.hyper = "moments"
    svi.regroup()
    record = svi.history.phases[-1]
    assert record.accepted and record.gain > 0
    assert adjusted_rand_index(svi.model.assignment, Assignment(KIND)) == 1.0
    assert record.rand_index < 0.2 < record.churn


@pytest.mark.parametrize("proposal", [KIND.clamp(max=1), torch.arange(31) // 7])
@pytest.mark.parametrize("prior", ["latent", "learned"])
def test_other_numbers_of_groups_are_judged_as_well(prior, proposal):
    """One group less or more, with a hyperprior or learned points, which live elsewhere."""
    options = {"scale": Learned(0.5) if prior == "learned" else None}
    svi = settled(proposal, **options)
    svi.regroup()
    record = svi.history.phases[-1]
    assert record.num_groups == svi.model.assignment.num_groups == len(record.sizes)
    assert record.accepted == (record.gain > 0)
    assert torch.isfinite(torch.tensor([record.gain, svi.step(*data())])).all()


def test_evaluation_leaves_the_random_state():
    svi = settled(KIND)
    state = torch.get_rng_state()
    svi.regroup()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", ["normal", "delta"])
def test_guides_of_pyro_are_refused(kind):
    svi = settled(KIND, GUIDES[kind])
    before = full_state(svi)
    with pytest.raises(TypeError, match="one of this package's guides, got Auto"):
        svi.regroup()
    assert_same(before, full_state(svi))


def test_always_does_not_ask():
    svi = settled(torch.randint(0, 3, (31,)))
    svi.regroup_schedule.accept = "always"
    svi.regroup()
    assert svi.history.phases[-1].accepted and svi.history.phases[-1].gain is None


def test_history_keeps_it(tmp_path):
    svi = settled(KIND)
    svi.regroup()
    row = svi.history.to_frame("phases").iloc[0]
    record = svi.history.phases[0]
    for column in ("accepted", "gain", "rand_index", "cost"):
        assert row[column] == getattr(record, column)
    assert History.from_dict(svi.history.to_dict()) == svi.history
    svi.save(tmp_path / "run")
    other = settled(KIND)
    other.load(tmp_path / "run")
    assert other.history == svi.history
    # Records from before there were such columns are read as well.
    old = svi.history.to_dict()
    for column in ("accepted", "gain", "rand_index", "cost"):
        del old["phases"][0][column]
    assert History.from_dict(old).phases[0].accepted


def test_bad_option():
    with pytest.raises(ValueError, match="accept: expected one of"):
        Regroup(Planned(KIND), steps=1, accept="never")
