# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The statistic, against numpy's singular values, sums by hand and made-up posteriors."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro.infer import autoguide

from pyro_groupprior import Assignment, AssignmentBuffer, Layout, WeightPosterior
from pyro_groupprior.collapse import collapse_report, weight_signals
from tests.svi.runs import GUIDES, THREE, data, function_model, regression


def signals(mean, sd, shapes=None, index=None):
    """By kind and part."""
    layout = None if shapes is None else Layout([(f"t{i}", s) for i, s in enumerate(shapes)])
    index = torch.zeros(len(mean), dtype=torch.long) if index is None else index
    posterior = WeightPosterior(mean, sd, torch.ones_like(mean), Assignment(index), layout=layout)
    return {(s.kind, s.part): s.signal for s in weight_signals(posterior)}


def layer(mean, sd):
    return signals(mean.reshape(-1), sd.reshape(-1), [mean.shape])["layer", "t0"]


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30))
def test_layer_against_numpys_singular_values(seed, rows, columns):
    rng = np.random.default_rng(seed)
    mean, sd = rng.normal(size=(rows, columns)), rng.uniform(0.1, 2.0, (rows, columns))
    mean += 9 * np.outer(rng.normal(size=rows), rng.normal(size=columns))
    norms = [np.linalg.norm(sd, axis=axis).max() for axis in (0, 1)]
    expected = (np.linalg.svd(mean, compute_uv=False)[0] / sum(norms)) ** 2
    found = layer(torch.tensor(mean), torch.tensor(sd))
    assert 0.8 * expected <= found <= expected * (1 + 1e-9)  # power iteration ends from below
    assert layer(3 * torch.tensor(mean), 3 * torch.tensor(sd)) == pytest.approx(found)
    turned = torch.tensor(mean).flip(0), torch.tensor(sd).flip(0)
    assert layer(*turned) == pytest.approx(found)


def test_the_bound_on_the_noise_is_one():
    sd = torch.rand(40, 25) + 0.1
    norms = [torch.linalg.matrix_norm(sd * torch.randn_like(sd), 2) for _ in range(50)]
    bound = sd.square().sum(0).max().sqrt() + sd.square().sum(1).max().sqrt()
    assert torch.stack(norms).mean() < bound


def test_one_active_unit_is_signal_but_noise_is_not():
    sd = torch.full((50, 50), 0.5)
    pruned = torch.zeros(50, 50)
    pruned[7] = 1.0  # all other outputs are without signal
    assert layer(pruned, sd) > 0.4
    assert layer(torch.full((50, 50), 0.15), sd) > 0.4  # means that are the group's loc
    assert layer(0.05 * sd * torch.randn(50, 50), sd) < 0.01
    assert layer(torch.zeros(50, 50), sd) == 0.0


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (6, 4, 3), (2, 3, 6, 6)])
def test_convolutions_count_all_but_the_first_dimension_as_inputs(shape):
    mean, sd = torch.randn(shape), torch.rand(shape) + 0.1
    assert layer(mean, sd) == layer(mean.flatten(1), sd.flatten(1))


def test_groups_are_sums_of_squares_and_biases_no_layers():
    mean, sd = torch.randn(20), torch.rand(20) + 0.1
    index = torch.arange(20) % 3
    mean[index == 1] = 0.0  # a pruned group
    found = signals(mean, sd, [torch.Size([4, 4]), torch.Size([4])], index)
    assert set(found) == {("layer", "t0"), *[("group", str(g)) for g in range(3)]}
    for group in range(3):
        own = index == group
        expected = float((mean[own] ** 2).sum() / (sd[own] ** 2).sum())
        assert found["group", str(group)] == pytest.approx(expected, rel=1e-5)
    assert found["layer", "t0"] > 0.1


def test_weights_that_are_no_nets_are_one_whole():
    mean, sd = torch.randn(20), torch.rand(20) + 0.1
    found = signals(mean, sd)
    assert found["whole", "weights"] == found["group", "0"]
    points = signals(torch.tensor([1.0, 0.0]), torch.zeros(2), index=torch.tensor([0, 1]))
    assert points["group", "0"] == float("inf") and points["group", "1"] == 0.0


@pytest.mark.parametrize("guide", ["mean_field", "low_rank", "normal", "diagonal", "delta"])
def test_report_under_any_guide(guide):
    model = regression(THREE)
    guide = GUIDES[guide](model)
    guide(*data())
    before = torch.get_rng_state()
    found = collapse_report(model, guide, *data())
    assert torch.equal(before, torch.get_rng_state())
    parts = [("layer", "0.weight"), ("layer", "2.weight")]
    assert [(s.kind, s.part) for s in found] == [*parts, *[("group", str(g)) for g in range(3)]]
    assert found[0].groups == (0, 1, 2) and found[0].site == "weights"
    # They all start at the net's own weights, with little noise.
    assert all(signal.signal > 0.5 for signal in found)
    if guide is autoguide.AutoDelta:
        assert all(signal.signal == float("inf") for signal in found)


def test_report_of_a_function():
    model = function_model(AssignmentBuffer(Assignment(torch.tensor([0, 1, 1]))))
    guide = GUIDES["normal"](model)
    guide(*data())
    found = collapse_report(model, guide, *data())
    assert [(s.kind, s.part) for s in found] == [("whole", "beta"), ("group", "0"), ("group", "1")]
