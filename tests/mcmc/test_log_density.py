# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The log-density of several chains at once is Pyro's of each, in the unconstrained space."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior.mcmc.log_density import LogDensity


def small_net(**options):
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    return pgp.BayesianModule(net, pgp.likelihoods.Normal(), num_data=20, **options)


def data():
    return torch.randn(5, 2), torch.randn(5, 1)


def by_hand(model, args, values):
    """Pyro's log-joint of one chain's values, without constants taken out."""
    conditioned = pyro.poutine.condition(model, values)
    return pyro.poutine.trace(conditioned).get_trace(*args).log_prob_sum()


@pytest.mark.parametrize("options", [{}, {"grouping": "column"}, {"family": "student_t"}])
def test_agrees_with_pyro_up_to_the_jacobian(options):
    model, args = small_net(**options), data()
    density = LogDensity(model, args)
    position = 0.5 * torch.randn(4, density.size)
    values = density.constrain(position)
    assert set(values) == {"weights_loc", "weights_scale", "weights", "noise"}
    index = model.assignment.index.long()
    expected = []
    for chain in range(4):
        one = {name: value[chain] for name, value in values.items()}
        # log scales and log noise are free; weights are base * (loc + scale * standard)
        jacobian = one["weights_scale"].log().sum() + one["noise"].log()
        jacobian = jacobian + (model.base_scale * one["weights_scale"][index]).log().sum()
        expected.append(by_hand(model, args, one) + jacobian)
    torch.testing.assert_close(density(position), torch.stack(expected), rtol=1e-4, atol=1e-3)


def test_a_decentred_model_is_taken_as_it_is():
    model, args = small_net(centered=False), data()
    density = LogDensity(model, args)
    assert set(density.sites) == {"weights_loc", "weights_scale", "weights_decentered", "noise"}
    values = density.constrain(torch.zeros(2, density.size))
    assert values["weights_decentered"].shape == (2, model.layout.num_weights)


def test_unconstrain_inverts_constrain():
    model, args = small_net(), data()
    density = LogDensity(model, args)
    position = torch.randn(3, density.size)
    found = density.unconstrain(density.constrain(position))
    torch.testing.assert_close(found, position, rtol=1e-3, atol=1e-4)


def test_plates_and_simplices_of_a_model_written_by_hand():
    counts = torch.tensor([3.0, 1.0, 2.0])

    def model():
        share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 4, dim=-1):
            pyro.sample("rate", dist.Gamma(2.0, 1.0))
        pyro.sample("counts", dist.Multinomial(6, share), obs=counts)

    density = LogDensity(model, ())
    assert density.size == 2 + 8
    position = torch.randn(5, density.size)
    values = density.constrain(position)
    assert values["share"].shape == (5, 3) and values["rate"].shape == (5, 2, 4)
    to_simplex = torch.distributions.biject_to(dist.constraints.simplex)
    order = list(density.sites)
    assert order == ["share", "rate"]
    jacobian = to_simplex.log_abs_det_jacobian(position[:, :2], values["share"])
    expected = (
        dist.Dirichlet(torch.ones(3)).log_prob(values["share"])
        + dist.Gamma(2.0, 1.0).log_prob(values["rate"]).sum((1, 2))
        + dist.Multinomial(6, values["share"], validate_args=False).log_prob(counts)
        + jacobian
        + position[:, 2:].sum(1)
    )
    torch.testing.assert_close(density(position), expected, rtol=1e-4, atol=1e-4)


def test_refuses_models_that_it_cannot_sample():
    with pytest.raises(ValueError, match="found none"):
        LogDensity(lambda: pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.zeros(())), ())
    with pytest.raises(ValueError, match="continuous latent sites, got 'k'"):
        LogDensity(lambda: pyro.sample("k", dist.Bernoulli(0.5)), ())
