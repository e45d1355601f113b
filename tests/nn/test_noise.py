# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Noise on outputs has the law that noise on the weights gives them, with calmer gradients."""

import math
from collections.abc import Callable

import pyro
import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from pyro_groupprior import AutoMeanField, BayesianModule, MeanFieldELBO, likelihoods
from pyro_groupprior.nn.noise import LocalNoise, local_modules

from .nets import LastState, Shared, Tied, make

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(3, 2), (3, 3)),
    "linear_no_bias": (lambda: nn.Linear(3, 2, bias=False), (3, 3)),
    "linear_sequence": (lambda: nn.Linear(2, 2), (3, 3, 2)),
    "linear_grid": (lambda: nn.Linear(2, 2, bias=False), (2, 2, 2, 2)),
    "conv1d": (lambda: nn.Conv1d(2, 2, 3, stride=2, padding=1), (3, 2, 6)),
    "conv2d": (
        lambda: nn.Conv2d(4, 2, 2, groups=2, stride=2, padding=1, dilation=2, bias=False),
        (2, 4, 4, 4),
    ),
    "conv2d_same": (lambda: nn.Conv2d(1, 2, 3, padding="same"), (2, 1, 2, 2)),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2, groups=1), (2, 1, 2, 3, 2)),
}


def noisy(model: BayesianModule, guide: AutoMeanField, x: Tensor) -> tuple[Tensor, Tensor]:
    """One pass with noise on outputs, and the weights drawn in it."""
    with poutine.trace() as drawn:
        guide(x)
    with torch.no_grad():
        output = poutine.replay(model, trace=drawn.trace)(x)
    return output, drawn.trace.nodes["weights"]["value"].detach()


def local_guide(model: BayesianModule, *args: Tensor, local: bool = True) -> AutoMeanField:
    """A guide with wide factors, all of different width."""
    guide = AutoMeanField(model, local_reparam=local)
    guide.setup(*args)
    with torch.no_grad():
        scales = guide.unconstrained_scales["weights"]
        scales.copy_(torch.linspace(-2.0, 0.0, len(scales)))
    return guide


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_have_the_mean_and_covariance_that_the_weights_give(name: str) -> None:
    """Outputs of one layer are linear in its weights, so both are known exactly."""
    make_layer, shape = LAYERS[name]
    model, x = BayesianModule(make_layer()), torch.randn(shape)
    guide = local_guide(model, x)
    loc, scale = guide.moments("weights")
    jacobian = torch.autograd.functional.jacobian(lambda w: model.call_net(w, x), loc).flatten(
        1, -2
    )
    num, rows = 20000, shape[0]
    modules = local_modules(model.net, model.layout)

    def one_pass(weights: Tensor) -> Tensor:
        with LocalNoise(modules, model.layout, loc, scale, rows) as noise:
            return functional_call(model.net, noise.tensors(weights), x)

    weights = loc + scale * torch.randn(num, len(loc))
    draws = torch.vmap(one_pass, randomness="different")(weights).reshape(num, rows, -1)
    mean = model.call_net(loc, x).reshape(rows, -1)
    exact = torch.einsum("niw,w,njw->nij", jacobian, scale.square(), jacobian)
    centred = draws - mean
    sd = exact.diagonal(dim1=1, dim2=2).sqrt()
    assert float((centred.mean(0) / sd * math.sqrt(num)).abs().max()) < 5
    found = torch.einsum("sni,snj->nij", centred, centred) / num
    product = sd.unsqueeze(-1) * sd.unsqueeze(-2)
    error = (product.square() + exact.square()).sqrt() / math.sqrt(num)
    assert float(((found - exact) / error).abs().max()) < 5
    # Rows of data do not share their noise, which is what calms the gradient.
    between = (centred[:, 0] * centred[:, 1]).mean(0) / (sd[0] * sd[1])
    assert float(between.abs().max()) * math.sqrt(num) < 5


class TimeFirst(nn.Module):
    """A linear layer that sees time first, and one that sees rows and time as one."""

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.encode = nn.TransformerEncoderLayer(width, 1, 4, dropout=0.0)
        self.flat = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encode(x.transpose(0, 1)).transpose(0, 1)
        return self.flat(x.flatten(0, 1)).unflatten(0, x.shape[:2])


@pytest.mark.parametrize(
    ("make_net", "shape"), [(TimeFirst, (3, 5, 2)), (lambda: nn.Conv1d(2, 3, 2), (2, 4))]
)
def test_layers_that_do_not_see_rows_first_use_the_drawn_weights(
    make_net: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    model, x = BayesianModule(make_net()), torch.randn(shape)
    output, weights = noisy(model, local_guide(model, x), x)
    torch.testing.assert_close(output, model.call_net(weights, x), rtol=1e-4, atol=1e-5)


def deep() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(3, 3, 2), nn.Tanh(), nn.Conv1d(3, 2, 2), nn.Flatten(), nn.Linear(6, 1)
    )


def attentive() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Tanh(), LastState())


@pytest.mark.parametrize(
    ("make_net", "shape", "num"),
    [(deep, (24, 3), 400), (convolutional, (24, 3, 5), 200), (attentive, (24, 3, 4), 150)],
)
def test_the_elbo_agrees_in_expectation_and_its_gradient_varies_less(
    make_net: Callable[[], nn.Module], shape: tuple[int, ...], num: int
) -> None:
    model = BayesianModule(make_net(), likelihoods.Normal(noise=0.5))
    x, y = torch.randn(shape), torch.randn(shape[0], 1)
    guides = [local_guide(model, x, y, local=local) for local in (False, True)]
    guides[1].load_state_dict(guides[0].state_dict())
    losses, gradients = [], []
    for guide in guides:
        values, slopes = [], []
        for _ in range(num):
            loss = MeanFieldELBO().differentiable_loss(model, guide, x, y)
            values.append(loss.detach())
            slopes.append(torch.autograd.grad(loss, guide.locs["weights"])[0])
        losses.append(torch.stack(values))
        gradients.append(torch.stack(slopes))
    error = math.sqrt(sum(float(values.var()) for values in losses) / num)
    assert abs(float(losses[0].mean() - losses[1].mean())) < 4.5 * error
    error = torch.sqrt((gradients[0].var(0) + gradients[1].var(0)) / num)
    assert float(((gradients[0].mean(0) - gradients[1].mean(0)) / error).abs().max()) < 5
    assert float(gradients[1].var(0).sum()) < 0.7 * float(gradients[0].var(0).sum())


@pytest.mark.parametrize("local", [False, True])
def test_it_works_by_replay_under_any_elbo(local: bool) -> None:
    """Equal rows get equal outputs exactly if they share their weights."""
    model = BayesianModule(deep(), likelihoods.Normal())
    x, y = torch.ones(2, 3), torch.zeros(2, 1)
    guide = local_guide(model, x, y, local=local)
    seen = []

    class Watch(pyro.infer.Trace_ELBO):
        def _get_trace(self, *args):
            traces = super()._get_trace(*args)
            seen.append(traces[0].nodes["obs"]["fn"].base_dist.mean)
            return traces

    Watch().loss(model, guide, x, y)
    for loss in (pyro.infer.Trace_ELBO(), pyro.infer.TraceMeanField_ELBO(), MeanFieldELBO()):
        assert math.isfinite(loss.loss(model, guide, x, y))
    assert (seen[0][0] == seen[0][1]).all() != local


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.step(torch.tanh(self.step(x)))


def test_a_module_that_runs_twice_is_refused_by_name_and_no_hook_stays() -> None:
    model, x = BayesianModule(Twice()), torch.randn(4, 2)
    guide = local_guide(model, x)
    with pytest.raises(RuntimeError, match="module 'step' runs more than once"):
        noisy(model, guide, x)
    weights = model.initial_weights()
    expected = torch.tanh(x @ weights[:4].reshape(2, 2).T + weights[4:])
    expected = expected @ weights[:4].reshape(2, 2).T + weights[4:]
    torch.testing.assert_close(model.call_net(weights, x), expected)


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_are_gone_afterwards(fails: bool) -> None:
    model, x = BayesianModule(deep()), torch.randn(4, 3)
    guide = local_guide(model, x)
    if fails:
        with pytest.raises(RuntimeError):
            noisy(model, guide, torch.randn(4, 2))
    else:
        noisy(model, guide, x)
    weights = model.initial_weights()
    assert model.call_net(weights, x).equal(model.call_net(weights, x))
    assert not any(module._forward_hooks for module in model.net.modules())


@pytest.mark.parametrize(
    ("make_net", "bayesian", "expected"),
    [
        (Tied, None, {"mix"}),
        (Shared, None, {"blocks.1"}),
        (deep, None, {"0", "2"}),
        (deep, "*weight", set()),
        (deep, "0.*", {"0"}),
        (lambda: nn.Linear(2, 1), None, {""}),
        (lambda: make("batch_norm")[0], None, {"0", "2"}),
        (lambda: make("batch_norm")[0], "*", {"0", "2"}),
        (lambda: make("attention")[0], None, set()),
        (lambda: make("conv2d_reflect")[0], None, set()),
        (lambda: make("conv_transpose1d")[0], None, set()),
        (lambda: make("weight_norm")[0], None, set()),
        (lambda: nn.utils.spectral_norm(nn.Linear(2, 2)), None, set()),
    ],
)
def test_which_modules_have_noise_of_their_own(
    make_net: Callable[[], nn.Module], bayesian: str | None, expected: set[str]
) -> None:
    model = BayesianModule(make_net(), bayesian=bayesian)
    assert set(local_modules(model.net, model.layout)) == expected


@pytest.mark.parametrize("make_net", [Tied, Shared])
def test_tied_and_shared_layers_use_the_drawn_weights(make_net: Callable[[], nn.Module]) -> None:
    """With no noise on the layers that have their own, the rest is the net with these weights."""
    model = BayesianModule(make_net())
    x = torch.randint(0, 6, (4, 5)) if make_net is Tied else torch.randn(4, 3)
    guide = local_guide(model, x)
    named = model.layout.unpack(guide.unconstrained_scales["weights"].detach())
    for name in ("mix.weight", "mix.bias", "blocks.1.weight", "blocks.1.bias"):
        if name in named:
            named[name] = torch.full_like(named[name], -30.0)
    with torch.no_grad():
        guide.unconstrained_scales["weights"].copy_(model.layout.pack(named))
    output, weights = noisy(model, guide, x)
    torch.testing.assert_close(output, model.call_net(weights, x), rtol=1e-4, atol=1e-5)
    assert not output.allclose(model.call_net(guide.locs["weights"].detach(), x), atol=0.01)


def test_a_layer_called_by_keyword_has_the_same_noise() -> None:
    class ByKeyword(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            for module in self:
                x = module(input=x)
            return x

    x, outputs = torch.randn(4, 3), []
    for net in (deep(), ByKeyword(*deep())):
        model = BayesianModule(net)
        guide = local_guide(model, x)
        with torch.no_grad():
            guide.locs["weights"].copy_(torch.linspace(-1, 1, model.layout.num_weights))
        pyro.set_rng_seed(3)
        outputs.append(noisy(model, guide, x)[0])
    torch.testing.assert_close(*outputs, rtol=0, atol=0)


def test_vectorised_particles_are_refused() -> None:
    model = BayesianModule(deep(), likelihoods.Normal())
    x, y = torch.randn(4, 3), torch.randn(4, 1)
    loss = pyro.infer.Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    with pytest.raises(ValueError, match="cannot be vectorised over particles"):
        loss.loss(model, local_guide(model, x, y), x, y)


def test_zero_rows_have_finite_gradients() -> None:
    model = BayesianModule(nn.Linear(2, 1, bias=False))
    loc, scale = torch.zeros(2, requires_grad=True), torch.ones(2, requires_grad=True)
    with LocalNoise(local_modules(model.net, model.layout), model.layout, loc, scale, 3) as noise:
        tensors = noise.tensors(loc + scale)
        output = torch.func.functional_call(model.net, tensors, torch.zeros(3, 2))
    output.sum().backward()
    assert bool(scale.grad.isfinite().all()) and float(output.detach().abs().max()) < 1e-6


def test_weights_that_are_not_latent_themselves_are_refused() -> None:
    model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal(), centered=False)
    guide = AutoMeanField(model, local_reparam=True)
    with pytest.raises(ValueError, match="local_reparam: needs a BayesianModule"):
        guide(torch.zeros(3, 2), torch.zeros(3, 1))
    assert not guide.is_set_up
