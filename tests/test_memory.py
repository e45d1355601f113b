# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Predictions in chunks that keep to the memory allowed, and on the model's device."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_groupprior import AutoLowRank, AutoMeanField, BayesianModule, likelihoods, predict
from pyro_groupprior.memory import chunk_sizes

from .nn.nets import LastState
from .predictions import DRAWS, made


def test_a_small_memory_is_kept_to() -> None:
    """The chunks that the net truly sees."""
    sizes: list[int] = []

    class Seen(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            inner = self.weight
            while torch._C._functorch.is_batchedtensor(inner):
                inner = torch._C._functorch.get_unwrapped(inner)
                sizes.append(len(inner))
            return super().forward(x)

    model = BayesianModule(Seen(3, 2), likelihoods.Normal(noise=1.0))
    per_draw = 4 * (8 + 7 * 2)
    predict(
        model, {"weights": torch.randn(20, 8)}, torch.randn(7, 3), max_memory=6.5 * per_draw / 2**30
    )
    assert sizes == [6, 6, 6, 2]


def storages(values: Any) -> list[torch.UntypedStorage]:
    return [v.untyped_storage() for v in tree_leaves(values) if isinstance(v, Tensor)]


class Largest(TorchDispatchMode):
    """The largest new tensor that any operation makes, in bytes."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        seen = {storage.data_ptr() for storage in storages((args, kwargs))}
        new = [s.nbytes() for s in storages(result) if s.data_ptr() not in seen]
        self.bytes = max([self.bytes, *new])
        return result


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("kind", [AutoMeanField, AutoLowRank, AutoNormal])
def test_draws_of_a_guide_keep_to_the_memory(kind: type, centered: bool) -> None:
    """Half as much as all draws of the weights take, and room for their making."""
    pyro.clear_param_store()
    model = BayesianModule(nn.Linear(1000, 2), likelihoods.Normal(), centered=centered)
    guide, x, num = kind(model), torch.randn(3, 1000), 50
    predict(model, guide, x, num_draws=1)
    weights = 4 * num * model.layout.num_weights
    with Largest() as largest:
        prediction = predict(model, guide, x, num, max_memory=weights / 2 / 2**30)
    assert weights / 50 < largest.bytes <= weights / 2
    # Every draw is a new one, and the noise goes with it.
    assert prediction.outputs.shape == (num, 3, 2)
    assert prediction.outputs[:, 0, 0].unique().numel() == num
    assert prediction.distribution.scale.unique().numel() == num


def test_given_draws_are_not_copied() -> None:
    model = BayesianModule(nn.Linear(1000, 2), likelihoods.Normal(noise=1.0))
    draws = {"weights": torch.randn(5, 10, model.layout.num_weights)}
    size = draws["weights"].nbytes
    with Largest() as largest:
        predict(model, draws, torch.randn(3, 1000), max_memory=size / 5 / 2**30)
    assert largest.bytes <= size / 5


def test_weights_and_noise_of_a_draw_stay_together_in_chunks() -> None:
    """A posterior in which the noise is a function of the weights."""

    def guide(x: Tensor) -> None:
        noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
        pyro.sample("weights", dist.Delta(noise.expand(2)).to_event(1))

    model = BayesianModule(nn.Linear(1, 1), likelihoods.Normal())
    for max_memory in (1.0, 1e-7):
        prediction = predict(model, guide, torch.ones(1, 1), 30, max_memory=max_memory)
        noise = prediction.distribution.scale.expand(30, 1, 1)
        torch.testing.assert_close(prediction.outputs, 2 * noise)
        assert noise.unique().numel() == 30


@pytest.mark.parametrize(
    ("net", "shape", "size"),
    [
        # All hidden states, the last state and the last cell; then the net's own layer.
        (LastState(nn.LSTM), (7, 5, 3), 7 * 5 * 4 + 2 * 7 * 4 + 7),
        # The attention itself has a layer that is never called; its weights are an output.
        (nn.MultiheadAttention(4, 2, batch_first=True), (7, 5, 4), 7 * 5 * 4 + 7 * 5 * 5),
        (nn.LSTM(3, 6, batch_first=True), (7, 5, 3), 7 * 5 * 6 + 2 * 7 * 6),
        # What containers pass on counts once, what works in place not at all.
        (nn.Sequential(nn.Sequential(nn.Linear(3, 5)), nn.ReLU(inplace=True)), (7, 3), 35),
    ],
)
def test_all_outputs_count(net: nn.Module, shape: tuple[int, ...], size: int) -> None:
    model = BayesianModule(net, likelihoods.Normal())
    x = torch.randn(shape)
    inputs = [x, x, x] if isinstance(net, nn.MultiheadAttention) else x
    weights = model.initial_weights()
    gib = 4 * (weights.numel() + size) / 2**30
    assert chunk_sizes(model, weights, inputs, 10.5 * gib, 1) == (10, 10)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("device", ["meta", "cuda"])
def test_inputs_and_draws_are_moved_to_the_model(device: str, given: bool) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    model, draws, x = made(likelihoods.Normal())
    expected = predict(model, draws, x).mean
    guide = AutoMeanField(model)
    guide.setup(x, torch.zeros(7, 2))
    model.to(device), guide.to(device)
    # Chunks, too: 20 draws of the weights alone take more.
    for max_memory in (1.0, 1e-6):
        with pyro.validation_enabled(device == "cuda"):  # meta tensors have no values to look at
            prediction = predict(model, draws if given else guide, x, DRAWS, max_memory)
        assert prediction.outputs.shape == (DRAWS, 7, 2)
        assert prediction.sd.device.type == prediction.sample().device.type == device
    if given and device == "cuda":
        torch.testing.assert_close(prediction.mean.cpu(), expected, rtol=1e-3, atol=1e-4)
