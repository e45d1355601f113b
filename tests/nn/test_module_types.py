# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Every type of net gives what it gives by itself, for any weights, with the same gradients."""

import copy

import pyro
import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor, nn

from pyro_groupprior import AutoMeanField, BayesianModule, Layout
from pyro_groupprior.nn import map_draws

from .nets import NETS, call, make, tensors, transformer

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning"),
]
ALL = pytest.mark.parametrize("name", NETS)


def moved(net: nn.Module, layout: Layout) -> tuple[nn.Module, Tensor]:
    """A copy of the net whose own parameters were moved at random, and these, one by one."""
    other, flat = copy.deepcopy(net), []
    with torch.no_grad():
        for name in layout.names:
            parameter = other.get_parameter(name)
            parameter += 0.3 * torch.randn_like(parameter)
            flat.append(parameter.flatten())
    return other, torch.cat(flat)


def assert_same(output: object, expected: object) -> None:
    ours, theirs = tensors(output), tensors(expected)
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@ALL
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_own_weights_give_the_net_itself(name: str, training: bool) -> None:
    net, inputs = make(name)
    net.train(training)
    model = BayesianModule(net)
    expected = call(net, inputs)
    weights = model.initial_weights()
    assert_same(model.call_net(weights, inputs), expected)
    with poutine.condition(data={"weights": weights}):
        assert_same(model(inputs), expected)


@ALL
def test_other_weights_give_the_net_with_these(name: str) -> None:
    net, inputs = make(name)
    model = BayesianModule(net.eval())
    before = model.initial_weights()
    other, weights = moved(net, model.layout)
    assert weights.shape == (model.layout.num_weights,)
    assert_same(model.call_net(weights, inputs), call(other, inputs))
    # Nothing of it stays behind.
    assert model.initial_weights().equal(before)
    assert_same(model.call_net(before, inputs), call(net, inputs))


@ALL
def test_gradients_are_the_nets_own(name: str) -> None:
    net, inputs = make(name)
    model = BayesianModule(net)
    other, weights = moved(net, model.layout)
    weights.requires_grad_()
    (gradient,) = torch.autograd.grad(
        sum(t.square().sum() for t in tensors(model.call_net(weights, inputs))), weights
    )
    sum(t.square().sum() for t in tensors(call(other, inputs))).backward()
    own = torch.cat([other.get_parameter(name).grad.flatten() for name in model.layout.names])
    assert own.abs().max() > 0
    torch.testing.assert_close(gradient, own, rtol=1e-4, atol=1e-5)


@ALL
def test_a_narrow_guide_gives_the_net_itself_and_its_gradients(name: str) -> None:
    net, inputs = make(name)
    net.eval()
    model = BayesianModule(net)
    guide = AutoMeanField(model, init_scale=1e-7)
    guide.setup(inputs)
    with poutine.trace() as drawn:
        guide(inputs)
    output = poutine.replay(model, trace=drawn.trace)(inputs)
    assert_same(output, call(net, inputs))
    weights = model.initial_weights().requires_grad_()
    for result in (output, model.call_net(weights, inputs)):
        sum(t.square().sum() for t in tensors(result)).backward()
    torch.testing.assert_close(guide.locs["weights"].grad, weights.grad, rtol=1e-3, atol=1e-4)


@ALL
def test_many_draws_at_once_equal_a_loop(name: str) -> None:
    net, inputs = make(name)
    model = BayesianModule(net.eval())
    draws = torch.stack([moved(net, model.layout)[1] for _ in range(3)])

    def flat(weights: Tensor) -> Tensor:
        return torch.cat([t.flatten() for t in tensors(model.call_net(weights, inputs))])

    with torch.no_grad():
        together = map_draws(flat, draws)
        one_by_one = torch.stack([flat(draw) for draw in draws])
    torch.testing.assert_close(together, one_by_one, rtol=1e-4, atol=1e-5)


@ALL
def test_double_precision(name: str) -> None:
    torch.set_default_dtype(torch.float64)
    net, inputs = make(name)
    model = BayesianModule(net.eval())
    assert {model.initial_weights().dtype, model.base_scale.dtype} == {torch.float64}
    trace = poutine.trace(model).get_trace(inputs)
    assert trace.nodes["weights"]["value"].dtype == torch.float64
    with poutine.condition(data={"weights": model.initial_weights()}):
        for ours, theirs in zip(tensors(model(inputs)), tensors(call(net, inputs))):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_dropout_draws_the_same_noise_as_in_the_net() -> None:
    net, x = transformer(dropout=0.5), torch.randn(2, 5, 4)
    model = BayesianModule(net)
    torch.manual_seed(3)
    expected = net(x)
    torch.manual_seed(3)
    assert_same(model.call_net(model.initial_weights(), x), expected)
    torch.manual_seed(4)
    assert not model.call_net(model.initial_weights(), x).allclose(expected)


def test_padded_sequences_of_a_transformer() -> None:
    """With a mask torch's fast path in evaluation mode goes through nested tensors."""
    net, x = transformer().eval(), torch.randn(2, 5, 4)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    model = BayesianModule(net)
    inputs = {"src": x, "src_key_padding_mask": mask}
    with torch.no_grad():
        other, weights = moved(net, model.layout)
        expected = other(**inputs)
        ours = model.call_net(weights, inputs)
    torch.testing.assert_close(ours[~mask], expected[~mask], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["linear", "attention", "tied", "shared", "batch_norm"])
def test_the_users_net_is_left_alone(name: str) -> None:
    net, inputs = make(name)
    before = copy.deepcopy(net.state_dict())
    flags = [parameter.requires_grad for parameter in net.parameters()]
    model = BayesianModule(net)
    model.call_net(model.initial_weights() + 1.0, inputs)
    pyro.poutine.trace(model).get_trace(inputs)
    assert [parameter.requires_grad for parameter in net.parameters()] == flags
    assert all(net.state_dict()[key].equal(value) for key, value in before.items())
