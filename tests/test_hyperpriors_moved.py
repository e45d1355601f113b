# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Hyperpriors follow the device and dtype of the weights."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms
from torch import nn

from pyro_groupprior import (
    Assignment,
    AutoMeanField,
    BayesianModule,
    Learned,
    MeanFieldELBO,
    group_prior,
    likelihoods,
)
from pyro_groupprior.hyperpriors import moved, sample_hyper, tensors_of

POSITIVE = {
    "half_cauchy": lambda one: dist.HalfCauchy(one),
    "half_normal": lambda one: dist.HalfNormal(one),
    "gamma": lambda one: dist.Gamma(2 * one, one),
    "gamma_per_group": lambda one: dist.Gamma(one * torch.arange(1.0, 4), one),
    "inverse_gamma": lambda one: dist.InverseGamma(3 * one, one),
    "log_normal": lambda one: dist.LogNormal(-one, one),
    "uniform": lambda one: dist.Uniform(one / 2, 3 * one),
    "weibull": lambda one: dist.Weibull(one, 2 * one),
    "pareto": lambda one: dist.Pareto(one / 4, 2 * one),
    "expanded": lambda one: dist.HalfNormal(one).expand([3]),
    "masked": lambda one: dist.Exponential(one).mask(torch.tensor(True)),
    "mixture": lambda one: dist.MixtureSameFamily(
        dist.Categorical(probs=one * torch.ones(2)), dist.Gamma(one * torch.ones(2), one)
    ),
    "nested": lambda one: dist.TransformedDistribution(
        dist.Normal(one, one),
        [transforms.AffineTransform(one, 2 * one), transforms.ExpTransform()],
    ),
    "inverse": lambda one: dist.TransformedDistribution(
        dist.LogNormal(one, one), [transforms.AffineTransform(0 * one, 2 * one).inv]
    ),
}
DTYPES = [torch.float, torch.double]


@pytest.mark.parametrize("name", POSITIVE)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_hyperprior_takes_the_dtype_of_the_weights_and_keeps_its_density(name, dtype):
    (other,) = set(DTYPES) - {dtype}
    like = torch.empty((), dtype=dtype)
    given, expected = (POSITIVE[name](torch.tensor(1.0, dtype=d)) for d in (other, dtype))
    if name == "nested":
        assert given.transforms[0].inv is given.transforms[0].inv.inv.inv  # kept by the transform
    found = moved("scale", given, like)
    assert type(found) is type(given) and found.batch_shape == given.batch_shape
    value = torch.tensor([0.6, 1.1, 2.7], dtype=dtype)
    torch.testing.assert_close(found.log_prob(value), expected.log_prob(value))
    draw = found.rsample() if found.has_rsample else found.sample()
    assert draw.dtype == dtype
    assert {t.dtype for t in tensors_of(given) if t.is_floating_point()} <= {other, torch.float}
    assert moved("scale", found, like) is found


@pytest.mark.parametrize("name", POSITIVE)
def test_a_hyperprior_follows_the_device_of_the_weights(name):
    given = POSITIVE[name](torch.tensor(1.0))
    found = moved("scale", given, torch.empty((), device="meta"))
    assert {t.device.type for t in tensors_of(found)} == {"meta"}
    assert {t.device.type for t in tensors_of(given)} == {"cpu"}


@pytest.mark.parametrize("hyper", [dist.HalfCauchy(1.0), 2.0, torch.ones(3), Learned(1.0)])
def test_statements_are_made_on_the_device_of_the_weights(hyper):
    like = torch.empty((), device="meta", dtype=torch.double)
    with pyro.plate("w_groups", 3), pyro.validation_enabled(False):
        value = sample_hyper("w_scale", hyper, None, 3, like)
    assert (value.device.type, value.dtype, value.shape) == ("meta", torch.double, (3,))


class Learnt(dist.TransformModule):
    """A transform with a parameter of its own."""

    domain, codomain, bijective = dist.constraints.real, dist.constraints.positive, True

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))


def test_what_cannot_be_moved_is_refused_by_name():
    given = dist.TransformedDistribution(dist.Normal(0.0, 1.0), [Learnt()])
    with pytest.raises(ValueError, match=r"scale: the weights are on meta, .* is on cpu"):
        moved("scale", given, torch.empty((), device="meta"))
    assert moved("scale", given, torch.empty(())) is given


def test_gradients_reach_the_parameters_of_a_moved_hyperprior():
    rate = torch.tensor(2.0, requires_grad=True)
    fn = moved("scale", dist.Exponential(rate), torch.empty((), dtype=torch.double))
    fn.log_prob(torch.tensor(3.0, dtype=torch.double)).backward()
    assert float(rate.grad) == pytest.approx(1 / 2 - 3)


SITES = ("weights", "weights_loc", "weights_scale", "noise", "obs")
PRIORS = [
    (dist.Normal(0.0, 1.0), dist.HalfCauchy(1.0)),
    (torch.zeros(()), dist.Gamma(2.0, torch.tensor(1.0, dtype=torch.double))),
    (Learned(0.0), torch.tensor(1.0, dtype=torch.double)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("loc", "scale"), PRIORS)
@pytest.mark.parametrize("noise", [dist.Gamma(2.0, 1.0), Learned(torch.ones(()).double())])
def test_all_sites_of_a_net_have_its_dtype(dtype, loc, scale, noise):
    """Also where it was converted after the model was made."""
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    model = BayesianModule(net, likelihoods.Normal(noise), loc=loc, scale=scale)
    model.to(dtype)
    x, y = torch.randn(4, 2, dtype=dtype), torch.randn(4, 1, dtype=dtype)
    trace = pyro.poutine.trace(model).get_trace(x, y)
    values = {name: trace.nodes[name]["value"].dtype for name in SITES}
    assert set(values.values()) == {dtype}
    guide = AutoMeanField(model)
    MeanFieldELBO().differentiable_loss(model, guide, x, y).backward()
    assert {p.dtype for p in guide.parameters()} == {dtype}


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_other_tensors_the_hyperpriors_give_the_dtype(dtype):
    one = torch.ones((), dtype=dtype)
    for options in ({"scale": dist.HalfCauchy(one)}, {"loc": one}, {"scale": Learned(one)}):
        weights = group_prior("w", Assignment(torch.tensor([0, 1])), **options)
        assert weights.dtype == dtype


@pytest.mark.parametrize("scale", [dist.HalfCauchy(1.0), torch.ones(2), Learned(1.0)])
def test_without_other_tensors_the_assignment_gives_the_device(scale):
    """A buffer is moved with the model that holds it; the hyperpriors stay behind."""
    grouping = Assignment(torch.tensor([0, 1, 1])).to("meta")
    with pyro.validation_enabled(False):
        weights = group_prior("w", grouping, loc=torch.zeros(()), scale=scale)
    assert (weights.device.type, weights.shape) == ("meta", (3,))
