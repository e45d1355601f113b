# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Nets of operations that people use: what is found, every one of which is proved on the way."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_groupprior.symmetry import find_symmetry

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Between(nn.Module):
    """Six units, something done with them, and a layer that reads the outcome."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], features: int) -> None:
        super().__init__()
        self.a, self.last, self.function = nn.Linear(4, 6), nn.Linear(features, 2), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(torch.tanh(self.a(x)), x))


def _halves(h: Tensor, x: Tensor) -> Tensor:
    return h * torch.cat([torch.zeros(3), torch.ones(3)])


def _where(h: Tensor, x: Tensor) -> Tensor:
    return torch.tanh(torch.where(h > 0, x[:, :1], 0.5) + 0.3)


def _parts(h: Tensor, x: Tensor) -> Tensor:
    return F.layer_norm(h.view(-1, 2, 3), (3,)).flatten(1)


#: What is done, how many features it leaves, sizes of the axes, and how many can be flipped.
CASES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int, list[int], int]] = {
    "nothing": (lambda h, x: h, 6, [6], 1),
    "halves": (_halves, 6, [3, 3], 2),
    "constant": (lambda h, x: h * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), 6, [], 0),
    "number": (lambda h, x: h * torch.tensor(2.0), 6, [6], 1),
    "clamp_below": (lambda h, x: h.clamp(min=-0.5), 6, [6], 0),
    "clamp_both": (lambda h, x: h.clamp(-0.5, 0.5), 6, [6], 1),
    "hardtanh": (lambda h, x: F.hardtanh(3 * h), 6, [6], 1),
    "where": (_where, 6, [6], 0),
    "layer_norm_of_parts": (_parts, 6, [2, 3], 1),
    "group_norm": (lambda h, x: F.group_norm(h[..., None], 2)[..., 0], 6, [2, 3], 0),
    "normalize": (lambda h, x: F.normalize(h, dim=1), 6, [6], 1),
    "largest": (lambda h, x: h.max(1, keepdim=True).values, 1, [6], 0),
    "median": (lambda h, x: h.median(1).values[:, None], 1, [6], 0),
    "sorted": (lambda h, x: h.sort(1).values, 6, [6], 0),
    "topk": (lambda h, x: h.topk(2).values, 2, [6], 0),
    "cumsum": (lambda h, x: h.cumsum(0), 6, [6], 1),
    "cumprod": (lambda h, x: h.cumprod(0), 6, [6], 0),
    "repeat": (lambda h, x: h.repeat(1, 2), 12, [6], 1),
    "rolled_rows": (lambda h, x: h.roll(1, 0), 6, [6], 1),
    "float": (lambda h, x: h.to(torch.float64).float(), 6, [6], 1),
    "masked_row": (lambda h, x: torch.cat([h[:1] * 0, h[1:]]), 6, [6], 1),
    "padded": (lambda h, x: F.pad(h, (1, 2)), 9, [6], 1),
    "pool": (lambda h, x: F.avg_pool1d(h[:, None], 2)[:, 0], 3, [], 0),
    "unbatched_pool": (lambda h, x: F.avg_pool2d(h.view(3, 2, 3), (1, 3)).flatten(1), 2, [], 0),
    "cosine": (lambda h, x: F.cosine_similarity(h, h.flip(0), dim=1)[:, None], 1, [6], 1),
    "cdist_by_hand": (lambda h, x: (h[:, None] - h[None]).square().sum(-1), 3, [6], 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operations(name: str) -> None:
    function, features, sizes, signs = CASES[name]
    symmetry = find_symmetry(Between(function, features), X)
    own = {a: n for a, n in symmetry.axes.items() if a.startswith("a")}
    assert sorted(own.values()) == sizes
    assert sum(axis in own for axis in symmetry.signs.values()) == signs


def test_layers_that_make_units_of_two_inputs() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 5)
            self.both, self.last = nn.Bilinear(6, 5, 7), nn.Linear(7, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(self.both(self.a(x), self.b(x))))

    assert sorted(find_symmetry(Net(), X).axes.values()) == [5, 6, 7]


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bags_of_words(mode: str) -> None:
    net = nn.Sequential(nn.EmbeddingBag(10, 6, mode=mode), nn.ReLU(), nn.Linear(6, 2))
    symmetry = find_symmetry(net, torch.arange(12).reshape(3, 4) % 10)
    assert list(symmetry.axes.values()) == [6]


def test_norms_of_weights() -> None:
    first = nn.utils.parametrizations.weight_norm(nn.Linear(4, 6))
    symmetry = find_symmetry(nn.Sequential(first, nn.Tanh(), nn.Linear(6, 2)), X)
    assert sorted(symmetry.axes.values()) == [6]


def test_parts_that_are_the_same_do_not_hide_those_that_are_not() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c, self.d = nn.Linear(4, 6), nn.Linear(4, 3), nn.Linear(4, 3)
            self.e, self.last = nn.Linear(4, 3), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            one = torch.cat([torch.ones(len(x), 3), self.e(x)], 1)
            two = torch.cat([self.c(x), self.d(x)], 1)
            return self.last(torch.relu(self.a(x) + one + two))

    assert sorted(find_symmetry(Net(), X).axes.values()) == [3, 3]


def test_what_is_not_known_is_refused_by_name() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft(x).abs()

    net = nn.Sequential(nn.Linear(4, 6), Odd(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"as '1' \(Odd\) runs _fft_r2c, of which it is not known"):
        find_symmetry(net, X)
