# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""One small net of every kind that the package must take, with inputs for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Tied(nn.Module):
    """A language model whose output layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.mix = nn.Linear(4, 4)
        self.out = nn.Linear(4, 6, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.tanh(self.mix(self.embed(tokens))))


class Shared(nn.Module):
    """One layer in two places, and one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.blocks = nn.ModuleList([self.first, nn.Linear(3, 3)])

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        for block in self.blocks:
            x = torch.tanh(block(x))
        return x


class Bare(nn.Module):
    """Parameters of its own, one of them a scalar, beside a nested net."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.5))
        self.kernel = nn.Parameter(torch.randn(3, 2))
        self.inner = nn.Sequential(nn.Linear(2, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.inner(x @ self.kernel)


class TwoInputs(nn.Module):
    """Takes two inputs, by position or by name, and gives a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(2, 3), nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"sum": self.left(a) + self.right(b), "left": self.left(a)}


class SelfAttention(nn.Module):
    """Attention of a sequence to itself, with one output a row."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.out = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attention(x, x, x, need_weights=False)[0].mean(1))


class LastState(nn.Module):
    """A recurrent net with one output a row."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        self.rnn = kind(3, 4, batch_first=True)
        self.out = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0][:, -1])


class Functional(nn.Module):
    """Uses its weights by hand, transposed and twice."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(x @ self.weight), self.weight)


def transformer(dropout: float = 0.0) -> nn.Module:
    """Two layers of a transformer, batch first."""
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=dropout, batch_first=True)
    return nn.TransformerEncoder(layer, 2)


def _memory() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(2, 5, 4), torch.randn(2, 6, 6), torch.randn(2, 6, 5)


def _attention(**options: Any) -> nn.Module:
    return nn.MultiheadAttention(4, 2, batch_first=True, **options)


# By name: a factory of the net, and one of its inputs.
NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "linear": (lambda: nn.Linear(3, 2), lambda: torch.randn(5, 3)),
    "linear_no_bias": (lambda: nn.Linear(3, 2, bias=False), lambda: torch.randn(5, 4, 3)),
    "bilinear": (lambda: nn.Bilinear(3, 2, 4), lambda: (torch.randn(5, 3), torch.randn(5, 2))),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1), lambda: torch.randn(4, 2, 7)),
    "conv2d_groups": (
        lambda: nn.Conv2d(4, 6, (3, 2), groups=2, dilation=2, padding=2, bias=False),
        lambda: torch.randn(3, 4, 6, 6),
    ),
    "conv2d_reflect": (
        lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
        lambda: torch.randn(3, 2, 5, 5),
    ),
    "conv3d": (lambda: nn.Conv3d(1, 2, 3, padding="same"), lambda: torch.randn(2, 1, 3, 4, 4)),
    "conv_transpose1d": (
        lambda: nn.ConvTranspose1d(2, 3, 3, stride=2),
        lambda: torch.randn(4, 2, 5),
    ),
    "conv_transpose2d": (
        lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, dilation=2, output_padding=1, stride=2),
        lambda: torch.randn(3, 4, 4, 4),
    ),
    "conv_transpose3d": (
        lambda: nn.ConvTranspose3d(2, 1, 2, bias=False),
        lambda: torch.randn(2, 2, 2, 3, 3),
    ),
    "embedding": (
        lambda: nn.Embedding(6, 3, padding_idx=0),
        lambda: torch.randint(0, 6, (4, 5)),
    ),
    "embedding_bag": (lambda: nn.EmbeddingBag(6, 3), lambda: torch.randint(0, 6, (4, 5))),
    "rnn": (lambda: nn.RNN(3, 4, nonlinearity="relu"), lambda: torch.randn(5, 2, 3)),
    "gru": (lambda: nn.GRU(3, 4, batch_first=True), lambda: torch.randn(2, 5, 3)),
    "lstm": (
        lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2),
        lambda: torch.randn(5, 2, 3),
    ),
    "lstm_cell": (lambda: nn.LSTMCell(3, 4), lambda: torch.randn(2, 3)),
    "gru_cell": (lambda: nn.GRUCell(3, 4, bias=False), lambda: torch.randn(2, 3)),
    "attention": (_attention, lambda: (x := torch.randn(2, 5, 4), x, x)),
    "attention_kdim": (lambda: _attention(kdim=6, vdim=5, add_bias_kv=True), _memory),
    "attention_kv": (
        lambda: _attention(add_bias_kv=True, bias=False),
        lambda: (x := torch.randn(2, 5, 4), x, x),
    ),
    "transformer": (transformer, lambda: torch.randn(2, 5, 4)),
    "batch_norm": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)),
        lambda: torch.randn(6, 3),
    ),
    "batch_norm2d": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1)),
        lambda: torch.randn(3, 2, 5, 5),
    ),
    "group_norm": (
        lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4), nn.Conv1d(4, 1, 1)),
        lambda: torch.randn(3, 2, 7),
    ),
    "layer_norm": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.PReLU(), nn.Linear(4, 2)),
        lambda: torch.randn(5, 3),
    ),
    "weight_norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 3, 2))),
        lambda: torch.randn(4, 2, 6),
    ),
    "bare": (Bare, lambda: torch.randn(5, 3)),
    "functional": (Functional, lambda: torch.randn(5, 3)),
    "shared": (Shared, lambda: torch.randn(5, 3)),
    "tied": (Tied, lambda: torch.randint(0, 6, (4, 5))),
    "tuple_inputs": (TwoInputs, lambda: (torch.randn(5, 2), torch.randn(5, 4))),
    "dict_inputs": (TwoInputs, lambda: {"b": torch.randn(5, 4), "a": torch.randn(5, 2)}),
}


def make(name: str) -> tuple[nn.Module, Any]:
    """A net of :data:`NETS` and its inputs."""
    net, inputs = NETS[name]
    return net(), inputs()


def call(net: nn.Module, inputs: Any) -> Any:
    """The net as its user calls it."""
    if isinstance(inputs, dict):
        return net(**inputs)
    return net(*inputs) if isinstance(inputs, tuple) else net(inputs)


def tensors(output: Any) -> list[Tensor]:
    """All tensors of a net's output, in order."""
    if isinstance(output, Tensor):
        return [output]
    if output is None:
        return []
    parts = output.values() if isinstance(output, dict) else output
    return [tensor for part in parts for tensor in tensors(part)]
