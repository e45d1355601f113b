# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Copies of guides, their group parameters, and what they are not for."""

import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_groupprior import (
    Assignment,
    AssignmentBuffer,
    AutoLowRank,
    AutoMeanField,
    group_prior,
)
from tests.guides.models import everything, randomised


@pytest.fixture
def guide():
    return randomised(everything)


def sampled(guide, *args):
    pyro.set_rng_seed(3)
    return guide(*args)


def copied(guide, how):
    if how == "deepcopy":
        return copy.deepcopy(guide)
    if how == "pickle":
        return pickle.loads(pickle.dumps(guide))
    other = randomised(everything, seed=9)
    assert not torch.equal(sampled(other)["real"], sampled(guide)["real"])
    other.load_state_dict(guide.state_dict())
    return other


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "state_dict"])
def test_copies_draw_the_same_and_are_independent(guide, how):
    other, first = copied(guide, how), sampled(guide)
    for name, value in sampled(other).items():
        assert torch.equal(value, first[name])
    for site in guide.sites:  # of the same kinds, or divergences would lose their closed form
        assert type(other.factor(other.site(site.name))) is type(guide.factor(site))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(v, first[n]) for n, v in sampled(guide).items())


def grouped(buffer):
    return lambda: group_prior("w", buffer, base_scale=torch.tensor([0.1, 1.0, 10.0, 2.0]))


def test_state_of_another_number_of_groups_can_be_loaded():
    guides = []
    for count in (2, 4):
        buffer = AssignmentBuffer(Assignment(torch.arange(4) % count))
        guides.append(randomised(grouped(buffer), seed=count))
    guides[1].load_state_dict(guides[0].state_dict())
    assert guides[1].draws(1)["w_loc"].shape == (1, 2)
    for name, value in guides[0].state_dict().items():
        assert torch.equal(guides[1].state_dict()[name], value)


def test_first_spread_is_in_units_of_the_base_scale():
    guide = AutoMeanField(grouped(Assignment(torch.zeros(4, dtype=torch.long))), init_scale=0.5)
    guide.setup()
    torch.testing.assert_close(guide.moments("w")[1], torch.tensor([0.05, 0.5, 5.0, 1.0]))
    torch.testing.assert_close(guide.moments("w_loc")[1], torch.tensor([0.5]))


@pytest.mark.parametrize("support", [dist.Uniform(0.1, 2.0), dist.HalfNormal(1.0)])
def test_new_groups_start_within_the_support(support):
    buffer = AssignmentBuffer(Assignment(torch.zeros(4, dtype=torch.long)))
    model = lambda: group_prior("w", buffer, loc=dist.Uniform(-1.0, 1.0), scale=support)  # noqa: E731
    guide = randomised(model)
    first = {"w_loc": torch.tensor([0.5, -7.0, 1.0]), "w_scale": torch.tensor([1.0, 1e-6, 5.0])}
    before = guide.median()
    guide.regroup("w", torch.tensor([0, -1, -1]), first)
    after = guide.median()
    assert torch.equal(after["w_loc"][:1], before["w_loc"])
    assert after["w_loc"].abs().max() < 1 and bool(support.support.check(after["w_scale"]).all())
    draws = guide.draws(1000)
    assert draws["w_loc"].std(0).min() > 0.01  # not stuck at an edge
    assert draws["w_scale"].isfinite().all()


def test_a_proposal_touches_nothing():
    guide = randomised(grouped(Assignment(torch.arange(4) % 2)))
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    first = {"w_loc": torch.zeros(3), "w_scale": torch.ones(3)}
    proposed = guide.regrouped("w", torch.tensor([1, -1, 0]), first)
    assert set(proposed) == set(guide.group_parameters())
    assert {site for site, _ in proposed.values()} == {"w_loc", "w_scale"}
    for name, (_, value) in proposed.items():
        assert torch.equal(value[[0, 2]], before[name][[1, 0]])
    assert all(torch.equal(value, before[name]) for name, value in guide.state_dict().items())


def discrete():
    pyro.sample("k", dist.Poisson(3.0))


def subsampled():
    with pyro.plate("data", 10, subsample_size=4):
        pyro.sample("local", dist.Normal(0.0, 1.0))


def observed():
    with pyro.plate("data", 10, subsample_size=4):
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.zeros(4))


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (lambda: pyro.sample("k", dist.Bernoulli(0.5)), "'k' is discrete"),
        (discrete, "'k' is discrete"),
        (subsampled, "'local' is local to the subsampled plate 'data'"),
        (observed, "expected latent sample sites, found none"),
    ],
)
@pytest.mark.parametrize("kind", [AutoMeanField, AutoLowRank])
def test_models_it_is_not_for(kind, model, match):
    guide = kind(model)
    with pytest.raises(ValueError, match=match):
        guide()
    assert not guide.is_set_up and not list(guide.parameters())


def test_bad_arguments():
    with pytest.raises(TypeError, match="model: expected a callable"):
        AutoMeanField(3)
    with pytest.raises(ValueError, match="init_scale"):
        AutoMeanField(everything, init_scale=0.0)
    for early in ("draws", "moments", "median", "quantiles"):
        with pytest.raises(RuntimeError, match="with a batch first"):
            getattr(AutoMeanField(everything), early)(1)


def test_unknown_sites(guide):
    with pytest.raises(KeyError, match="no latent site named 'other'"):
        guide.moments("other")
