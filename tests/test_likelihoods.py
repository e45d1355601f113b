# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Likelihoods against SciPy; shapes and values that are refused; minibatches; noise; one's own."""

import functools
import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from pyro_groupprior import (
    AutoMeanField,
    BayesianModule,
    Learned,
    MeanFieldELBO,
    PhasedSVI,
    likelihoods,
    predict,
)

NOISE = 0.7


def _normal(f: np.ndarray, y: np.ndarray) -> np.ndarray:
    return scipy.stats.norm.logpdf(y, f, NOISE)


def _student(f: np.ndarray, y: np.ndarray) -> np.ndarray:
    return scipy.stats.t.logpdf(y, 3.0, f, NOISE)


def _bernoulli(f: np.ndarray, y: np.ndarray) -> np.ndarray:
    return scipy.stats.bernoulli.logpmf(y, 1 / (1 + np.exp(-f)))


def _poisson(f: np.ndarray, y: np.ndarray) -> np.ndarray:
    return scipy.stats.poisson.logpmf(y, np.exp(f))


def _categorical(f: np.ndarray, y: np.ndarray) -> np.ndarray:
    log_probs = f - np.log(np.exp(f).sum(-1, keepdims=True))
    return np.take_along_axis(log_probs, y[..., None], -1)[..., 0]


ELEMENTWISE = {
    "normal": (likelihoods.Normal(noise=NOISE), _normal, lambda s: torch.randn(s)),
    "student_t": (likelihoods.StudentT(3.0, noise=NOISE), _student, lambda s: torch.randn(s)),
    "bernoulli": (likelihoods.Bernoulli(), _bernoulli, lambda s: torch.randint(0, 2, s)),
    "poisson": (likelihoods.Poisson(), _poisson, lambda s: torch.randint(0, 5, s)),
}


class Squeeze(nn.Linear):
    """One number a row, without a dimension of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze(-1)


def observed(model: BayesianModule, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The net's output, and the log-density of each row."""
    trace = poutine.trace(model).get_trace(x, y)
    trace.compute_log_prob()
    return trace.nodes["_RETURN"]["value"].detach(), trace.nodes["obs"]["log_prob"].detach()


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize(
    ("net", "x_shape", "y_shape"),
    [
        (Squeeze(2, 1), (6, 2), (6,)),
        (nn.Linear(2, 1), (6, 2), (6, 1)),
        (nn.Linear(2, 1), (6, 2), (6,)),
        (nn.Linear(2, 3), (6, 2), (6, 3)),
        (nn.Linear(2, 3), (6, 4, 2), (6, 4, 3)),
        (nn.Linear(2, 1), (1, 2), (1,)),
    ],
)
def test_elementwise_log_density(
    name: str, net: nn.Module, x_shape: tuple[int, ...], y_shape: tuple[int, ...]
) -> None:
    likelihood, exact, draw = ELEMENTWISE[name]
    x, y = torch.randn(x_shape), draw(y_shape)
    output, log_prob = observed(BayesianModule(net, likelihood, grouping="layer"), x, y)
    expected = exact(output.numpy(), y.reshape(output.shape).numpy())
    assert log_prob.shape == x_shape[:1]
    expected = expected.reshape(x_shape[0], -1).sum(1)
    np.testing.assert_allclose(log_prob.numpy(), expected, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(6,), (6, 5)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
def test_categorical_log_density(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    model = BayesianModule(nn.Linear(2, 4), likelihoods.Categorical())
    x, y = torch.randn(*shape, 2), torch.randint(0, 4, shape).to(dtype)
    output, log_prob = observed(model, x, y)
    expected = _categorical(output.numpy(), y.long().numpy()).reshape(6, -1).sum(1)
    np.testing.assert_allclose(log_prob.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("likelihood", "output", "y", "message"),
    [
        (likelihoods.Normal(), (6, 3), torch.zeros(6), r"output \(6, 3\), got \(6,\)"),
        (likelihoods.Normal(), (6,), torch.zeros(6, 1), r"output \(6,\), got \(6, 1\)"),
        (likelihoods.Normal(), (6, 1), torch.zeros(5), r"output \(6, 1\), got \(5,\)"),
        (likelihoods.Normal(), (6, 1), torch.zeros(1, 6), r"got \(1, 6\)"),
        (likelihoods.StudentT(), (6, 2), torch.zeros(6, 1), r"got \(6, 1\)"),
        (likelihoods.Bernoulli(), (3,), torch.tensor([0.0, 1.0, 0.5]), "zeros and ones only"),
        (likelihoods.Bernoulli(), (2,), torch.tensor([0.0, torch.nan]), "zeros and ones only"),
        (likelihoods.Bernoulli(), (2,), torch.tensor([0, -1]), "zeros and ones only"),
        (likelihoods.Poisson(), (2,), torch.tensor([1.0, -1.0]), "non-negative whole numbers"),
        (likelihoods.Poisson(), (2,), torch.tensor([1.0, 1.5]), "non-negative whole numbers"),
        (likelihoods.Poisson(), (2,), torch.tensor([1.0, torch.nan]), "whole numbers"),
        (likelihoods.Poisson(), (2,), torch.tensor([1.0, torch.inf]), "whole numbers"),
        (likelihoods.Categorical(), (2, 3), torch.zeros(2), "integer class labels.*float32"),
        (likelihoods.Categorical(), (2, 3), torch.zeros(2, 3).long(), r"got .*\(2, 3\)"),
        (likelihoods.Categorical(), (2, 3), torch.zeros(2, 1).long(), r"shape \(2,\), got"),
        (likelihoods.Categorical(), (2, 3), torch.tensor([0, 3]), r"in \[0, 3\).*0 to 3"),
        (likelihoods.Categorical(), (2, 3), torch.tensor([0, -1]), "from -1 to 0"),
    ],
)
def test_observations_that_are_refused(
    likelihood: likelihoods.Likelihood, output: tuple[int, ...], y: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        likelihood.check(torch.zeros(output), y)
    net = nn.Sequential(nn.Linear(1, math.prod(output[1:])), nn.Unflatten(1, output[1:] or (1,)))
    model = BayesianModule(net if len(output) > 1 else Squeeze(1, 1), likelihood)
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(output[0], 1), y)


@pytest.mark.parametrize(
    ("likelihood", "draw"),
    [
        (likelihoods.Normal(), lambda: torch.randn(6, 2)),
        (likelihoods.StudentT(), lambda: torch.randn(6, 2)),
        (likelihoods.Bernoulli(), lambda: torch.randint(0, 2, (6, 2))),
        (likelihoods.Poisson(), lambda: torch.randint(0, 4, (6, 2))),
        (likelihoods.Categorical(), lambda: torch.randint(0, 2, (6,))),
    ],
)
@pytest.mark.parametrize("size", [1, 4])
def test_minibatches_give_the_full_elbo_in_expectation(
    likelihood: likelihoods.Likelihood, draw: Callable[[], Tensor], size: int
) -> None:
    """Over all minibatches of a size, with the same draw of the guide."""
    x, y = torch.randn(6, 3), draw()
    model = BayesianModule(nn.Linear(3, 2), likelihood, num_data=6)
    guide = AutoMeanField(model)
    guide.setup(x, y)
    loss = MeanFieldELBO()

    def elbo(rows: list[int]) -> float:
        torch.manual_seed(7)
        return loss.loss(model, guide, x[rows], y[rows])

    batches = [list(rows) for rows in itertools.combinations(range(6), size)]
    mean = sum(elbo(rows) for rows in batches) / len(batches)
    assert mean == pytest.approx(elbo(list(range(6))), rel=1e-5)


def test_a_batch_without_observations_is_not_scaled() -> None:
    model = BayesianModule(nn.Linear(3, 1), likelihoods.Normal(), num_data=600)
    trace = poutine.trace(model).get_trace(torch.randn(6, 3))
    assert trace.nodes["obs"]["scale"] == 1.0 and not trace.nodes["obs"]["is_observed"]


@pytest.mark.parametrize("make", [likelihoods.Normal, functools.partial(likelihoods.StudentT, 3.0)])
@pytest.mark.parametrize(
    ("noise", "kind", "value"),
    [
        (None, "sample", dist.LogNormal(-1.0, 1.0)),
        (dist.Gamma(2.0, 3.0), "sample", dist.Gamma(2.0, 3.0)),
        (0.3, "deterministic", 0.3),
        (torch.tensor(0.3), "deterministic", 0.3),
        (Learned(0.3), "param", 0.3),
    ],
)
def test_noise_options(make: Callable, noise: object, kind: str, value: object) -> None:
    model = BayesianModule(nn.Linear(2, 1), make(noise=noise))
    trace = poutine.trace(model).get_trace(torch.randn(5, 2), torch.randn(5, 1))
    node, used = trace.nodes["noise"], trace.nodes["obs"]["fn"].base_dist.scale
    assert bool((used == node["value"]).all())
    if kind == "sample":
        assert not node["is_observed"]
        at = torch.tensor([0.1, 1.0, 3.0])
        torch.testing.assert_close(node["fn"].log_prob(at), value.log_prob(at))
    elif kind == "param":
        assert node["type"] == "param"
        assert float(node["value"].detach()) == pytest.approx(value)
    else:
        assert float(node["value"]) == pytest.approx(value)
        assert "noise" not in dict(trace.iter_stochastic_nodes())


def test_learned_noise_goes_to_the_residuals_size() -> None:
    """With the weights pinned at zero its optimum is the root mean square of the targets."""
    x, y = torch.zeros(50, 1), 2.5 * torch.randn(50, 1)
    likelihood = likelihoods.Normal(noise=Learned(1.0))
    net = nn.Linear(1, 1)
    nn.init.zeros_(net.bias)
    model = BayesianModule(net, likelihood, loc=0.0, scale=1e-4)
    guide = AutoMeanField(model, init_scale=1e-4)
    svi = PhasedSVI(model, guide, functools.partial(torch.optim.Adam, lr=0.05))
    for _ in range(200):
        svi.step(x, y)
    root = float(y.square().mean().sqrt())
    assert float(pyro.param("noise").detach()) == pytest.approx(root, rel=0.02)
    prediction = predict(model, guide, x, num_draws=5)
    torch.testing.assert_close(prediction.sd, torch.full((50, 1), root), rtol=0.03, atol=0.0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: likelihoods.Normal(0.0), ValueError, "noise: .*positive"),
        (lambda: likelihoods.Normal(-1.0), ValueError, "noise: .*positive"),
        (lambda: likelihoods.Normal(Learned(-1.0)), ValueError, "noise: .*positive"),
        (lambda: likelihoods.Normal(dist.Normal(0.0, 1.0)), ValueError, "over positive numbers"),
        (lambda: likelihoods.Normal("learned"), TypeError, "noise: .*got str"),
        (lambda: likelihoods.StudentT(0.0), ValueError, "df: .*got 0.0"),
        (lambda: likelihoods.StudentT(float("nan")), ValueError, "df: .*got nan"),
        (lambda: likelihoods.StudentT(3.0, -1.0), ValueError, "noise: .*positive"),
    ],
)
def test_arguments_that_are_refused(make: Callable, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


class NoisePerTarget(likelihoods.Likelihood):
    """A likelihood of one's own: each of two targets has its own noise."""

    def sample_latents(self, like: Tensor) -> dict[str, Tensor]:
        prior = dist.LogNormal(like.new_zeros(2), like.new_tensor([0.1, 1.0]))
        return {"target_noise": pyro.sample("target_noise", prior.to_event(1))}

    def distribution(self, output: Tensor, latents: Mapping[str, Tensor]) -> dist.TorchDistribution:
        return dist.Normal(output, latents["target_noise"])


@pytest.mark.parametrize("rows", [2, 5])
def test_a_likelihood_of_ones_own(rows: int) -> None:
    model = BayesianModule(nn.Linear(3, 2), NoisePerTarget(), num_data=10)
    x, y = torch.randn(rows, 3), torch.randn(rows, 2)
    trace = poutine.trace(model).get_trace(x, y)
    output, noise = trace.nodes["_RETURN"]["value"], trace.nodes["target_noise"]["value"]
    expected = scipy.stats.norm.logpdf(y, output.detach(), noise).sum() * 10 / rows
    trace.compute_log_prob()
    assert float(trace.nodes["obs"]["log_prob_sum"]) == pytest.approx(expected, rel=1e-4)
    # Draws side by side, as under vectorised particles.
    with pyro.plate("particles", 4, dim=-2), poutine.trace() as together:
        outputs = model(x, y)
    together.trace.compute_log_prob()
    nodes = together.trace.nodes
    noises = nodes["target_noise"]["value"].reshape(4, 1, 2)
    expected = scipy.stats.norm.logpdf(y, outputs.detach(), noises).sum() * 10 / rows
    assert float(nodes["obs"]["log_prob_sum"]) == pytest.approx(expected, rel=1e-4)
    # And in predictions.
    draws = {"weights": torch.randn(4, 8), "target_noise": torch.rand(4, 2) + 0.5}
    prediction = predict(model, draws, x)
    aleatoric = draws["target_noise"].square().mean(0).expand(rows, 2)
    torch.testing.assert_close(prediction.aleatoric, aleatoric)


class ZeroInflatedPoisson(likelihoods.Likelihood):
    """Two outputs for each observation."""

    def distribution(self, output: Tensor, latents: Mapping[str, Tensor]) -> dist.TorchDistribution:
        log_rate, gate = output.unbind(-1)
        return dist.ZeroInflatedPoisson(log_rate.exp(), gate_logits=gate)

    def check(self, output: Tensor, y: Tensor) -> Tensor:
        return y


def test_a_likelihood_with_two_outputs_for_one_observation() -> None:
    model = BayesianModule(nn.Linear(3, 2), ZeroInflatedPoisson())
    x, y = torch.randn(5, 3), torch.tensor([0.0, 0.0, 1.0, 3.0, 0.0])
    output, log_prob = observed(model, x, y)
    rate, gate = output[:, 0].exp(), output[:, 1].sigmoid()
    pmf = (1 - gate) * torch.exp(y * rate.log() - rate - torch.lgamma(y + 1))
    pmf = pmf + gate * (y == 0)
    torch.testing.assert_close(log_prob, pmf.log(), rtol=1e-4, atol=1e-5)
    guide = AutoMeanField(model)
    svi = PhasedSVI(model, guide, functools.partial(torch.optim.Adam, lr=0.01))
    svi.step(x, y)
    assert predict(model, guide, x, num_draws=3).mean.shape == (5,)
