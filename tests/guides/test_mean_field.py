# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The mean-field guide on arbitrary models, against closed forms, scipy and Pyro's machinery."""

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from scipy import stats
from scipy.special import expit, logit
from torch import nn

from pyro_groupprior import (
    AutoLowRank,
    AutoMeanField,
    BayesianModule,
    MeanFieldELBO,
    likelihoods,
)
from tests.guides.models import SHAPES, everything, randomised


@pytest.fixture
def guide():
    return randomised(everything)


def test_every_site_in_its_shape_and_support(guide):
    trace = poutine.trace(guide).get_trace()
    replayed = poutine.trace(poutine.replay(everything, trace=trace)).get_trace()
    for name, shape in SHAPES.items():
        node = replayed.nodes[name]
        assert node["value"].shape == shape
        assert bool(node["fn"].support.check(node["value"]).all())
        assert trace.nodes[name]["fn"].batch_shape == node["fn"].batch_shape
        frames = [(f.name, f.dim, f.size) for f in node["cond_indep_stack"]]
        assert [(f.name, f.dim, f.size) for f in trace.nodes[name]["cond_indep_stack"]] == frames
    replayed.compute_log_prob()
    assert {name: tuple(v.shape) for name, v in guide.median().items()} == SHAPES
    assert {name: tuple(v.shape[1:]) for name, v in guide.draws(3).items()} == SHAPES


def scipy_factor(guide, name):
    """The site's factor as scipy knows it: in the unconstrained space, and the way back."""
    loc, scale = (v.detach().double().numpy() for v in guide.loc_scale(guide.site(name)))
    back = {
        "positive": np.exp, "unit": expit, "interval": lambda u: 4 * expit(u) - 1
    }.get(name.removeprefix("inner_"), lambda u: u)  # fmt: skip
    return stats.norm(loc, scale), back


ELEMENTWISE = [name for name in SHAPES if "simplex" not in name]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_median_quantiles_and_draws(guide, name):
    normal, back = scipy_factor(guide, name)
    levels = [0.01, 0.2, 0.5, 0.975]
    expected = np.stack([back(normal.ppf(level)) for level in levels])
    np.testing.assert_allclose(guide.quantiles(levels)[name], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(guide.median()[name], expected[2], rtol=1e-4, atol=1e-5)
    draws = guide.draws(2000)[name].double().numpy()
    shifted = (draws + 1) / 4 if name == "interval" else draws
    inverse = {"positive": np.log, "inner_positive": np.log, "unit": logit, "interval": logit}
    uniform = normal.cdf(inverse.get(name, lambda u: u)(shifted)).reshape(2000, -1)
    for column in uniform.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
    assert draws.shape[1:] == SHAPES[name]


@pytest.mark.parametrize("name", ["real", "vector", "inner_real", "positive", "inner_positive"])
def test_moments(guide, name):
    normal, back = scipy_factor(guide, name)
    mean, sd = normal.mean(), normal.std()
    if back is np.exp:
        mean, sd = stats.lognorm(sd, scale=np.exp(mean)).stats("mv")
        sd = np.sqrt(sd)
    found = guide.moments(name)
    np.testing.assert_allclose(found[0], mean, rtol=1e-5)
    np.testing.assert_allclose(found[1], sd, rtol=1e-4)


@pytest.mark.parametrize("name", ["real", "positive", "unit", "interval", "inner_positive"])
def test_density(guide, name):
    """By change of variables, and integrating to one."""
    normal, _ = scipy_factor(guide, name)
    node = poutine.trace(guide).get_trace().nodes[name]
    value = node["value"].detach().double().numpy()
    if "positive" in name:
        expected = normal.logpdf(np.log(value)) - np.log(value)
    elif name == "real":
        expected = normal.logpdf(value)
    else:
        low, width = (0.0, 1.0) if name == "unit" else (-1.0, 4.0)
        unit = (value - low) / width
        expected = normal.logpdf(logit(unit)) - np.log(unit * (1 - unit) * width)
    found = node["fn"].log_prob(node["value"])
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-4, atol=1e-4)


def test_simplex_median_and_density(guide):
    """Stick breaking: its inverse, coordinate by coordinate."""
    loc, scale = (v.detach().double() for v in guide.loc_scale(guide.site("simplex")))
    node = poutine.trace(guide).get_trace().nodes["simplex"]
    for value in (node["value"].detach().double(), guide.median()["simplex"].double()):
        rest = 1 - torch.cat([torch.zeros(3, 1, 1), value.cumsum(-1)[..., :-1]], -1)
        share = (value / rest)[..., :-1]
        u = share.logit() + torch.arange(3, 0, -1).log()
        if value.equal(guide.median()["simplex"].double()):
            torch.testing.assert_close(u, loc, rtol=1e-4, atol=1e-4)
            continue
        jacobian = (share * (1 - share) * rest[..., :-1]).log().sum(-1)
        expected = torch.distributions.Normal(loc, scale).log_prob(u).sum(-1) - jacobian
        found = node["fn"].log_prob(node["value"]).detach().double()
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def conjugate(y):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


@pytest.mark.parametrize(
    ("elbo", "kind"),
    [
        (Trace_ELBO, AutoMeanField),
        (TraceMeanField_ELBO, AutoMeanField),
        (MeanFieldELBO, AutoMeanField),
        (TraceMeanField_ELBO, AutoLowRank),
    ],
)
def test_pyros_svi_finds_the_conjugate_posterior(elbo, kind):
    y = torch.randn(20) + 2
    guide = kind(conjugate)
    svi, moments = SVI(conjugate, guide, pyro.optim.Adam({"lr": 0.05}), elbo()), []
    for _ in range(300):
        svi.step(y)
        moments.append(torch.stack(guide.moments("z")))
    mean, sd = torch.stack(moments[150:]).mean(0).tolist()
    exact = stats.norm(y.sum().item() / 21, 21**-0.5)
    assert abs(mean - exact.mean()) < 0.3 * exact.std()
    assert sd == pytest.approx(exact.std(), rel=0.25)
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("kind", [AutoMeanField, AutoLowRank])
def test_predictive(parallel, kind):
    guide = randomised(everything, kind=kind)
    draws = Predictive(everything, guide=guide, num_samples=100, parallel=parallel)()
    own = Predictive(guide, num_samples=100, parallel=parallel)()
    for name, shape in SHAPES.items():
        for value in (draws[name].squeeze(), own[name].squeeze()):
            assert value.numel() == 100 * np.prod(shape)
            flat = value.reshape(100, -1)
            reference = guide.draws(100)[name].reshape(100, -1)
            for one, other in zip(flat.T, reference.T, strict=True):
                assert stats.ks_2samp(one, other).pvalue > 1e-5


@pytest.mark.parametrize("kind", [AutoMeanField, AutoLowRank])
def test_elbo_module_finds_all_parameters(kind):
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    model = BayesianModule(net, likelihoods.Normal())
    guide, batch = kind(model), (torch.randn(5, 2), torch.randn(5, 1))
    guide.setup(*batch)
    module = TraceMeanField_ELBO()(model, guide)
    trainable = {id(p) for p in module.parameters() if p.requires_grad}
    assert {id(p) for p in guide.parameters()} <= trainable
    assert {id(p) for p in model.parameters() if p.requires_grad} <= trainable
    pyro.set_rng_seed(1)
    loss = module(*batch)
    pyro.set_rng_seed(1)
    assert loss.item() == pytest.approx(MeanFieldELBO().loss(model, guide, *batch), rel=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in guide.parameters())
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    first = guide.moments("weights")[0]
    optimizer.step()
    assert not torch.equal(guide.moments("weights")[0], first)
    assert len(pyro.get_param_store()) == 0
