# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Hyperpriors that start at a floor, against scipy."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch
from pyro.distributions import constraints

from pyro_groupprior import AutoMeanField, PhasedSVI
from pyro_groupprior.hyperpriors import Floored, moved
from tests.svi.runs import Adam, data, regression

BASES = {
    "half_cauchy": (dist.HalfCauchy(1.5), scipy.stats.halfcauchy(0.2, 1.5)),
    "gamma": (dist.Gamma(2.0, 3.0), scipy.stats.gamma(2.0, 0.2, 1 / 3)),
    "log_normal": (dist.LogNormal(0.5, 0.8), scipy.stats.lognorm(0.8, 0.2, np.exp(0.5))),
}


@pytest.mark.parametrize("base", BASES)
def test_density_and_draws(base):
    base, reference = BASES[base]
    floored = Floored(base, 0.2)
    x = torch.linspace(0.3, 9.0, 40, dtype=torch.float64)
    np.testing.assert_allclose(floored.log_prob(x), reference.logpdf(x), rtol=1e-6)
    grid = torch.linspace(0.2, 60.0, 400_001, dtype=torch.float64)[1:]
    total = scipy.integrate.trapezoid(floored.log_prob(grid).exp(), grid)
    assert total == pytest.approx(reference.cdf(60.0), abs=1e-3)
    draws = floored.sample((4000,))
    assert draws.min() > 0.2 and floored.support.check(draws).all()
    assert not floored.support.check(torch.tensor(0.19))
    assert scipy.stats.kstest(draws.double().numpy(), reference.cdf).pvalue > 1e-3


def test_expand_and_move():
    floored = Floored(dist.HalfCauchy(1.0), 0.2).expand([3])
    assert floored.batch_shape == (3,) and isinstance(floored.support, constraints.greater_than)
    assert floored.sample((2,)).shape == (2, 3)
    double = moved("scale", floored, torch.empty((), dtype=torch.float64))
    assert double.sample().dtype == torch.float64 and double.floor == 0.2


def test_a_groups_scale_stays_above_the_floor():
    """Weights that the data say nothing about would otherwise drag it down."""
    x, y = data()
    scales = []
    for scale in (dist.HalfCauchy(1.0), Floored(dist.HalfCauchy(1.0), 0.3)):
        pyro.set_rng_seed(0)
        model = regression("all", scale=scale)
        svi = PhasedSVI(model, AutoMeanField, Adam)
        for _ in range(150):
            svi.step(x, 0 * y)
        scales.append(float(svi.guide.draws(200)["weights_scale"].min()))
    assert scales[0] < 0.3 < scales[1]


@pytest.mark.parametrize(
    ("base", "floor", "match"),
    [
        (dist.Normal(0.0, 1.0), 0.1, "base: expected a distribution over positive numbers"),
        (dist.HalfCauchy(1.0), 0.0, "floor: expected a positive number, got 0.0"),
        (dist.HalfCauchy(1.0), float("inf"), "floor: expected a positive number, got inf"),
    ],
)
def test_refusals(base, floor, match):
    with pytest.raises(ValueError, match=match):
        Floored(base, floor)
