# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Pyro's kernels over our potential, against posteriors in closed form and Pyro's own runs."""

import functools
from collections.abc import Callable
from typing import Any

import joblib
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import HMC, NUTS
from torch import Tensor, nn

import pyro_groupprior as pgp
from pyro_groupprior.mcmc import MCMCResult, StoredDraws, run_mcmc
from pyro_groupprior.mcmc.chain import _Run
from pyro_groupprior.mcmc.diagnostics import diagnose

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([1.0, -2.0, 0.5]) + 0.5 * torch.randn(
    40, generator=torch.Generator().manual_seed(1)
)
KERNELS: dict[str, Callable[..., Any]] = {
    "nuts": NUTS,
    "hmc": functools.partial(HMC, num_steps=8, step_size=0.2),
}
# Moves that are quick, where it does not matter where they go.
QUICK = functools.partial(HMC, num_steps=3, step_size=0.02, adapt_step_size=False)


def linear(x: Tensor, y: Tensor, width: float = 2.0) -> None:
    """A regression whose posterior is normal."""
    beta = pyro.sample("beta", dist.Normal(torch.zeros(3), width).to_event(1))
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
    assert result.diverging.shape == result.num_steps.shape == (2, 500)
    if kernel == "hmc":  # the length of a trajectory stays, its steps are adapted
        expected = (8 * 0.2 / result.step_size).long().clamp(min=1)
        assert torch.equal(result.num_steps, expected[:, None].expand(2, 500))
    assert bool((result.num_steps >= 1).all())
    assert bool(((result.accept_prob > 0.5) & (result.accept_prob <= 1)).all())
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


def _interrupted(draws: int) -> Callable[..., Any]:
    """A move, by which a user loses patience after so many."""
    move = _Run._move

    def moved(self: Any, *args: Any) -> Any:
        if len(self.kept) + self.before[0] + (5 if self.files.num_draws else 0) >= draws:
            raise KeyboardInterrupt
        return move(self, *args)

    return moved


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(
    kernel: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyro_groupprior.mcmc.chain.KEPT", 5)
    options: dict[str, Any] = {
        "kernel": KERNELS[kernel], "warmup_steps": 20, "num_chains": 2, "progress": False,
    }  # fmt: skip
    whole = run_mcmc(linear, X, Y, num_samples=23, **options)
    with monkeypatch.context() as patch:
        patch.setattr("pyro_groupprior.mcmc.chain._Run._move", _interrupted(8))
        with pytest.raises(KeyboardInterrupt):
            run_mcmc(linear, X, Y, num_samples=23, path=tmp_path, **options)
    with pytest.raises(FileNotFoundError, match="path: chain 1 has no draws"):
        StoredDraws(tmp_path)
    stopped = run_mcmc(linear, X, Y, num_samples=9, path=tmp_path, **options)
    assert isinstance(stopped, StoredDraws)
    assert stopped.num_draws == 9
    # As where a process was ended: a file that no state knows of, and a chain that is behind.
    (tmp_path / "chain0_draws00000009.safetensors").write_bytes(b"half")
    (tmp_path / "chain1_state.safetensors").unlink()
    found = run_mcmc(linear, X, Y, num_samples=23, path=tmp_path, **options)
    assert isinstance(found, StoredDraws)
    assert found.num_draws == 23
    samples = found.get_samples(group_by_chain=True)
    assert torch.equal(samples["beta"], whole.samples["beta"])
    for name in ("log_joint", "energy", "diverging", "num_steps"):
        assert torch.equal(getattr(found, name), getattr(whole, name)), name
    torch.testing.assert_close(found.accept_prob, whole.accept_prob, atol=2e-3, rtol=0)
    torch.testing.assert_close(found.step_size, whole.step_size)
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
    with monkeypatch.context() as patch:  # another chain is behind
        patch.setattr(StoredDraws, "num_draws", 6)
        assert [len(chunk["beta"]) for chunk in found.chunks()] == [4, 2] * 2
    table = diagnose({"log_joint": found.log_joint, "beta": whole.reshape(2, 10, 3)})
    assert found.diagnostics().equals(table)
    with pytest.raises(KeyError, match=r"sites: expected some of \['beta'\], got 'gamma'"):
        found.get_samples(sites=["gamma"])
    for other, changed in (
        ({"seed": 1}, "seed=0, expected 1"),
        ({"kernel": KERNELS["hmc"]}, "kernel="),
        ({"num_chains": 3}, "num_chains=2, expected 3"),
    ):
        with pytest.raises(ValueError, match=f"holds draws made with {changed}"):
            run_mcmc(linear, X, Y, **{**options, **other}, path=tmp_path, progress=False)
    with pytest.raises(ValueError, match="holds draws made with args="):
        run_mcmc(linear, X, Y + 0.1, **options, path=tmp_path, progress=False)
    start = {"beta": torch.ones(2, 3)}
    with pytest.raises(ValueError, match="draws of another model, or from another start"):
        run_mcmc(linear, X, Y, **options, path=tmp_path, start=start, progress=False)
    wider = functools.partial(linear, width=3.0)
    with pytest.raises(ValueError, match="draws of another model, or from another start"):
        run_mcmc(wider, X, Y, **options, path=tmp_path, progress=False)
    with pytest.raises(ValueError, match="thin: expected at least 1, got 0"):
        found.get_samples(thin=0)
    with pytest.raises(NotADirectoryError, match="path: expected a folder"):
        run_mcmc(linear, X, Y, **options, path=tmp_path / "run.safetensors", progress=False)
    with pytest.raises(FileNotFoundError, match="path: there are no draws"):
        StoredDraws(tmp_path / "nowhere")


def test_predictions_from_chains(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what has run them, in memory or in several files, as by their draws."""
    monkeypatch.setattr("pyro_groupprior.mcmc.chain.KEPT", 4)
    model = pgp.BayesianModule(nn.Linear(3, 1), pgp.likelihoods.Normal(), num_data=40)
    options: dict[str, Any] = {"num_samples": 10, "warmup_steps": 10, "num_chains": 2}
    options |= {"kernel": QUICK, "progress": False}
    chains = run_mcmc(model, X, Y[:, None], **options)
    stored = run_mcmc(model, X, Y[:, None], path=tmp_path, **options)
    one, other = (pgp.predict(model, posterior, X[:7]) for posterior in (chains, stored))
    draws = chains.get_samples()
    slope, intercept = draws["weights"][:, :3, None], draws["weights"][:, 3:, None]
    torch.testing.assert_close(one.outputs, X[:7] @ slope + intercept)
    assert torch.equal(one.outputs, other.outputs)
    assert torch.equal(one.sd, other.sd)
    assert torch.equal(one.distribution.stddev[:, 0, 0], draws["noise"])


def test_files_of_others_are_refused(tmp_path: Any) -> None:
    options: dict[str, Any] = {"num_samples": 10, "warmup_steps": 10, "num_chains": 2}
    found = run_mcmc(linear, X, Y, **options, path=tmp_path, progress=False)
    one, two = (tmp_path / f"chain{n}_draws00000000.safetensors" for n in (0, 1))
    whole = two.read_bytes()
    two.write_bytes(one.read_bytes())
    with pytest.raises(ValueError, match="is of another chain: expected 1, got 0"):
        found.get_samples()
    two.write_bytes(whole[:-8])
    with pytest.raises(ValueError, match="is damaged"):
        found.get_samples()
    two.unlink()
    with pytest.raises(FileNotFoundError, match="there is no file"):
        found.get_samples()
    (tmp_path / "run.safetensors").unlink()
    with pytest.raises(ValueError, match="holds draws, but nothing that says of which run"):
        run_mcmc(linear, X, Y, **options, path=tmp_path, progress=False)


def pointed(y: Tensor) -> None:
    """A model with a learned point; to have a prior with standard deviation 20 in these tests."""
    scale = pyro.param("scale", torch.tensor(1.0))
    z = pyro.sample("z", dist.Normal(0.0, scale))
    pyro.sample("y", dist.Normal(z, 100.0), obs=y)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_learned_points_go_along_to_other_processes(n_jobs: int) -> None:
    pyro.param("scale", torch.tensor(20.0))
    y = torch.tensor(0.0)
    options: dict[str, Any] = {"num_samples": 300, "warmup_steps": 100, "num_chains": 2}
    result = run_mcmc(pointed, y, n_jobs=n_jobs, **options, progress=False)
    expected = (1 / 20**2 + 1 / 100**2) ** -0.5
    assert result.get_samples()["z"].std().item() == pytest.approx(expected, rel=0.2)


def test_threads_are_refused() -> None:
    options: dict[str, Any] = {"num_samples": 5, "warmup_steps": 5, "num_chains": 2}
    with (
        joblib.parallel_config(backend="threading"),
        pytest.raises(RuntimeError, match="chains need a process each"),
    ):
        run_mcmc(linear, X, Y, n_jobs=2, **options, progress=False)


def test_a_start_from_the_prior() -> None:
    options: dict[str, Any] = {"num_samples": 1, "warmup_steps": 0, "num_chains": 20, "seed": 1}
    tiny = functools.partial(HMC, num_steps=1, step_size=1e-6, adapt_step_size=False)
    found = run_mcmc(linear, X, Y, start="prior", kernel=tiny, **options, progress=False)
    beta = found.get_samples()["beta"]
    assert beta.std().item() == pytest.approx(2.0, rel=0.3)
    assert len(beta.unique(dim=0)) == 20


def test_bad_input() -> None:
    for kernel in (NUTS(linear), lambda potential_fn: None, 3, pyro.infer.RandomWalkKernel):
        with pytest.raises(TypeError, match="kernel: expected what makes one from potential_fn"):
            run_mcmc(linear, X, Y, kernel=kernel)
    with pytest.raises(ValueError, match="n_jobs: expected a number of processes, or -1"):
        run_mcmc(linear, X, Y, n_jobs=0)
    with pytest.raises(ValueError, match="seed: expected at least 0, got -1"):
        run_mcmc(linear, X, Y, seed=-1)
    with pytest.raises(ValueError, match="start: expected 'prior', a guide or values by site"):
        run_mcmc(linear, X, Y, start="posterior")
    with pytest.raises(ValueError, match="num_samples: expected at least 1, got 0"):
        run_mcmc(linear, X, Y, num_samples=0)
    with pytest.raises(ValueError, match=r"args\[0\]: expected finite numbers"):
        run_mcmc(linear, X / 0, Y)
    with pytest.raises(TypeError, match="start: expected a guide or values by site, got int"):
        run_mcmc(linear, X, Y, start=3)


def test_chains_without_draws_yet(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(self: Any, *args: Any) -> Any:
        raise KeyboardInterrupt

    options: dict[str, Any] = {"num_samples": 10, "warmup_steps": 10, "num_chains": 1}
    with monkeypatch.context() as patch:
        patch.setattr("pyro_groupprior.mcmc.chain._Run._move", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_mcmc(linear, X, Y, **options, path=tmp_path, progress=False)
    found = StoredDraws(tmp_path)
    assert found.num_draws == 0
    assert found.diverging.shape == (1, 0)
    for read in (found.get_samples, lambda: list(found.chunks())):
        with pytest.raises(ValueError, match=r"not all chains in .* have draws yet"):
            read()


def test_statistics_keep_their_kinds(tmp_path: Any) -> None:
    options: dict[str, Any] = {"num_samples": 10, "warmup_steps": 10, "num_chains": 1}
    found = run_mcmc(linear, X, Y, **options, path=tmp_path, progress=False)
    whole = run_mcmc(linear, X, Y, **options, progress=False)
    for name in ("log_joint", "energy", "diverging", "num_steps"):
        assert getattr(found, name).dtype == getattr(whole, name).dtype


def test_the_mean_acceptance_survives_several_stops(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyro_groupprior.mcmc.chain.KEPT", 4)
    options: dict[str, Any] = {"warmup_steps": 20, "num_chains": 1, "progress": False}
    whole = run_mcmc(linear, X, Y, num_samples=40, **options)
    for stop in (5, 31):
        with monkeypatch.context() as patch:
            patch.setattr("pyro_groupprior.mcmc.chain._Run._move", _stopped_at(stop))
            with pytest.raises(KeyboardInterrupt):
                run_mcmc(linear, X, Y, num_samples=40, path=tmp_path, **options)
    found = run_mcmc(linear, X, Y, num_samples=40, path=tmp_path, **options)
    torch.testing.assert_close(found.accept_prob, whole.accept_prob, atol=2e-3, rtol=0)
    assert torch.equal(found.get_samples()["beta"], whole.get_samples()["beta"])


def _stopped_at(draws: int) -> Callable[..., Any]:
    """A move that is interrupted half-way, after so many draws."""
    move = _Run._move

    def moved(self: Any, *args: Any) -> Any:
        if self.files.num_draws + len(self.kept) >= draws:
            torch.randn(3)  # it has drawn something already
            raise KeyboardInterrupt
        return move(self, *args)

    return moved
