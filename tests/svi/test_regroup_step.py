# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A regroup: what stays stays bit by bit, what moves follows its group, what is refused."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_groupprior import (
    Assignment,
    AssignmentBuffer,
    AutoMeanField,
    Learned,
    PhasedSVI,
)
from pyro_groupprior.guides import posterior_moments
from tests.svi.runs import (
    EVERY,
    GUIDES,
    PROPOSALS,
    THREE,
    Adam,
    Planned,
    assert_same,
    by_site,
    data,
    full_state,
    trained,
    two_priors,
)

PRIORS = {
    "default": {},
    "learned scale": {"scale": Learned(0.7)},
    "learned both": {"loc": Learned(0.1), "scale": Learned(0.7)},
    "fixed": {"loc": 0.0, "scale": 1.5},
    "bounded": {"loc": dist.Uniform(-0.5, 0.5), "scale": dist.Uniform(0.01, 5.0)},
}


def member_moments(svi: PhasedSVI, name: str) -> Tensor:
    """By the definition, group by group, in the unconstrained space."""
    mean, sd = posterior_moments(svi.guide, "weights", *data())
    base, index = svi.model.base_scale, svi.model.assignment.index
    values = []
    for group in range(svi.model.assignment.num_groups):
        if not (index == group).any():
            values.append(torch.tensor(0.0))  # loc 0, scale 1
            continue
        z = (mean / base)[index == group]
        spread = z.var(correction=0) + (sd / base)[index == group].square().mean()
        values.append(z.mean() if "weights_loc" in name else 0.5 * spread.log())
    return torch.stack(values)


def is_group(name: str) -> bool:
    return "weights_loc" in name or "weights_scale" in name


def check_rows(svi: PhasedSVI, before: dict, source: list[int], hyper: str) -> None:
    after, kept = by_site(svi), torch.tensor(source)
    if hyper != "carry":
        kept = torch.full_like(kept, -1)
    assert set(after) == set(before)
    for name, rows in after.items():
        for key, value in rows.items():
            if not is_group(name):
                assert torch.equal(value, before[name][key]), (name, key)
                continue
            assert len(value) == len(source)
            assert torch.equal(value[kept >= 0], before[name][key][kept[kept >= 0]]), (name, key)
            if key != "value":
                assert not value[kept < 0].any(), (name, key)
        if is_group(name) and "scales." not in name and "guide.scale_" not in name:
            if "unconstrained_scales" in name or "cov_factor" in name:
                continue
            start = member_moments(svi, name)
            if hyper == "reset":
                start = torch.zeros(len(source))  # loc 0; scale 1, whose logarithm is 0
            torch.testing.assert_close(
                rows["value"][kept < 0], start[kept < 0], atol=2e-5, rtol=1e-4
            )


@pytest.mark.parametrize(
    ("case", "hyper"),
    [*[(case, "carry") for case in PROPOSALS], ("grown", "moments"), ("relabelled", "reset")],
)
@pytest.mark.parametrize("kind", [kind for kind in GUIDES if kind != "multivariate"])
def test_rows_follow_their_group(kind, case, hyper):
    proposal, source = PROPOSALS[case]
    svi = trained(GUIDES[kind], Assignment(proposal, int(proposal.max()) + 1), hyper)
    if case == "shrunk":  # empty groups of the proposal would stay: number them without gaps
        proposal = torch.unique(proposal, return_inverse=True)[1]
        svi.regroup_schedule.strategy = Planned(proposal)
    before = by_site(svi)
    svi.regroup()
    assert svi.model.assignment.num_groups == len(source)
    check_rows(svi, before, source, hyper)


@pytest.mark.parametrize("hyper", ["carry", "moments", "reset"])
@pytest.mark.parametrize("prior", ["learned scale", "learned both", "fixed"])
@pytest.mark.parametrize("kind", ["mean_field", "normal"])
def test_learned_and_fixed_group_parameters(kind, prior, hyper):
    proposal, source = PROPOSALS["grown"]
    svi = trained(GUIDES[kind], proposal, hyper, **PRIORS[prior])
    before = by_site(svi)
    assert (
        sum(map(is_group, before))
        == {
            "learned scale": 3,  # loc's mean and deviation, the point
            "learned both": 2,
            "fixed": 0,
        }[prior]
    )
    svi.regroup()
    check_rows(svi, before, source, hyper)
    last = svi.history.phases[-1]
    assert len(last.scales) == 5
    if prior == "fixed":
        assert last.locs == (0.0,) * 5 and last.scales == (1.5,) * 5


def test_planted_permutation_changes_nothing():
    """Only the labels were permuted: groups, parameters, moments and their identity stay."""
    svi = trained(AutoMeanField, PROPOSALS["relabelled"][0])
    before, identity = full_state(svi), [id(p) for p in svi.parameters.values()]
    svi.regroup()
    after = full_state(svi)
    assert svi.history.phases[-1].churn == 0.0
    assert [id(p) for p in svi.parameters.values()] == identity
    for plain in (before[1], after[1]):
        plain.pop("history"), plain.pop("counters")
    assert_same(before, after)


@pytest.mark.parametrize("case", ["relabelled", "grown", "shrunk"])
def test_covariance_of_what_stays_is_exact(case):
    proposal, source = PROPOSALS[case]
    proposal = torch.unique(proposal, return_inverse=True)[1]
    svi = trained(GUIDES["multivariate"], proposal)
    with torch.no_grad():  # strong correlations, as after long training
        tril = svi.guide.scale_tril_unconstrained
        tril.copy_(torch.randn(tril.shape, generator=torch.Generator().manual_seed(0)) * 0.3)
    old, before = svi.guide.get_posterior(), by_site(svi)
    svi.regroup()
    new = svi.guide.get_posterior()
    # Order of the latents: groups' locs, groups' scales, weights, noise.
    rest = torch.arange(32)
    rows = torch.cat([torch.tensor(source), torch.tensor(source) + 3, rest + 6])
    rows[: 2 * len(source)][torch.tensor(source * 2) < 0] = -1
    kept = rows >= 0
    there, here = old.covariance_matrix, new.covariance_matrix
    exact = there[rows[kept]][:, rows[kept]]
    torch.testing.assert_close(here[kept][:, kept], exact, atol=1e-6, rtol=1e-5)
    assert torch.equal(new.loc[kept], old.loc[rows[kept]])
    assert not here[~kept][:, kept].any()
    for key in ("exp_avg", "exp_avg_sq"):
        now = svi.optimizer.state[svi.guide.loc][key]
        then = torch.cat(
            [
                before[f"guide.loc/{site}"][key]
                for site in ("weights_loc", "weights_scale", "weights", "noise")
            ]
        )
        assert torch.equal(now[kept], then[rows[kept]]) and not now[~kept].any()
    if case == "relabelled":
        assert torch.equal(new.scale_tril, old.scale_tril)


@pytest.mark.parametrize(
    ("kind", "prior"),
    [
        *[(kind, "default") for kind in GUIDES],
        *[("mean_field", prior) for prior in PRIORS if prior != "default"],
        *[(kind, "learned both") for kind in ("normal", "delta", "laplace", "diagonal")],
        ("normal", "bounded"),
    ],
)
def test_training_goes_on(kind, prior):
    """The optimizer holds just what model and guide now use, and the loss goes on falling."""
    x, y = data()
    svi = trained(GUIDES[kind], PROPOSALS["grown"][0], **PRIORS[prior])
    svi.regroup()
    held = {id(p) for group in svi.optimizer.param_groups for p in group["params"]}
    stored = {id(p) for _, p in pyro.get_param_store().named_parameters()}
    own = {id(p) for p in svi.guide.parameters()}
    used = own | {i for i in stored if prior.startswith("learned") or i in own}
    assert held == used == {id(p) for p in svi.parameters.values()}
    first = {name: p.detach().clone() for name, p in svi.parameters.items()}
    start = sum(svi.evaluate_loss(x, y) for _ in range(10)) / 10
    losses = torch.tensor([svi.step(x, y) for _ in range(40)])
    assert losses.isfinite().all()
    assert sum(svi.evaluate_loss(x, y) for _ in range(10)) / 10 < start
    assert all(not torch.equal(p, first[name]) for name, p in svi.parameters.items())


def test_churn_goes_by_the_names_of_the_old_groups():
    """Without its middle group, the last group moves up by one; its members have not moved."""
    svi = trained(AutoMeanField, torch.where(THREE == 1, 0, THREE // 2))
    svi.regroup()
    assert svi.history.phases[-1].churn == pytest.approx(float((THREE == 1).double().mean()))


def test_soft_proposal_is_carried_by_its_most_probable_groups():
    shares = torch.full((31, 2), 0.5) + torch.tensor([0.2, -0.2])
    index = torch.stack([torch.tensor([1, 2, 0])[THREE], (THREE + 2) % 3], 1)
    index[:, 1] = (index[:, 0] + 1) % 3
    svi = trained(AutoMeanField, Assignment(index, 3, shares))
    before = by_site(svi)
    svi.regroup()
    check_rows_exactly = by_site(svi)
    assert svi.model.assignment.is_soft
    assert torch.equal(svi.model.assignment.hard().index, THREE.int())
    for name, rows in check_rows_exactly.items():
        assert all(torch.equal(value, before[name][key]) for key, value in rows.items())
    assert svi.history.phases[-1].churn == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize("kind", ["mean_field", "diagonal", "multivariate"])
def test_two_priors_regroup_together(kind):
    x = torch.randn(30, 4)
    buffers = [AssignmentBuffer(Assignment(torch.arange(4) % n)) for n in (2, 1)]
    planned = Planned(torch.arange(4), torch.arange(4) % 3)
    svi = PhasedSVI(two_priors(buffers), GUIDES[kind], Adam, regroup=EVERY(planned))
    losses = [svi.step(x, x.sum(1)) for _ in range(3)]
    weights = {name: posterior_moments(svi.guide, name, x, x.sum(1))[0] for name in ("one", "two")}
    svi.regroup()
    assert [site.assignment.num_groups for site in svi.groups.values()] == [4, 3]
    for name, mean in weights.items():
        assert torch.equal(posterior_moments(svi.guide, name, x, x.sum(1))[0], mean)
    losses += [svi.step(x, x.sum(1)) for _ in range(30)]
    assert torch.tensor(losses).isfinite().all() and losses[-1] < losses[0]
    assert [(p.name, p.num_groups) for p in svi.history.phases] == [("one", 4), ("two", 3)]
