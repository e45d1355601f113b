# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Pyro's kernels over our potential, against posteriors in closed form and Pyro's own runs."""

import functools
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import HMC, NUTS
from torch import Tensor, nn

import pyro_groupprior as pgp
from pyro_groupprior.mcmc import MCMCResult, StoredDraws, run_mcmc
from pyro_groupprior.mcmc.diagnostics import diagnose

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([1.0, -2.0, 0.5]) + 0.5 * torch.randn(
    40, generator=torch.Generator().manual_seed(1)
)
KERNELS: dict[str, Callable[..., Any]] = {
    "nuts": NUTS,
    "hmc": functools.partial(HMC, num_steps=8, step_size=0.2),
}


def linear(x: Tensor, y: Tensor) -> None:
    """A regression whose posterior is normal."""
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3), 2.0).to_event(1))
    mean = (x * beta).sum(-1)
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def exact() -> tuple[Tensor, Tensor]:
    """Mean and covariance."""
    covariance = (X.T @ X / 0.25 + torch.eye(3) / 4).inverse()
    return covariance @ X.T @ Y / 0.25, covariance


def positive(y: Tensor) -> None:
    """A rate with a gamma posterior, in another than the unconstrained space."""
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes longer than these small runs; its own tests are those of the gradient."""
    monkeypatch.setattr("pyro_groupprior.mcmc.gradient.WORTH_COMPILING", 10**9)


@pytest.mark.parametrize("kernel", KERNELS)
def test_normal_posterior(kernel: str) -> None:
    result = run_mcmc(
        linear, X, Y, kernel=KERNELS[kernel], num_samples=500, warmup_steps=200, num_chains=2,
        progress=False,
    )  # fmt: skip
    assert isinstance(result, MCMCResult)
    assert result.samples["beta"].shape == (2, 500, 3)
    draws = result.get_samples()["beta"]
    mean, covariance = exact()
    found = result.diagnostics()
    error = covariance.diagonal().sqrt() / found.loc["beta", "ess_bulk"] ** 0.5
    assert bool(((draws.mean(0) - mean).abs() < 4 * error).all())
    torch.testing.assert_close(draws.T.cov(), covariance, rtol=0.35, atol=3e-4)
    assert found.loc["beta", "rhat"] < 1.05
    # Of a normal posterior potential and kinetic energy have as many degrees of freedom.
    before = torch.cat([result.log_joint[:, :1] * torch.nan, result.log_joint[:, :-1]], 1)
    kinetic = (result.energy + before)[:, 1:]
    assert kinetic.mean().item() == pytest.approx(1.5, rel=0.15)
    assert int(result.divergences.sum()) == 0
    assert bool((result.num_steps >= 500).all())
    at_mode = result.log_joint.max() - result.log_joint.mean()
    assert at_mode.item() == pytest.approx(1.5, rel=0.25)


def test_gamma_posterior() -> None:
    y = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0])
    result = run_mcmc(positive, y, num_samples=800, warmup_steps=200, num_chains=2, progress=False)
    expected = dist.Gamma(2 + y.sum(), torch.tensor(6.0))
    draws = result.get_samples()["rate"]
    assert draws.mean().item() == pytest.approx(expected.mean.item(), rel=0.1)
    assert draws.std().item() == pytest.approx(expected.stddev.item(), rel=0.15)


def test_a_net_without_hidden_units() -> None:
    """Weights N(0, 1 / fan-in), noise of 0.5: normal in closed form."""
    model = pgp.BayesianModule(
        nn.Linear(3, 1, bias=False), pgp.likelihoods.Normal(0.5), loc=0.0, scale=1.0, num_data=40
    )
    draws = run_mcmc(
        model, X, Y[:, None], num_samples=500, warmup_steps=200, num_chains=2, progress=False
    ).get_samples()["weights"]
    covariance = (X.T @ X / 0.25 + 3 * torch.eye(3)).inverse()
    sd = covariance.diagonal().sqrt()
    assert bool(((draws.mean(0) - covariance @ X.T @ Y / 0.25).abs() < 0.2 * sd).all())
    torch.testing.assert_close(draws.std(0), sd, rtol=0.12, atol=0)


def test_the_same_seed_gives_the_same_draws() -> None:
    options: dict[str, Any] = {"num_samples": 12, "warmup_steps": 12, "num_chains": 2}
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one, again, spread = (
        run_mcmc(linear, X, Y, **options, n_jobs=n, seed=3, progress=False).samples["beta"]
        for n in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, again)
    assert torch.equal(one, spread)
    other = run_mcmc(linear, X, Y, **options, seed=4, progress=False).samples["beta"]
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(
    kernel: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyro_groupprior.mcmc.chain.KEPT", 5)
    options: dict[str, Any] = {
        "kernel": KERNELS[kernel], "warmup_steps": 20, "num_chains": 2, "progress": False,
    }  # fmt: skip
    whole = run_mcmc(linear, X, Y, num_samples=23, **options)
    stopped = run_mcmc(linear, X, Y, num_samples=8, path=tmp_path, **options)
    assert isinstance(stopped, StoredDraws)
    assert stopped.num_draws == 8
    # As where a process was ended: a file that no state knows of, and a chain that is behind.
    (tmp_path / "chain0_draws00000008.safetensors").write_bytes(b"half")
    (tmp_path / "chain1_state.safetensors").unlink()
    found = run_mcmc(linear, X, Y, num_samples=23, path=tmp_path, **options)
    assert isinstance(found, StoredDraws)
    assert found.num_draws == 23
    samples = found.get_samples(group_by_chain=True)
    torch.testing.assert_close(samples["beta"], whole.samples["beta"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.log_joint, whole.log_joint, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.energy, whole.energy, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.divergences, whole.divergences)
    # Once more: there is nothing left to do.
    again = run_mcmc(linear, X, Y, num_samples=23, path=tmp_path, **options)
    assert torch.equal(again.get_samples()["beta"], found.get_samples()["beta"])


def test_stored_draws_are_read_in_parts(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_groupprior.mcmc.chain.KEPT", 4)
    options: dict[str, Any] = {"num_samples": 10, "warmup_steps": 10, "num_chains": 2}
    found = run_mcmc(linear, X, Y, **options, path=tmp_path, progress=False)
    assert isinstance(found, StoredDraws)
    chunks = list(found.chunks())
    assert [len(chunk["beta"]) for chunk in chunks] == [4, 4, 2] * 2
    whole = found.get_samples()["beta"]
    assert torch.equal(torch.cat([chunk["beta"] for chunk in chunks]), whole)
    thinned = found.get_samples(group_by_chain=True, sites=["beta"], thin=3)
    assert torch.equal(thinned["beta"], whole.reshape(2, 10, 3)[:, ::3])
    assert found.sites == ["beta"]
    table = diagnose({"log_joint": found.log_joint, "beta": whole.reshape(2, 10, 3)})
    assert found.diagnostics().equals(table)
    with pytest.raises(KeyError, match=r"sites: expected some of \['beta'\], got 'gamma'"):
        found.get_samples(sites=["gamma"])
    with pytest.raises(ValueError, match="holds draws made with seed=0, expected 1"):
        run_mcmc(linear, X, Y, **options, path=tmp_path, seed=1, progress=False)
    with pytest.raises(FileNotFoundError, match="path: there are no draws"):
        StoredDraws(tmp_path / "nowhere")


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="num_samples: expected at least 1, got 0"):
        run_mcmc(linear, X, Y, num_samples=0)
    with pytest.raises(ValueError, match=r"args\[0\]: expected finite numbers"):
        run_mcmc(linear, X / 0, Y)
    with pytest.raises(TypeError, match="start: expected a guide or values by site, got int"):
        run_mcmc(linear, X, Y, start=3)
