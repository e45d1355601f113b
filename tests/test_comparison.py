# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Comparisons, against scipy's integrals and numpy by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from torch import nn
from torch.distributions import Normal

import pyro_groupprior as pgp
from pyro_groupprior.comparison import (
    WeightMoments,
    agreement,
    compare_weights,
    overlap,
    total_variation,
    weight_moments,
)

LOCS, SCALES = st.floats(-3, 3), st.floats(0.1, 5)


@given(LOCS, SCALES, LOCS, SCALES)
def test_overlap_is_the_area_below_both(loc: float, scale: float, other: float, width: float):
    x = np.linspace(-40, 40, 400_001)
    lower = np.minimum(stats.norm(loc, scale).pdf(x), stats.norm(other, width).pdf(x))
    area = integrate.trapezoid(lower, x)
    pair = (Normal(torch.tensor(m).double(), s) for m, s in ((loc, scale), (other, width)))
    assert float(overlap(*pair)) == pytest.approx(area, abs=1e-5)


def test_overlap_of_the_same() -> None:
    one = Normal(torch.tensor([0.0, 5.0]), torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(overlap(one, one), torch.ones(2))


def _model() -> pgp.BayesianModule:
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    return pgp.BayesianModule(net, pgp.likelihoods.Categorical(), base_scale=0.5)


def test_tables_are_what_numpy_says() -> None:
    model = _model()
    rng = np.random.default_rng(0)
    mean, sd = rng.normal(size=(2, 17)), rng.uniform(0.5, 2, size=(2, 17))
    posteriors = {
        name: WeightMoments(torch.tensor(mean[i]), torch.tensor(sd[i]))
        for i, name in enumerate(("hmc", "vi"))
    }
    table = compare_weights(model, posteriors, "hmc")
    assert table.posterior.tolist() == ["hmc", "hmc", "vi", "vi"]
    assert table.tensor.tolist() == ["0.weight", "2.weight"] * 2
    assert table.weights.tolist() == [9, 8, 9, 8]
    (m0, m1), (s0, s1) = mean, sd
    kl = np.log(s0 / s1) + (s1**2 + (m1 - m0) ** 2) / (2 * s0**2) - 0.5
    w2 = ((m1 - m0) ** 2 + (s1 - s0) ** 2) / 0.5**2
    for row, part in ((2, slice(0, 9)), (3, slice(9, 17))):
        assert table.kl[row] == pytest.approx(kl[part].sum())
        assert table.w2[row] == pytest.approx(np.sqrt(w2[part].mean()))
        assert table.snr[row] == pytest.approx(np.median(np.abs(m1 / s1)[part]))
        assert table.sd_ratio[row] == pytest.approx(np.exp(np.log(s1 / s0)[part].mean()))
    assert table.kl[0] == pytest.approx(0, abs=1e-9)
    assert table.overlap[0] == pytest.approx(1)
    single = compare_weights(model, posteriors, "hmc", by=torch.arange(17))
    np.testing.assert_allclose(single.kl[17:], kl)
    assert single.tensor[17 + 6] == "0.bias"
    whole = compare_weights(model, posteriors, "vi", by="all")
    assert len(whole) == 2
    assert whole.kl[1] == 0
    units = compare_weights(model, posteriors, "vi", by="row")
    assert units.weights.tolist() == [3, 3, 3, 4, 4] * 2


def test_moments_of_guides_and_draws() -> None:
    model = _model()
    guide = pgp.AutoMeanField(model)
    guide.setup(torch.zeros(3, 2), torch.zeros(3).long())
    found = weight_moments(model, guide)
    draws = guide.draws(20_000)
    again = weight_moments(model, draws)
    torch.testing.assert_close(again.mean, found.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(again.sd, found.sd, rtol=0.05, atol=0)
    assert weight_moments(model, found) is found
    with pytest.raises(ValueError, match=r"two or more draws \[S, 17\] of 'weights', got \(1, 17"):
        weight_moments(model, {"weights": draws["weights"][:1]})
    with pytest.raises(ValueError, match="got None"):
        weight_moments(model, {})
    with pytest.raises(ValueError, match=r"reference: expected one of \['a'\], got 'b'"):
        compare_weights(model, {"a": found}, "b")


def test_predictions() -> None:
    model, x = _model(), torch.randn(50, 2)
    draws = [{"weights": torch.randn(5, 17)} for _ in range(2)]
    one, two = (pgp.predict(model, each, x) for each in draws)
    first, second = one.mean.numpy(), two.mean.numpy()
    same = (first.argmax(1) == second.argmax(1)).mean()
    assert agreement(one, two) == pytest.approx(same)
    assert total_variation(one, two) == pytest.approx(np.abs(first - second).sum(1).mean() / 2)
    assert agreement(one, one) == 1
    assert total_variation(one, one) == 0
    with pytest.raises(ValueError, match="expected two for the same rows"):
        agreement(one, pgp.predict(model, draws[0], x[:3]))
    real = pgp.BayesianModule(nn.Linear(2, 1), pgp.likelihoods.Normal())
    number = pgp.predict(real, {"weights": torch.randn(4, 3), "noise": torch.ones(4)}, x)
    with pytest.raises(TypeError, match="expected two of class labels"):
        total_variation(one, number)
