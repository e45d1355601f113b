# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Langevin dynamics against what is known of harmonic oscillators."""

import pytest
import torch

from pyro_groupprior.mcmc.gradient import value_and_gradient
from pyro_groupprior.mcmc.langevin import GROWTH, MOST_HEAT, STABLE, LangevinAdaptation


def normal(precision):
    return value_and_gradient(lambda z: -0.5 * ((z @ precision) * z).sum(1))


def adapted(evaluate, position, places, memory=10.0, looks=100):
    adaptation = LangevinAdaptation(places, position, memory)
    for _ in range(looks):
        adaptation.look(evaluate, position, ())
        adaptation.grow(torch.ones_like(position))
    return adaptation


def variance(adaptation, evaluate, position, num_steps, noise=0.0):
    """Of positions and momenta, over chains and the second half of the steps, each ``[D]``."""
    momentum, seen = torch.zeros_like(position), []
    for number in range(num_steps):
        gradient = evaluate(position)[1] + noise * torch.randn_like(position)
        position, momentum = adaptation.move(position, momentum, gradient)
        if number >= num_steps // 2:
            seen.append(torch.stack([position, momentum]))
    return torch.stack(seen).square().mean((0, 2))


def test_each_site_steps_as_far_as_its_own_curvature_allows():
    torch.manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(4, 4)).Q
    block = rotation @ torch.diag(torch.tensor([900.0, 50.0, 10.0, 1.0])) @ rotation.T
    precision = torch.block_diag(block, 4 * torch.eye(2))
    position = torch.randn(3, 6)
    found = adapted(normal(precision), position, [slice(0, 4), slice(4, 6)]).step
    torch.testing.assert_close(found[:, :4], torch.full((3, 4), STABLE / 30), rtol=0.01, atol=0.0)
    torch.testing.assert_close(found[:, 4:], torch.full((3, 2), STABLE / 2), rtol=0.01, atol=0.0)


@pytest.mark.parametrize("stretch", [1.0, 5.0])
def test_positions_have_their_variance_whatever_the_step(stretch):
    # BAOA samples the positions of a harmonic oscillator exactly (Leimkuhler and Matthews 2013).
    torch.manual_seed(0)
    precision = torch.tensor([1.0, 16.0])
    evaluate = normal(torch.diag(precision))
    position = torch.randn(2000, 2) * precision.rsqrt()
    adaptation = adapted(evaluate, position, [slice(0, 2)])
    adaptation.step *= stretch  # to 1.25 over the frequency
    found, _ = variance(adaptation, evaluate, position, 400)
    torch.testing.assert_close(found, 1 / precision, rtol=0.04, atol=0.0)


@pytest.mark.parametrize("compensated", [True, False])
def test_injected_noise_makes_room_for_that_of_minibatches(compensated):
    torch.manual_seed(0)
    evaluate = normal(torch.eye(2))
    position = torch.randn(2000, 2)
    adaptation = adapted(evaluate, position, [slice(0, 2)])
    noise = torch.tensor([1.0, 1.8])
    for _ in range(200 * compensated):
        gradients = evaluate(position)[1] + noise * torch.randn(2, 2000, 2)
        adaptation.see_noise(*gradients)
    found, kinetic = variance(adaptation, evaluate, position, 400, noise)
    heat = adaptation.step[0].square() * noise.square() * adaptation.keep**2
    heat = heat / (1 - adaptation.keep**2)
    expected = torch.ones(2) if compensated else 1 + heat
    assert heat.tolist() == pytest.approx([0.28, 0.92], rel=0.02)
    torch.testing.assert_close(kinetic, expected, rtol=0.04, atol=0.0)
    torch.testing.assert_close(found, expected, rtol=0.15, atol=0.0)


def test_noisy_latents_take_shorter_steps():
    torch.manual_seed(0)
    evaluate, position = normal(torch.eye(3)), torch.randn(5, 3)
    adaptation = LangevinAdaptation([slice(0, 3)], position, 10.0)
    for _ in range(300):
        adaptation.see_noise(*(torch.tensor([0.1, 30.0, 3.0]) * torch.randn(2, 5, 3)))
    for _ in range(60):
        adaptation.look(evaluate, position, ())
        adaptation.grow(torch.ones_like(position))
    quiet = adaptation.step[:, 0]
    torch.testing.assert_close(quiet, torch.full_like(quiet, STABLE), rtol=0.01, atol=0.0)
    variance = torch.tensor([900.0, 9.0])
    heat = adaptation.step[:, 1:].square() * variance * adaptation.keep**2
    heat = (heat / (1 - adaptation.keep**2)).mean(0)
    torch.testing.assert_close(heat, torch.full_like(heat, MOST_HEAT), rtol=0.3, atol=0.0)


def test_a_site_that_is_flat_has_no_direction_to_turn_to():
    evaluate = value_and_gradient(lambda z: -z[:, 0].abs() - 0.5 * z[:, 1].square())
    adaptation = adapted(evaluate, torch.ones(2, 2), [slice(0, 1), slice(1, 2)])
    assert adaptation.step.isfinite().all()


def test_a_chain_that_runs_hot_slows_down():
    evaluate, position = normal(torch.eye(50)), torch.ones(2, 50)
    adaptation = adapted(evaluate, position, [slice(0, 50)])
    before = adaptation.step.clone()
    adaptation.grow(torch.stack([torch.ones(50), 3 * torch.ones(50)]))
    torch.testing.assert_close(adaptation.step[0], before[0])
    torch.testing.assert_close(adaptation.step[1], before[1] / 2)
    adaptation.grow(torch.ones(2, 50))
    torch.testing.assert_close(adaptation.step[1], before[1] / 2 * GROWTH)


def test_gradients_that_are_not_finite_are_told():
    evaluate = value_and_gradient(lambda z: z.sum(1) / 0.0)
    adaptation = LangevinAdaptation([slice(0, 2)], torch.ones(1, 2), 10.0)
    with pytest.raises(FloatingPointError, match="NaN or inf"):
        adaptation.look(evaluate, torch.ones(1, 2), ())
