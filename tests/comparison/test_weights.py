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
    compare_weights,
    overlap,
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


@pytest.mark.parametrize("wider", [1e-4, 1e-3, 1e-2])
def test_overlap_of_nearly_the_same_in_single_precision(wider: float) -> None:
    one, two = Normal(torch.zeros(1), 1.0), Normal(torch.zeros(1), torch.tensor([1 + wider]))
    # To first order in the difference of scales: the area where one density is above the other.
    expected = 1 - 2 * wider * stats.norm.pdf(1)
    assert overlap(one, two).item() == pytest.approx(expected, abs=wider**2 + 1e-7)
    assert overlap(one, two).dtype == torch.float32


def test_weights_that_are_known() -> None:
    model = _model()
    one = WeightMoments(torch.zeros(17), torch.ones(17))
    known = WeightMoments(torch.zeros(17), (torch.arange(17) > 0).float())
    table = compare_weights(model, {"one": one, "pruned": known}, "one", by=torch.arange(17))
    assert table.kl[17] == float("inf")
    assert table.overlap[17:19].tolist() == [0, 1]
    assert table.snr[17] == 0
    both = compare_weights(model, {"a": known, "b": known}, "a", by="all")
    assert both.kl.tolist() == [0, 0]
    assert both.sd_ratio.tolist() == [1, 1]


def test_bad_input() -> None:
    model, moments = _model(), WeightMoments(torch.zeros(17), torch.ones(17))
    with pytest.raises(ValueError, match=r"reference: expected one of \['a'\], got 'b'"):
        compare_weights(model, {"a": moments}, "b")
    short = WeightMoments(torch.zeros(3), torch.ones(3))
    with pytest.raises(ValueError, match=r"posteriors\['b'\]: posterior: expected moments \[17\]"):
        compare_weights(model, {"a": moments, "b": short}, "a")
    soft = pgp.Assignment(
        torch.zeros(17, 2).long() + torch.tensor([0, 1]), responsibilities=torch.full((17, 2), 0.5)
    )
    with pytest.raises(ValueError, match="by: expected a hard grouping"):
        compare_weights(model, {"a": moments}, "a", by=soft)


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
    assert units.tensor.tolist() == (["0.weight"] * 3 + ["2.weight"] * 2) * 2
    assert units.place.tolist() == [0, 1, 2, 0, 1] * 2
