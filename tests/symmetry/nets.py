# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Nets of every kind, with an input and the sizes of the axes that can be permuted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Recurrent(nn.Module):
    """A recurrent layer, of whose last state an output is made."""

    def __init__(self, kind: Callable[..., nn.Module], **options: bool) -> None:
        super().__init__()
        self.layer = kind(4, 6, 2, batch_first=True, **options)
        self.out = nn.Linear(12 if options else 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x)[0][:, -1])


class Residual(nn.Module):
    """A residual block."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.BatchNorm2d(channels)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.last(self.second(self.act(self.norm(self.first(x))))))


class Concatenated(nn.Module):
    """Each layer reads what all before it have made."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 6), nn.Linear(10, 8), nn.Linear(18, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, torch.relu(self.first(x))], 1)
        return self.third(torch.cat([x, torch.tanh(self.second(x))], 1))


class Tied(nn.Module):
    """An embedding that is also the output's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.middle, self.out = (
            nn.Embedding(11, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 11),
        )
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.middle(self.embedding(x))))


class Attention(nn.Module):
    """Attention written out, with queries, keys and values from one layer."""

    def __init__(self, chunks: bool) -> None:
        super().__init__()
        self.read, self.joint, self.mix = nn.Linear(5, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.out, self.places = nn.Linear(8, 2), nn.Parameter(torch.randn(7, 8))
        self.chunks = chunks

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(x) + self.places
        rows, steps, width = x.shape
        joint = self.joint(x)
        if self.chunks:
            parts = [part.view(rows, steps, 2, 4).transpose(1, 2) for part in joint.chunk(3, -1)]
        else:
            parts = list(joint.view(rows, steps, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0))
        mixed = nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
        mixed = mixed.transpose(1, 2).reshape(rows, steps, width)
        return self.out((x + self.mix(mixed)).mean(1))


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


def _convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 7),
        nn.Tanh(),
        nn.Linear(7, 3),
    )


def _residual(act: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        Residual(6, act),
        Residual(6, act),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def _grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding="same"),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        nn.Conv2d(8, 12, 1, groups=4),
        nn.Tanh(),
        nn.ConvTranspose2d(12, 8, 2, groups=2),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
        nn.GLU(),
        nn.RMSNorm(2),
        nn.GELU(),
        nn.Linear(2, 2),
    )


def _sequence() -> nn.Module:
    return nn.Sequential(
        nn.Embedding(10, 6),
        nn.PReLU(),
        nn.Conv1d(7, 4, 3),
        nn.Softplus(),
        nn.AvgPool1d(2),
        nn.InstanceNorm1d(4),
        nn.Upsample(scale_factor=2),
        nn.ConvTranspose1d(4, 4, 3, groups=2),
        nn.Softsign(),
        nn.Conv1d(4, 2, 2),
    )


def _transformer() -> nn.Module:
    layers = [
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=first)
        for first in (False, True)
    ]
    return nn.Sequential(nn.Linear(4, 8), *layers, nn.Flatten(), nn.Linear(24, 3))


def _shuffled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Tanh(),
        nn.ChannelShuffle(2),
        nn.Conv2d(8, 8, 1),
        nn.PixelShuffle(2),
        nn.Tanh(),
        nn.Conv2d(2, 3, 1),
    )


_GENERATOR = torch.Generator().manual_seed(0)


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=_GENERATOR)


#: Name: how it is made, an input, the sizes of its axes, and how many of them can be flipped.
NETS: dict[str, tuple[Callable[[], nn.Module], Tensor, list[int], int]] = {
    "mlp": (_mlp, _normal(5, 4), [6, 5], 1),
    "convolutional": (_convolutional, _normal(2, 1, 14, 14), [4, 6, 7], 2),
    "residual": (lambda: _residual(nn.ReLU()), _normal(2, 3, 8, 8), [6, 6, 6], 0),
    "residual_tanh": (lambda: _residual(nn.Tanh()), _normal(2, 3, 8, 8), [6, 6, 6], 3),
    "concatenated": (Concatenated, _normal(5, 4), [6, 8], 1),
    "tied": (Tied, torch.arange(11).reshape(1, 11), [8], 1),
    "attention": (lambda: Attention(False), _normal(3, 7, 5), [8, 2, 4], 2),
    "attention_chunks": (lambda: Attention(True), _normal(3, 7, 5), [8, 2, 4, 4], 4),
    "transformer": (_transformer, _normal(5, 3, 4), [8, 2, 4, 16, 2, 4, 16], 2),
    "grouped": (_grouped, _normal(2, 3, 6, 6), [2, 2, 2, 3, 4, 2], 4),
    "sequence": (_sequence, torch.arange(14).reshape(2, 7) % 10, [2, 2, 2], 2),
    "shuffled": (_shuffled, _normal(2, 3, 6, 6), [2, 4, 2], 3),
    "lstm": (lambda: Recurrent(nn.LSTM), _normal(5, 3, 4), [6, 6], 2),
    "lstm_both": (lambda: Recurrent(nn.LSTM, bidirectional=True), _normal(5, 3, 4), [6] * 4, 4),
    "gru": (lambda: Recurrent(nn.GRU), _normal(5, 3, 4), [6, 6], 2),
    "rnn": (lambda: Recurrent(nn.RNN), _normal(5, 3, 4), [6, 6], 2),
}
