# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Distillation against posteriors whose best summary is known."""

from typing import Any

import pytest
import torch
from torch import nn

from pyro_groupprior import (
    AutoBlockNormal,
    AutoMeanField,
    BayesianModule,
    distill,
    likelihoods,
    predict,
)
from pyro_groupprior.comparison import total_variation

ONES = torch.ones(40, 1)
OPTIONS: dict[str, Any] = {"progress": False}


def _constant(likelihood: Any) -> tuple[BayesianModule, AutoMeanField]:
    """One weight, which is the output."""
    model = BayesianModule(nn.Linear(1, 1, bias=False), likelihood)
    guide = AutoMeanField(model)
    guide.setup(ONES, ONES)
    return model, guide


def test_normal_predictions_get_the_moments_of_the_draws() -> None:
    """Of all normal distributions that with the same moments is nearest to a mixture."""
    model, guide = _constant(likelihoods.Normal(noise=0.7))
    draws = {"weights": torch.tensor([[-1.0], [0.5], [2.5], [2.6]])}
    losses = distill(
        guide, predict(model, draws, ONES), ONES, num_steps=1000, num_particles=64, lr=0.1,
        **OPTIONS,
    )  # fmt: skip
    mean, sd = guide.moments("weights")
    expected = draws["weights"]
    assert mean.item() == pytest.approx(expected.mean().item(), abs=0.1)
    assert sd.item() == pytest.approx(expected.std(correction=0).item(), abs=0.15)
    assert losses[-200:].mean() < losses[:20].mean()


def test_noise_that_is_a_site_is_learned_too() -> None:
    model, guide = _constant(likelihoods.Normal())
    draws = {"weights": torch.full((50, 1), 2.0), "noise": torch.full((50,), 0.25)}
    prediction = predict(model, draws, ONES)
    distill(guide, prediction, ONES, num_steps=1500, lr=0.2, **OPTIONS)
    ours = predict(model, guide, ONES, num_draws=2000)
    assert ours.mean.mean().item() == pytest.approx(2.0, abs=0.05)
    assert ours.sd.mean().item() == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("family", [AutoMeanField, AutoBlockNormal])
def test_labels_are_predicted_as_the_draws_do(family: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 10), nn.ReLU(), nn.Linear(10, 3))
    model = BayesianModule(net, likelihoods.Categorical(), grouping="layer")
    x, labels = torch.randn(200, 2), torch.randint(3, (200,))
    number = model.layout.num_weights
    draws = {"weights": 2 * torch.randn(number) + 0.3 * torch.randn(100, number)}
    draws |= {"weights_loc": torch.zeros(100, 2), "weights_scale": torch.rand(100, 2) + 0.5}
    reference = predict(model, draws, x)
    guide = family(model)
    guide.fit_draws({k: v + 1.0 for k, v in draws.items()}, x, labels)
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    far = total_variation(predict(model, guide, x), reference)
    losses = distill(guide, reference, x, num_steps=600, **OPTIONS)
    near = total_variation(predict(model, guide, x), reference)
    assert near < 0.2 * far
    # A cross-entropy, which is the entropy at least.
    entropy = -torch.xlogy(reference.mean, reference.mean).sum(-1).mean()
    assert 0.98 * entropy < losses[-100:].mean() < 1.1 * entropy
    after = guide.state_dict()
    for name in before:
        assert torch.equal(after[name], before[name]) == ("weights_" in name)


def test_a_seed_gives_the_same_and_takes_no_random_numbers() -> None:
    found = []
    for _ in range(2):
        model, guide = _constant(likelihoods.Normal(noise=0.7))
        prediction = predict(model, {"weights": torch.tensor([[1.0], [2.0]])}, ONES)
        torch.manual_seed(len(found))
        expected = torch.random.get_rng_state()
        losses = distill(guide, prediction, ONES, num_steps=20, seed=3, **OPTIONS)
        assert torch.equal(torch.random.get_rng_state(), expected)
        found.append((losses, guide.moments("weights")))
    torch.testing.assert_close(found[0], found[1])


def test_a_failure_changes_nothing() -> None:
    model, guide = _constant(likelihoods.Normal(noise=1e-30))
    prediction = predict(model, {"weights": torch.tensor([[1.0], [2.0]])}, ONES)
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    with pytest.raises(FloatingPointError, match="loss: expected a finite number"):
        distill(guide, prediction, ONES, num_steps=20, **OPTIONS)
    assert all(torch.equal(value, before[name]) for name, value in guide.state_dict().items())


def test_bad_input() -> None:
    model, guide = _constant(likelihoods.Normal())
    prediction = predict(model, guide, ONES, num_draws=5)
    with pytest.raises(TypeError, match="guide: expected one of this package, got Linear"):
        distill(nn.Linear(1, 1), prediction, ONES)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="guide: expected one that is set up"):
        distill(AutoMeanField(model), prediction, ONES)
    with pytest.raises(ValueError, match="num_steps: expected at least 1, got 0"):
        distill(guide, prediction, ONES, num_steps=0)
    with pytest.raises(ValueError, match="lr: expected a positive number, got 0"):
        distill(guide, prediction, ONES, lr=0.0)
    with pytest.raises(ValueError, match="inputs: expected the 40 rows of the prediction, got 3"):
        distill(guide, prediction, ONES[:3])
    with pytest.raises(ValueError, match="inputs"):
        distill(guide, prediction, ONES * float("nan"))

    def plain() -> None:
        pass

    with pytest.raises(TypeError, match="guide: expected one of a BayesianModule"):
        distill(AutoMeanField(plain), prediction, ONES)
    with pytest.raises(TypeError, match="prediction: expected what predict returns, got dict"):
        distill(guide, guide.draws(5), ONES)  # type: ignore[arg-type]
    labels, other = _constant(likelihoods.Poisson())
    with pytest.raises(ValueError, match="prediction: expected one of a Normal likelihood, got Po"):
        distill(guide, predict(labels, other, ONES, num_draws=5), ONES)
    wide = BayesianModule(nn.Linear(1, 3), likelihoods.Normal())
    draws = {"weights": torch.randn(5, 6), "noise": torch.ones(5)}
    with pytest.raises(ValueError, match=r"prediction: expected outputs of shape \(1,\) for a row"):
        distill(guide, predict(wide, draws, ONES), ONES)
