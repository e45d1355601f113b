# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What of the input reaches the output, in nets where that is known."""

import pytest
import torch
from torch import nn

from pyro_groupprior import AutoMeanField, BayesianModule, PhasedSVI, likelihoods
from pyro_groupprior.collapse import CollapseMonitor
from pyro_groupprior.collapse.output import agreement, is_cut_off, passing_input
from pyro_groupprior.collapse.signal import LAYER, signals_of

TINY = -20.0  # a standard deviation of nearly nothing, before softplus


def prepared(net, x, y):
    torch.manual_seed(0)
    model = BayesianModule(net, likelihoods.Normal(), num_data=len(x))
    svi = PhasedSVI(model, AutoMeanField, warmup=0)
    svi.step(x, y)
    return svi


def layers(svi):
    args, kwargs = svi.last_batch
    found = signals_of(svi.groups, svi.guide, *args, **kwargs)
    return {signal.part: signal for signal in found if signal.kind == LAYER}


@pytest.mark.parametrize(("mean", "sd"), [(1.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
def test_agreement_of_lines_is_in_closed_form(mean, sd):
    """Covariance over variance of w x for w ~ Normal(mean, sd), over many sets of draws."""
    x = torch.linspace(-1, 1, 20)[:, None]
    svi = prepared(nn.Linear(1, 1), x, x)
    with torch.no_grad():
        svi.guide.locs["weights"][:] = mean
        svi.guide.unconstrained_scales["weights"][:] = torch.tensor(sd).expm1().log().clamp(TINY)
    found = []
    for seed in range(40):
        torch.manual_seed(seed)
        found.append(agreement(svi, "weights"))
    expected = mean**2 / (mean**2 + sd**2)
    assert sum(found) / len(found) == pytest.approx(expected, abs=0.05)


@pytest.fixture
def pruned():
    """One hidden unit of a hundred is alive; the others give zero by wide outgoing weights."""
    x = torch.linspace(-1, 1, 20)[:, None]
    svi = prepared(nn.Sequential(nn.Linear(1, 100), nn.ReLU(), nn.Linear(100, 1)), x, x)
    guide, layout = svi.guide, svi.model.layout
    with torch.no_grad():
        locs, scales = guide.locs["weights"], guide.unconstrained_scales["weights"]
        locs.zero_()
        scales.fill_(TINY)
        locs[layout["0.weight"].slice][0] = 1.0
        locs[layout["2.weight"].slice][0] = 1.0
        scales[layout["2.weight"].slice][1:] = 1.0
    return svi


def test_a_layer_among_pruned_inputs_is_alive(pruned):
    last = layers(pruned)["2.weight"]
    assert last.signal < 0.1 and is_cut_off(pruned, [last])
    assert agreement(pruned, "weights") == pytest.approx(1.0)
    assert passing_input(pruned, [last]) == {last}
    monitor = CollapseMonitor()
    monitor.check(pruned)
    monitor.check(pruned)
    assert monitor.dead == []


def test_a_layer_without_signal_is_not(pruned):
    with torch.no_grad():
        where = pruned.model.layout["2.weight"].slice
        pruned.guide.locs["weights"][where] = 0.0
        pruned.guide.unconstrained_scales["weights"][where] = 1.0
    last = layers(pruned)["2.weight"]
    assert is_cut_off(pruned, [last]) and not passing_input(pruned, [last])
    assert agreement(pruned, "weights") < 0.5


def test_looking_uses_up_no_random_state(pruned):
    state = torch.get_rng_state()
    agreement(pruned, "weights")
    assert torch.equal(torch.get_rng_state(), state)
