# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Recorded log-densities against the ones they were recorded from."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_groupprior import (
    Assignment,
    AssignmentBuffer,
    BayesianModule,
    group_prior,
    likelihoods,
)
from pyro_groupprior.mcmc.gradient import compiled, recorded, value_and_gradient
from pyro_groupprior.mcmc.log_density import LogDensity


def test_value_and_gradient_of_a_normal():
    torch.manual_seed(0)
    precision = torch.diag(torch.tensor([1.0, 4.0, 9.0]))
    evaluate = value_and_gradient(lambda z: -0.5 * ((z @ precision) * z).sum(1))
    position = torch.randn(5, 3)
    value, gradient = evaluate(position)
    torch.testing.assert_close(value, -0.5 * (position**2 @ torch.tensor([1.0, 4.0, 9.0])))
    torch.testing.assert_close(gradient, -position * torch.tensor([1.0, 4.0, 9.0]))
    assert not value.requires_grad and not position.requires_grad


@pytest.mark.parametrize("soft", [False, True])
def test_a_net_recorded_is_the_net(soft):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    groups = Assignment.from_dense(torch.rand(26, 3).softmax(1)) if soft else "layer"
    model = BayesianModule(net, likelihoods.StudentT(), num_data=7, grouping=groups)
    x, y = torch.randn(7, 3), torch.randn(7, 1)
    with pyro.validation_enabled(False):
        density = LogDensity(model, (x, y))
        evaluate = value_and_gradient(density)
        graph = recorded(evaluate, torch.randn(4, density.size))
        assert graph is not evaluate
        for scale in (0.1, 1.0, 3.0):
            position = scale * torch.randn(4, density.size)
            torch.testing.assert_close(graph(position), evaluate(position))


@pytest.mark.parametrize(
    "prior",
    [
        {"scale": 0.5},
        {"loc": torch.tensor([-0.5, 1.0]), "scale": torch.tensor([0.3, 0.8])},
        {"base_scale": torch.tensor([0.5, 1.0, 2.0])},
        {"scale": dist.HalfCauchy(torch.tensor([0.5, 1.0]))},
        {"init": torch.zeros(3), "family": "laplace"},
    ],
)
def test_a_statement_with_tensors_can_be_recorded(prior):
    """Their values are looked at once, and not in every run of the model."""
    groups = AssignmentBuffer(Assignment(torch.tensor([0, 1, 0])))

    def model(x, y):
        weights = group_prior("w", groups, **prior)
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal((x * weights).sum(-1), 0.7), obs=y)

    with pyro.validation_enabled(False):
        density = LogDensity(model, (torch.randn(7, 3), torch.randn(7)))
        evaluate = value_and_gradient(density)
        graph = recorded(evaluate, torch.randn(4, density.size))
        assert graph is not evaluate
        position = torch.randn(4, density.size)
        for found, expected in zip(graph(position), evaluate(position), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["Categorical", "Bernoulli", "Poisson", "Normal"])
def test_every_likelihood_can_be_recorded(kind):
    model = BayesianModule(nn.Linear(3, 2), getattr(likelihoods, kind)(), num_data=7)
    y = torch.randint(2, (7,) if kind == "Categorical" else (7, 2))
    density = LogDensity(model, (torch.randn(7, 3), y if kind != "Normal" else y.float()))
    with pyro.validation_enabled(False):
        evaluate = value_and_gradient(density)
        position = torch.randn(4, density.size)
        graph = recorded(evaluate, position)
        assert graph is not evaluate
        torch.testing.assert_close(graph(2 * position), evaluate(2 * position))


def test_it_survives_a_disabled_gradient():
    evaluate = value_and_gradient(lambda z: z.square().sum(1))
    with torch.no_grad():
        graph = recorded(evaluate, torch.ones(2, 3))
        assert torch.equal(graph(torch.ones(2, 3))[1], torch.full((2, 3), 2.0))


def test_what_looks_at_values_is_left_as_it_is():
    def density(z):
        return z.sum(1) if float(z.sum()) > 0 else -z.sum(1)

    evaluate = value_and_gradient(density)
    assert recorded(evaluate, torch.ones(2, 3)) is evaluate


def test_what_draws_numbers_is_left_as_it_is():
    def density(z):
        with pyro.poutine.block():
            return z.sum(1) * pyro.sample("u", dist.Uniform(0.0, 1.0))

    evaluate = value_and_gradient(density)
    assert recorded(evaluate, torch.ones(2, 3)) is evaluate


def test_what_depends_on_the_values_of_data_is_left_as_it_is():
    evaluate = value_and_gradient(lambda z, y: z.sum(1) * len(y[y > 0]))
    one, other, position = torch.tensor([1.0, 1.0]), torch.tensor([1.0, -1.0]), torch.ones(2, 3)
    assert recorded(evaluate, position, (one,), (other,)) is evaluate
    evaluate = value_and_gradient(lambda z, y: z.sum(1) * y.sum())
    graph = recorded(evaluate, position, (one,), (other,))
    assert graph is not evaluate and torch.equal(
        graph(position, 3 * one)[0], torch.full((2,), 18.0)
    )


def test_compiled_is_the_same():
    evaluate = value_and_gradient(lambda z: -(z.tanh() @ torch.ones(3)).square())
    graph = recorded(evaluate, torch.ones(2, 3))
    fast = compiled(graph, torch.ones(2, 3))
    assert fast is not graph
    for position in torch.randn(3, 2, 3):
        torch.testing.assert_close(fast(position), evaluate(position))


def test_options_that_are_unknown_are_left_out(monkeypatch):
    monkeypatch.setattr("pyro_groupprior.mcmc.gradient.OPTIONS", {"no_such_option": 1})
    graph = recorded(value_and_gradient(lambda z: z.square().sum(1)), torch.ones(2, 3))
    fast = compiled(graph, torch.ones(2, 3))
    assert fast is not graph
    torch.testing.assert_close(fast(torch.ones(2, 3)), graph(torch.ones(2, 3)))


def test_without_a_compiler_nothing_is_compiled(monkeypatch):
    def fails(graph, **options):
        def call(position):
            raise RuntimeError("no compiler")

        return call

    monkeypatch.setattr(torch, "compile", fails)
    graph = recorded(value_and_gradient(lambda z: z.square().sum(1)), torch.ones(2, 3))
    assert compiled(graph, torch.ones(2, 3)) is graph


def test_rounding_is_no_difference():
    """Of a gradient that is a sum of numbers that cancel, nothing but rounding is left."""
    torch.manual_seed(0)
    rows = torch.randn(5000, 40)
    rows = torch.cat([rows, -rows.double().sum(0, keepdim=True).float()])
    rows[:, 0] += 1.0
    evaluate = value_and_gradient(lambda z: (z.unsqueeze(1) * rows).sum((1, 2)))
    position = 0.1 * torch.randn(3, 40)
    graph = recorded(evaluate, position)
    fast = compiled(graph, position)
    assert fast is not graph
    torch.testing.assert_close(fast(position), graph(position), rtol=1e-3, atol=0.1)
