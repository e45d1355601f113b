# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Regroups that cannot be carried out are refused before anything changes."""

from functools import partial

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import autoguide
from torch import nn

from pyro_groupprior import (
    Assignment,
    AssignmentBuffer,
    AutoMeanField,
    Learned,
    PhasedSVI,
)
from tests.svi.runs import (
    EVERY,
    GUIDES,
    PROPOSALS,
    THREE,
    Adam,
    Planned,
    assert_same,
    data,
    full_state,
    regression,
    trained,
    two_priors,
)


def refused(svi: PhasedSVI, match: str, error=ValueError) -> None:
    before, identity = full_state(svi), [id(p) for p in svi.parameters.values()]
    guide = svi.guide
    with pytest.raises(error, match=match):
        svi.regroup()
    assert_same(before, full_state(svi))
    assert [id(p) for p in svi.parameters.values()] == identity and svi.guide is guide


@pytest.mark.parametrize("kind", [k for k in GUIDES if k not in ("mean_field", "low_rank")])
@pytest.mark.parametrize("case", ["grown", "shrunk"])
def test_guide_instance_is_refused_before_anything_changes(kind, case):
    model = regression()
    proposal = torch.unique(PROPOSALS[case][0], return_inverse=True)[1]
    svi = PhasedSVI(model, GUIDES[kind](model), Adam, regroup=EVERY(Planned(proposal)))
    svi.step(*data())
    refused(svi, "give PhasedSVI the class")


def test_guide_instance_may_stay_where_its_groups_stay():
    model = regression()
    moved = THREE.clone()
    moved[0] = 1
    svi = PhasedSVI(model, GUIDES["normal"](model), Adam, regroup=EVERY(Planned(moved)))
    svi.step(*data())
    svi.regroup()
    assert svi.history.phases[-1].churn == pytest.approx(1 / 31)


@pytest.mark.parametrize(
    ("prior", "match"),
    [
        ({"scale": torch.tensor([1.0, 2.0, 3.0])}, "weights_scale: expected one value"),
        ({"loc": dist.Normal(torch.zeros(3), 1.0)}, "weights_loc: expected one value"),
        ({"scale": Learned(torch.ones(3))}, "weights_scale: expected one value"),
    ],
    ids=["fixed", "hyperprior", "learned"],
)
@pytest.mark.parametrize("kind", ["mean_field", "normal"])
def test_priors_for_each_group_cannot_take_more_groups(kind, prior, match):
    refused(trained(GUIDES[kind], PROPOSALS["grown"][0], **prior), match)


def test_proposal_for_other_weights_and_foreign_guides_are_refused():
    refused(trained(AutoMeanField, torch.zeros(30, dtype=torch.long)), "expected 31 weights")
    flow = partial(autoguide.AutoIAFNormal, hidden_dim=[40])
    svi = trained(flow, PROPOSALS["grown"][0], steps=1)
    with torch.random.fork_rng():  # its moments are taken from draws
        before = full_state(svi)
        with pytest.raises(ValueError, match="AutoIAFNormal cannot take another set"):
            svi.regroup()
    assert_same(before, full_state(svi))


def test_a_second_prior_that_fails_leaves_the_first_as_it_was():
    first, second = torch.arange(4) % 2, torch.arange(4) % 2
    buffers = nn.ModuleList([AssignmentBuffer(Assignment(i)) for i in (first, second)])
    model = two_priors(buffers)

    class Failing:
        calls = 0

        def propose(self, posterior):
            self.calls += 1
            return Assignment(torch.arange(4 if self.calls == 1 else 5))

    svi = PhasedSVI(model, AutoMeanField, Adam, regroup=EVERY(Failing()))
    svi.step(torch.randn(9, 4), torch.randn(9))
    refused(svi, "expected 4 weights, got 5")
