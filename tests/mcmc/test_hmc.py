# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""HMC against posteriors that are known exactly."""

import arviz
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_groupprior as pgp
from pyro_groupprior.mcmc import ChainWarning, run_hmc
from pyro_groupprior.mcmc.adaptation import Adaptation
from pyro_groupprior.mcmc.log_density import LogDensity
from tests.mcmc.known import exact, linear


def test_moments_of_a_conjugate_regression():
    torch.manual_seed(1)
    # Columns of very different size: the mass matrix has to find them.
    x = torch.randn(30, 4) * torch.tensor([0.1, 1.0, 3.0, 10.0])
    y = x @ torch.tensor([1.0, -1.0, 0.5, 0.1]) + 0.7 * torch.randn(30)
    result = run_hmc(
        linear,
        x,
        y,
        num_samples=400,
        warmup_steps=100,
        num_chains=4,
        num_steps=6,
        ascent_steps=50,
        progress=False,
    )
    mean, covariance = exact(x, y)
    draws = result.get_samples()["beta"]
    sd = covariance.diagonal().sqrt()
    assert arviz.rhat(result.samples["beta"][..., 0].numpy()) < 1.02
    assert ((draws.mean(0) - mean).abs() < 0.1 * sd).all()
    torch.testing.assert_close(draws.std(0), sd, rtol=0.08, atol=0.0)
    found = torch.corrcoef(draws.T)
    torch.testing.assert_close(found, covariance / sd / sd[:, None], rtol=0.0, atol=0.08)
    assert (result.divergences == 0).all()
    assert 0.5 < float(result.accept_prob.mean()) < 0.99


def test_a_hierarchical_scale_agrees_with_quadrature():
    y = torch.tensor([-1.2, 0.3, 0.8, 1.9, -0.4])

    def model(y):
        weights = pgp.group_prior("w", pgp.Assignment(torch.zeros(5, dtype=torch.long)), loc=0.0)
        # Under an outer plate the weights stand in the innermost dimension.
        pyro.sample("y", dist.Normal(weights, 1.0).to_event(1), obs=y)

    result = run_hmc(
        model,
        y,
        num_samples=500,
        warmup_steps=100,
        num_chains=4,
        num_steps=8,
        ascent_steps=0,
        progress=False,
    )
    # The weights integrate out: y_i ~ Normal(0, sqrt(scale^2 + 1)), and scale is alone.
    log_scale = torch.linspace(-8, 5, 4001, dtype=torch.float64)
    variance = (2 * log_scale).exp() + 1
    log_p = -0.5 * log_scale.square() - 0.5 * y.square().sum() / variance
    log_p = log_p - 0.5 * len(y) * variance.log()
    p = (log_p - log_p.logsumexp(0)).exp()
    mean = float((p * log_scale).sum())
    sd = float((p * (log_scale - mean).square()).sum().sqrt())
    draws = result.get_samples()["w_scale"].log()
    assert abs(float(draws.mean()) - mean) < 0.1 * sd
    assert float(draws.std()) == pytest.approx(sd, rel=0.1)


def test_what_is_kept_of_the_draws():
    x = torch.randn(20, 2)
    options = {"num_chains": 2, "num_steps": 4, "warmup_steps": 20, "progress": False}
    every = run_hmc(linear, x, x[:, 0], num_samples=8, **options)
    second = run_hmc(linear, x, x[:, 0], num_samples=4, thin=2, **options)
    assert torch.equal(second.samples["beta"], every.samples["beta"][:, 1::2])
    density = LogDensity(linear, (x, x[:, 0]))
    for draw in range(8):
        position = density.unconstrain({n: v[:, draw] for n, v in every.samples.items()})
        torch.testing.assert_close(every.log_joint[:, draw], density(position))


def test_lost_energy_is_counted():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        # A wall that no step comes over.
        pyro.factor("wall", torch.where(z.abs() > 0.1, -1e6, 0.0))

    options = {"num_samples": 40, "warmup_steps": 1, "num_chains": 2, "num_steps": 200}
    with pytest.warns(ChainWarning, match=r"chains \[0, 1\] of 2 have hardly moved"):
        result = run_hmc(model, start={"z": torch.zeros(2)}, progress=False, **options)
    assert (result.divergences > 0).all()
    assert (result.samples["z"].abs() < 0.1).all()


def test_a_chain_that_stands_still_is_told():
    """One of six is in a mode too narrow for the step that suits all others."""

    def model():
        modes = dist.Normal(torch.tensor([0.0, 20.0]), torch.tensor([1.0, 1e-4]))
        z = pyro.sample("z", dist.Normal(0.0, 100.0))
        pyro.factor("modes", modes.log_prob(z.unsqueeze(-1)).logsumexp(-1))

    start = {"z": torch.tensor([0.0, 20.0, 0.5, -0.5, 1.0, -1.0])}
    options = {"num_samples": 40, "warmup_steps": 40, "num_chains": 6, "num_steps": 5}
    with pytest.warns(ChainWarning, match=r"chains \[1\] of 6 have hardly moved: 0% of proposals"):
        result = run_hmc(model, start=start, progress=False, **options)
    assert result.accept_prob[1] < 0.2 < result.accept_prob[2:].min()


def test_a_warmup_there_must_be():
    with pytest.raises(ValueError, match="warmup_steps: expected at least 1, got 0"):
        run_hmc(linear, torch.ones(2, 4), torch.ones(2), warmup_steps=0, progress=False)


def test_windows_double_and_leave_the_end_to_the_step_size():
    assert Adaptation(2, 400, 0.8).windows == [20, 60, 140, 300]
    assert Adaptation(2, 10, 0.8).windows == []


def test_the_mass_is_the_variance_within_chains():
    adaptation = Adaptation(2, 400, 0.8)
    torch.manual_seed(0)
    centres = 10 * torch.randn(6, 1)  # chains in modes of their own
    for _ in range(60):
        position = centres + torch.randn(6, 2) * torch.tensor([0.1, 5.0])
        adaptation.update(position, torch.full((6,), 0.8))
    torch.testing.assert_close(
        adaptation.inverse_mass, torch.tensor([0.01, 25.0]), rtol=0.4, atol=0.0
    )
