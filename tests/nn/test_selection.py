# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Which parameters are Bayesian, and that all others are points which are learned, or frozen."""

import functools
from collections.abc import Callable

import pyro
import pytest
import torch
from torch import Tensor, nn

from pyro_groupprior import (
    AutoMeanField,
    BayesianModule,
    MeanFieldELBO,
    PhasedSVI,
    likelihoods,
)
from pyro_groupprior.nn import select_parameters

from .nets import Tied


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 1)
    )


WEIGHTS, BIASES = ["0.weight", "4.weight"], ["0.bias", "4.bias"]
NORMS = ["1.weight", "1.bias", "3.weight", "3.bias"]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (None, [WEIGHTS[0], BIASES[0], WEIGHTS[1], BIASES[1]]),
        ("4.*", ["4.weight", "4.bias"]),
        ("*weight", ["0.weight", "1.weight", "3.weight", "4.weight"]),
        ("0.weigh?", ["0.weight"]),
        (nn.Linear, ["0.weight", "0.bias", "4.weight", "4.bias"]),
        (nn.LayerNorm, ["3.weight", "3.bias"]),
        (lambda name, module, parameter: parameter.dim() == 2, WEIGHTS),
        (lambda name, module, parameter: isinstance(module, nn.BatchNorm1d), NORMS[:2]),
        (["0.bias", nn.LayerNorm], ["0.bias", "3.weight", "3.bias"]),
        (("4.bias", "0.bias", "*.bias"), ["0.bias", "1.bias", "3.bias", "4.bias"]),
        ("*", None),
    ],
)
def test_rules(rule: object, expected: list[str] | None) -> None:
    module = net()
    expected = [name for name, _ in module.named_parameters()] if expected is None else expected
    assert [item.name for item in select_parameters(module, rule)] == expected
    model = BayesianModule(module, bayesian=rule)
    assert model.layout.names == expected
    assert model.layout.num_weights == sum(module.get_parameter(n).numel() for n in expected)


def test_frozen_parameters_are_taken_only_if_named() -> None:
    module = net()
    module[0].requires_grad_(False)
    assert [i.name for i in select_parameters(module, None)] == ["4.weight", "4.bias"]
    assert [i.name for i in select_parameters(module, "0.*")] == ["0.weight", "0.bias"]


def test_a_tied_parameter_is_found_under_all_its_names() -> None:
    (item,) = select_parameters(Tied(), "out.*")
    assert (item.name, item.aliases) == ("embed.weight", ("out.weight",))


def test_names_with_pattern_characters() -> None:
    module = nn.ModuleDict({"a[0]": nn.Linear(2, 1), "b*": nn.Linear(1, 1)})
    assert BayesianModule(module).layout.names == [
        "a[0].weight",
        "a[0].bias",
        "b*.weight",
        "b*.bias",
    ]


@pytest.mark.parametrize(
    ("make", "rule", "error", "message"),
    [
        (lambda: nn.ReLU(), None, ValueError, "ReLU has none"),
        (lambda: nn.Sequential(), "*", ValueError, "Sequential has none"),
        (lambda: net().requires_grad_(False), None, ValueError, "frozen or belong to norm layers"),
        (lambda: nn.BatchNorm1d(3), None, ValueError, "frozen or belong to norm layers"),
        (net, "5.*", ValueError, r"'5\.\*' matches none of the parameters"),
        (net, ["0.*", "weights"], ValueError, "'weights' matches none"),
        (net, nn.Conv2d, ValueError, "Conv2d matches none"),
        (net, lambda *_: False, ValueError, "matches none"),
        (net, [], ValueError, "at least one"),
        (net, 3, TypeError, "a module type or a predicate, got 3"),
        (net, int, TypeError, "a module type or a predicate"),
        (lambda: nn.LazyLinear(2), None, ValueError, "'weight' has no shape yet"),
    ],
)
def test_refusals(make: Callable, rule: object, error: type[Exception], message: str) -> None:
    module = make()
    with pytest.raises(error, match=message):
        BayesianModule(module, bayesian=rule)


@pytest.mark.parametrize("engine", ["phased", "pyro"])
def test_point_parameters_take_the_gradient_of_the_elbo(engine: str) -> None:
    """One step of plain gradient descent moves each by the rate times its gradient."""
    module = net()
    module[3].bias.requires_grad_(False)
    model = BayesianModule(module, likelihoods.Normal(), num_data=8)
    guide = AutoMeanField(model)
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    guide.setup(x, y)
    points = [n for n in NORMS if n != "3.bias"]
    assert [n for n, p in model.net.named_parameters() if p.requires_grad] == points
    before = {n: p.detach().clone() for n, p in model.net.named_parameters()}
    loss, rate = MeanFieldELBO(), 1e-3
    torch.manual_seed(5)
    gradient = torch.autograd.grad(
        loss.differentiable_loss(model, guide, x, y), [model.net.get_parameter(n) for n in points]
    )
    torch.manual_seed(5)
    if engine == "phased":
        PhasedSVI(model, guide, functools.partial(torch.optim.SGD, lr=rate)).step(x, y)
    else:
        pyro.infer.SVI(model, guide, pyro.optim.SGD({"lr": rate}), loss).step(x, y)
    after = dict(model.net.named_parameters())
    for name, slope in zip(points, gradient):
        assert slope.any()
        torch.testing.assert_close(after[name], before[name] - rate * slope)
    for name in before.keys() - set(points):
        assert after[name].equal(before[name])


@pytest.mark.parametrize("make_guide", [AutoMeanField, pyro.infer.autoguide.AutoNormal])
def test_plain_svi_learns_what_only_a_point_can(make_guide: Callable) -> None:
    """A strong prior pins the one Bayesian weight at zero: the norm's scale must do it."""
    module = nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 1))
    nn.init.ones_(module[1].weight)
    nn.init.zeros_(module[1].bias)
    model = BayesianModule(
        module, likelihoods.Normal(noise=0.1), bayesian="1.bias", loc=0.0, scale=1e-3
    )
    x = torch.randn(32, 2)
    x = x - x.mean(1, keepdim=True)
    target = nn.functional.layer_norm(x, (2,)) @ torch.tensor([[1.5], [0.5]])
    svi = pyro.infer.SVI(
        model, make_guide(model), pyro.optim.Adam({"lr": 0.05}), pyro.infer.Trace_ELBO()
    )
    for _ in range(150):
        svi.step(x, target)
    with torch.no_grad():
        learned: Tensor = model.net[:2](x)
    assert (learned - target).square().mean().sqrt() < 0.1
