# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The evidence from any guide and from MCMC, against a regression's closed form."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, autoguide
from scipy import stats
from torch import Tensor

from pyro_groupprior import (
    Assignment,
    AssignmentBuffer,
    AutoFullRank,
    AutoLowRank,
    AutoMeanField,
    Learned,
    group_prior,
    weight_posteriors,
)
from pyro_groupprior.families import StudentT
from pyro_groupprior.regrouping import cavity
from pyro_groupprior.svi import posteriors as module
from pyro_groupprior.svi.groups import find_groups
from pyro_groupprior.svi.posteriors import effective_prior
from tests.svi.runs import regression

INDEX = torch.tensor([0, 0, 0, 1, 1, 1])
LOC, SCALE = torch.tensor([-0.5, 1.0]), torch.tensor([0.4, 1.2])
BASE = torch.tensor([1.0, 0.5, 2.0, 1.0, 0.5, 2.0])
NOISE = 0.5


def model(x: Tensor, y: Tensor, loc=LOC, scale=SCALE, family="normal") -> None:
    beta = group_prior(
        "beta", Assignment(INDEX), loc=loc, scale=scale, base_scale=BASE, family=family
    )
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ beta, NOISE), obs=y)


def batch(orthogonal=True) -> tuple[Tensor, Tensor]:
    x = torch.randn(20, 6)
    if orthogonal:  # the exact posterior then factorises, so that every guide can hold it
        x = torch.linalg.qr(x).Q * torch.tensor([1.0, 2.0, 3.0, 1.0, 2.0, 3.0])
    return x, x @ torch.linspace(-1, 2, 6) + NOISE * torch.randn(20)


def exact(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the weights' posterior."""
    loc, scale = BASE * LOC[INDEX], BASE * SCALE[INDEX]
    covariance = torch.linalg.inv(torch.diag(scale**-2) + x.T @ x / NOISE**2)
    return covariance @ (loc / scale**2 + x.T @ y / NOISE**2), covariance


def softplus_inverse(value: Tensor) -> Tensor:
    return value.expm1().log()


def at_the_exact_posterior(kind: str, x: Tensor, y: Tensor):
    mean, covariance = exact(x, y)
    sd = covariance.diagonal().sqrt()
    own = {
        "mean_field": AutoMeanField,
        "full_rank": AutoFullRank,
        "low_rank": partial(AutoLowRank, rank=1),
    }
    theirs = {
        "normal": autoguide.AutoNormal,
        "multivariate": autoguide.AutoMultivariateNormal,
        "laplace": autoguide.AutoLaplaceApproximation,
    }
    guide = (own | theirs)[kind](model)
    guide.setup(x, y) if kind in own else guide(x, y)
    with torch.no_grad():
        if kind in own:
            guide.locs["beta"].copy_(mean)
            guide.unconstrained_scales["beta"].copy_(softplus_inverse(sd))
            if kind == "low_rank":
                guide.factors["beta"].zero_()
        elif kind == "normal":
            guide.locs.beta.copy_(mean)
            guide.scales.beta = sd
        else:
            guide.loc.copy_(mean)
            if kind == "multivariate":
                guide.scale, guide.scale_tril = sd, torch.eye(6)
    return guide


@pytest.mark.parametrize(
    "kind", ["mean_field", "full_rank", "low_rank", "normal", "multivariate", "laplace"]
)
def test_evidence_is_what_least_squares_says(kind):
    x, y = batch()
    found = weight_posteriors(model, at_the_exact_posterior(kind, x, y), x, y)["beta"]
    mean, covariance = exact(x, y)
    torch.testing.assert_close(found.mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.sd, covariance.diagonal().sqrt(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.prior_loc, BASE * LOC[INDEX])
    torch.testing.assert_close(found.prior_scale, BASE * SCALE[INDEX])
    least_squares, noise = torch.linalg.lstsq(x, y).solution, NOISE / x.norm(dim=0)
    data = cavity(found.mean, found.sd, found.prior_loc, found.prior_scale, tolerance=0.0)
    torch.testing.assert_close(data.estimate, least_squares, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(data.noise, noise, rtol=1e-2, atol=1e-3)
    evidence = found.evidence()  # in units of the base scale, its noise a little wider
    torch.testing.assert_close(evidence.estimate * BASE, data.estimate, rtol=1e-4, atol=1e-5)
    assert bool((evidence.noise * BASE >= data.noise * 0.9999).all())
    assert found.draw(7).shape == (7, 6) and found.phase == 0


def test_laplace_finds_correlated_posteriors_too():
    x, y = batch(orthogonal=False)
    guide = at_the_exact_posterior("laplace", x, y)
    state = {name: value.clone() for name, value in guide.state_dict().items()}
    found = weight_posteriors(model, guide, x, y)["beta"]
    torch.testing.assert_close(found.sd, exact(x, y)[1].diagonal().sqrt(), rtol=1e-3, atol=1e-4)
    assert all(torch.equal(value, state[name]) for name, value in guide.state_dict().items())


def test_mcmc_draws_of_a_small_regression():
    x, y = batch(orthogonal=False)
    free = partial(model, loc=None, scale=dist.LogNormal(0.0, 0.3))
    mcmc = MCMC(NUTS(free, max_tree_depth=3), 80, warmup_steps=40, disable_progbar=True)
    mcmc.run(x, y)
    draws = mcmc.get_samples()
    found = weight_posteriors(free, draws, x, y)["beta"]
    torch.testing.assert_close(found.mean, draws["beta"].reshape(-1, 6).mean(0))
    evidence = found.evidence()
    least_squares = torch.linalg.lstsq(x, y).solution / BASE
    # 20 rows say much beside the prior, so that the two are close.
    apart = (evidence.estimate - least_squares) / evidence.noise
    assert apart.abs().max() < 1.5
    noise = NOISE * torch.linalg.inv(x.T @ x).diagonal().sqrt() / BASE
    assert bool(((evidence.noise / noise).log().abs() < 0.5).all())


def test_draws_by_definition():
    mean, covariance = exact(*batch())
    weights = torch.distributions.MultivariateNormal(mean, covariance).sample((20_000,))
    scale = torch.distributions.LogNormal(SCALE.log(), 0.3).sample((20_000,))
    draws = {"beta": weights, "beta_loc": LOC.expand(20_000, 2), "beta_scale": scale}
    found = weight_posteriors(model, draws, *batch())["beta"]
    sd = covariance.diagonal().sqrt()
    torch.testing.assert_close(found.mean, mean, atol=0.03, rtol=0)
    torch.testing.assert_close(found.sd, sd, atol=0, rtol=0.03)
    # E[scale^-2] of a log-normal.
    average = torch.tensor(stats.lognorm(0.6, scale=(SCALE**-2).numpy()).mean()).float().rsqrt()
    torch.testing.assert_close(found.prior_scale, BASE * average[INDEX], atol=0, rtol=0.02)
    torch.testing.assert_close(found.prior_loc, BASE * LOC[INDEX], atol=0.02, rtol=0.02)


@pytest.mark.parametrize("kind", ["mean_field", "normal"])
def test_effective_prior_against_draws_of_the_guide(kind):
    """The mean of loc and the root of the harmonic mean of ``scale^2``."""
    free, (x, y) = partial(model, loc=None, scale=None), batch()
    guide = AutoMeanField(free) if kind == "mean_field" else autoguide.AutoNormal(free)
    guide.setup(x, y) if kind == "mean_field" else guide(x, y)
    with torch.no_grad():
        if kind == "mean_field":
            guide.locs["beta_loc"].copy_(LOC), guide.locs["beta_scale"].copy_(SCALE.log())
            for name in ("beta_loc", "beta_scale"):
                guide.unconstrained_scales[name].fill_(softplus_inverse(torch.tensor(0.4)))
        else:
            guide.locs.beta_loc.copy_(LOC), guide.locs.beta_scale.copy_(SCALE.log())
            guide.scales.beta_loc = guide.scales.beta_scale = torch.full((2,), 0.4)
    site = find_groups(free, x, y)["beta"]
    loc, scale = effective_prior(free, guide, site, x, y)
    log_scale = SCALE.log() + 0.4 * torch.randn(200_000, 2)
    sampled = (-2 * log_scale).exp().mean(0).rsqrt()
    torch.testing.assert_close(loc, LOC)
    torch.testing.assert_close(scale, sampled, atol=0, rtol=0.02)


@pytest.mark.parametrize("loc", [0.3, LOC, Learned(0.3)])
@pytest.mark.parametrize("scale", [0.7, SCALE, Learned(0.7)])
def test_fixed_and_learned_group_parameters(loc, scale):
    def values(given):
        given = given.init if isinstance(given, Learned) else given
        return torch.as_tensor(given).expand(2)

    given, (x, y) = partial(model, loc=loc, scale=scale), batch()
    guide = AutoMeanField(given)
    guide.setup(x, y)
    found = weight_posteriors(given, guide, x, y)["beta"]
    torch.testing.assert_close(found.prior_loc, BASE * values(loc)[INDEX])
    torch.testing.assert_close(found.prior_scale, BASE * values(scale)[INDEX])


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("family", ["normal", "laplace", StudentT(5.0)])
def test_prior_of_other_families_by_its_variance(family, soft):
    shares = torch.tensor([[0.7, 0.3]]).expand(6, 2)
    index = torch.stack([INDEX, 1 - INDEX], 1)
    groups = Assignment(index, 2, shares) if soft else Assignment(INDEX)

    def given():
        return group_prior("beta", groups, loc=LOC, scale=SCALE, base_scale=BASE, family=family)

    guide = AutoMeanField(given)
    guide.setup()
    found = weight_posteriors(given, guide)["beta"]
    fn = pyro.poutine.trace(given).get_trace().nodes["beta"]["fn"]
    torch.testing.assert_close(found.prior_loc, fn.mean)
    torch.testing.assert_close(found.prior_scale, fn.variance.sqrt())


def test_every_group_prior_of_a_model():
    buffers = [AssignmentBuffer(Assignment(torch.arange(3))) for _ in range(2)]

    def two():
        group_prior("one", buffers[0], scale=0.5)
        group_prior("two", buffers[1], scale=2.0)

    guide = AutoMeanField(two)
    guide.setup()
    found = weight_posteriors(two, guide)
    assert list(found) == ["one", "two"]
    assert found["one"].prior_scale.unique().item() == 0.5
    assert found["two"].prior_scale.unique().item() == 2.0


def test_a_nets_posterior_knows_its_layout():
    net, x = regression(), torch.randn(4, 3)
    guide = AutoMeanField(net)
    guide.setup(x, torch.randn(4, 1))
    found = weight_posteriors(net, guide, x, torch.randn(4, 1))["weights"]
    assert found.layout is net.layout and found.partition("layer").num_groups == 2
    assert torch.equal(found.base_scale, net.base_scale)


def test_refusals(monkeypatch):
    x, y = batch()
    with pytest.raises(ValueError, match="it states no group_prior"):
        weight_posteriors(lambda: pyro.sample("w", dist.Normal(0.0, 1.0)), None)
    draws = {"beta": torch.zeros(5, 6), "beta_loc": torch.zeros(5, 2)}
    with pytest.raises(ValueError, match=r"draws of \['beta_scale'\] are missing"):
        weight_posteriors(model, draws, x, y)
    one = {name: value[:1] for name, value in draws.items()}
    with pytest.raises(ValueError, match="at least 2 draws of 'beta', got 1"):
        weight_posteriors(model, {**one, "beta_scale": torch.ones(1, 2)}, x, y)
    guide = at_the_exact_posterior("laplace", x, y)
    monkeypatch.setattr(module, "MAX_LAPLACE", 5)
    with pytest.raises(ValueError, match="the Hessian over 6 weights is too large"):
        weight_posteriors(model, guide, x, y)


def test_a_point_without_a_mode_is_refused():
    def hollow():
        beta = group_prior("beta", Assignment(INDEX), loc=0.0, scale=1.0)
        pyro.factor("hollow", beta.square().sum())

    guide = autoguide.AutoLaplaceApproximation(hollow)
    guide()
    with pytest.raises(ValueError, match="Hessian is not positive definite"):
        weight_posteriors(hollow, guide)
