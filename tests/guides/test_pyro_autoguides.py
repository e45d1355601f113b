# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Moments and draws of Pyro's autoguides, and names that are easily mistaken at a regroup."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import autoguide

from pyro_groupprior import (
    Assignment,
    AssignmentBuffer,
    AutoMeanField,
    PhasedSVI,
    Regroup,
    group_prior,
)
from pyro_groupprior.guides import posterior_draws, posterior_moments
from pyro_groupprior.guides.pyro_autoguides import carry_over, posterior_medians
from tests.svi.runs import GUIDES, Adam, Planned, data, regression


def randomised(kind):
    model = regression()
    guide = GUIDES[kind](model)
    guide(*data())
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return guide


@pytest.mark.parametrize("kind", GUIDES)
def test_moments_and_medians_are_those_of_the_draws(kind):
    guide = randomised(kind)
    draws = posterior_draws(guide, 500, *data())
    medians = posterior_medians(guide, *data())
    mean, sd = posterior_moments(guide, "weights", *data())
    assert mean.shape == sd.shape == (31,) and not mean.requires_grad
    values = draws["weights"].reshape(500, 31)
    if kind in ("delta", "laplace"):
        assert not sd.any()
        torch.testing.assert_close(values, mean.expand(500, 31))
    else:
        torch.testing.assert_close((values.mean(0) - mean) / sd, torch.zeros(31), atol=0.25, rtol=0)
        torch.testing.assert_close(values.std(0) / sd, torch.ones(31), atol=0.2, rtol=0)
    for name in ("weights_loc", "weights_scale", "noise"):
        below = (draws[name].reshape(500, -1) <= medians[name].reshape(-1)).double().mean(0)
        assert ((below - 0.5).abs() < 0.11).all() or kind in ("delta", "laplace")
        if kind in ("delta", "laplace"):
            torch.testing.assert_close(draws[name][0].reshape(-1), medians[name].reshape(-1))


@pytest.mark.parametrize("kind", ["mean_field", "normal", "multivariate"])
def test_moments_of_a_positive_or_a_real_site_do_not_alias_parameters(kind):
    guide = randomised(kind)
    mean, _ = posterior_moments(guide, "weights", *data())
    before = mean.clone()
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.zero_()
    assert torch.equal(mean, before)


def test_any_callable_by_draws():
    def guide(x):
        pyro.sample("z", dist.Normal(x.mean(0), 0.5).to_event(1))

    x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    mean, sd = posterior_moments(guide, "z", x)
    torch.testing.assert_close(mean, torch.tensor([2.0, 4.0]), atol=0.25, rtol=0)
    torch.testing.assert_close(sd, torch.tensor([0.5, 0.5]), atol=0.15, rtol=0)
    torch.testing.assert_close(
        posterior_medians(guide, x)["z"], torch.tensor([2.0, 4.0]), atol=0.3, rtol=0
    )
    assert posterior_draws(guide, 7, x)["z"].shape == (7, 2)


def test_flows_by_draws():
    """Neither points nor normal: Pyro knows no quantiles of theirs."""
    model = regression()
    guide = autoguide.AutoIAFNormal(model, hidden_dim=[40])
    guide(*data())
    mean, sd = posterior_moments(guide, "weights", *data())
    draws = posterior_draws(guide, 500, *data())["weights"].reshape(500, 31)
    assert (sd > 0).all()
    assert ((mean - draws.mean(0)).abs() < 5 * draws.std(0) / 10).all()


@pytest.mark.parametrize("kind", GUIDES)
def test_draws_are_of_the_latents_only(kind):
    """Not of the sites that guides make for themselves, such as unconstrained values."""
    model, guide = regression(), randomised(kind)
    trace = pyro.poutine.trace(model).get_trace(*data())
    shapes = {
        name: (9, *node["value"].shape)
        for name, node in trace.iter_stochastic_nodes()
        if not name.endswith(("_groups", "data"))
    }
    draws = posterior_draws(guide, 9, *data())
    assert {name: tuple(value.shape) for name, value in draws.items()} == shapes
    assert not any(value.requires_grad for value in draws.values())


def test_plates_that_subsample_are_no_latents():
    def guide():
        with pyro.plate("rows", 10, subsample_size=3):
            pass
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("own", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})

    draws = posterior_draws(guide, 500)
    assert list(draws) == ["z"] and draws["z"].shape == (500,)
    assert draws["z"].unique().numel() == 500


def test_draws_set_up_a_fresh_guide():
    guide = AutoMeanField(regression())
    assert posterior_draws(guide, 4, *data())["weights"].shape == (4, 31)


def test_carrying_over_to_another_kind_is_refused():
    old, new = (GUIDES[kind](regression()) for kind in ("normal", "diagonal"))
    with pytest.raises(TypeError, match="new: expected a AutoNormal, got AutoDiagonalNormal"):
        carry_over(old, new, "weights", torch.tensor([0, 1, 2]), {})


DECOYS = ("loc", "scale", "cov_factor_of", "locs_w_loc", "other_w_loc")


@pytest.mark.parametrize("name", ["w", "net.w", "locs", "scale"])
@pytest.mark.parametrize(
    "kind", [autoguide.AutoNormal, autoguide.AutoDelta, autoguide.AutoDiagonalNormal, AutoMeanField]
)
def test_sites_whose_names_look_like_others(kind, name):
    """A regroup moves the parameters of its own group sites, whatever the others are called."""
    buffer = AssignmentBuffer(Assignment(torch.arange(6) % 2))
    decoys = [decoy for decoy in DECOYS if decoy not in (f"{name}_loc", f"{name}_scale", name)]

    def model():
        group_prior(name, buffer)
        for decoy in decoys:
            pyro.sample(decoy, dist.Normal(torch.zeros(3), 1.0).to_event(1))

    schedule = Regroup(Planned(torch.tensor([0, 1, 2, 3, 2, 3])), steps=10**6)
    svi = PhasedSVI(model, partial(kind), Adam, regroup=schedule)
    for _ in range(3):
        svi.step()
    before = posterior_medians(svi.guide)
    svi.regroup()
    after = posterior_medians(svi.guide)
    for decoy in (*decoys, name):
        assert torch.equal(after[decoy], before[decoy])
    # Of the groups {0, 2, 4} and {1, 3, 5}, the parts {2, 4} and {3, 5} are the larger.
    for site in (f"{name}_loc", f"{name}_scale"):
        assert torch.equal(after[site][:2], before[site]) and after[site].shape == (4,)
    weights = before[name]
    torch.testing.assert_close(
        after[f"{name}_loc"][2:].sort().values, weights[:2].sort().values, atol=1e-5, rtol=1e-5
    )
    svi.step()
