# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Smaller nets, against the whole net with the weights of what was taken out at zero."""

import pytest
import torch
from torch import nn

from pyro_groupprior.pruning import keep_units, shrink
from pyro_groupprior.symmetry import find_symmetry
from pyro_groupprior.symmetry.spec import positions
from tests.symmetry.nets import NETS

#: Of these a unit whose weights are all zero has no effect on any other.
SILENT = ["mlp", "convolutional", "residual", "residual_tanh", "concatenated", "tied"]


@pytest.mark.parametrize("name", SILENT)
def test_smaller_nets_compute_what_is_left(name: str) -> None:
    make, x, _, _ = NETS[name]
    net = make().eval()
    symmetry = find_symmetry(net, x)
    generator = torch.Generator().manual_seed(0)
    for axis, size in symmetry.axes.items():
        order = torch.randperm(size, generator=generator)
        kept = order[: size // 2].sort().values
        small = shrink(net, symmetry, {axis: kept}, x)
        whole = make().eval()
        whole.load_state_dict(net.state_dict())
        rest = {other: torch.arange(number) for other, number in symmetry.axes.items()}
        rest[axis] = kept
        with torch.no_grad():
            state = dict(whole.named_parameters(remove_duplicate=False))
            for key, dims in symmetry.tensors.items():
                for number, dim in enumerate(dims):
                    place = positions(dim, rest)
                    if place is not None and key in state:
                        gone = torch.ones(dim.size, dtype=torch.bool)
                        gone[place] = False
                        state[key].index_fill_(number, gone.nonzero()[:, 0], 0.0)
        torch.testing.assert_close(small(x), whole(x), rtol=1e-4, atol=1e-5)
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())


def test_modules_know_their_sizes() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(),
        nn.Flatten(), nn.Linear(24, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2),
    )  # fmt: skip
    x = torch.randn(2, 1, 6, 6)
    symmetry = find_symmetry(net, x)
    kept = {"0": torch.tensor([1, 2, 5]), "6": torch.tensor([0, 7])}
    assert [str(module) for module in shrink(net, symmetry, kept, x)] == [
        "Conv2d(1, 3, kernel_size=(3, 3), stride=(1, 1))",
        "BatchNorm2d(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)",
        "ReLU()",
        "Conv2d(3, 3, kernel_size=(3, 3), stride=(1, 1), groups=3)",
        "ReLU()",
        "Flatten(start_dim=1, end_dim=-1)",
        "Linear(in_features=12, out_features=2, bias=True)",
        "LayerNorm((2,), eps=1e-05, elementwise_affine=True, bias=True)",
        "ReLU()",
        "Linear(in_features=2, out_features=2, bias=True)",
    ]
    assert str(net[0]).startswith("Conv2d(1, 6")  # the net itself is as it was


def test_recurrent_layers_shrink() -> None:
    make, x, _, _ = NETS["gru"]
    net = make()
    symmetry = find_symmetry(net, x)
    small = shrink(net, symmetry, dict.fromkeys(symmetry.axes, torch.tensor([0, 1, 4])), x)
    assert small.layer.hidden_size == 3
    assert small(x).shape == net(x).shape


def test_units_with_the_highest_scores_stay() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    symmetry = find_symmetry(net, torch.randn(1, 2))
    scores = {
        "0.weight": torch.tensor([[1.0, 1.0], [0.0, 3.0], [2.0, 2.0], [0.0, 0.0]]),
        "0.bias": torch.tensor([0.0, 0.0, 0.0, 5.0]),
        "2.weight": torch.tensor([[9.0, 0.0, 1.0, 0.0]]),
        "2.bias": torch.tensor([100.0]),
    }  # sums: 11, 3, 5, 5
    assert keep_units(scores, symmetry, 0.25)["0"].tolist() == [0]
    assert sorted(keep_units(scores, symmetry, 0.75)["0"].tolist()) == [0, 2, 3]
    assert keep_units(scores, symmetry, 0.0)["0"].tolist() == [0]
    assert keep_units(scores, symmetry, 1.0)["0"].tolist() == [0, 1, 2, 3]


class Fixed(nn.Module):
    """A net with a size written into it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 4), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x)).reshape(len(x), 4))


def test_numbers_that_no_longer_fit_are_noticed() -> None:
    net = nn.Sequential(nn.Conv2d(1, 8, 1), nn.ChannelShuffle(2), nn.Conv2d(8, 2, 1, groups=2))
    x = torch.randn(1, 1, 2, 2)
    symmetry = find_symmetry(net, x)
    # Channels are two halves, of two groups each, of two: one half is left, which the shuffle
    # takes for both.
    with pytest.raises(ValueError, match="net: it does not work with fewer units"):
        shrink(net, symmetry, {"0": torch.tensor([0])}, x)
    small = shrink(net, symmetry, {"0:1": torch.tensor([0])}, x)
    assert small[0].out_channels == 4


def test_bad_input() -> None:
    net, x = Fixed(), torch.randn(3, 2)
    symmetry = find_symmetry(net, x)
    assert list(symmetry.axes) == ["first"]
    with pytest.raises(ValueError, match="net: it does not work with fewer units"):
        shrink(net, symmetry, {"first": torch.tensor([0])}, x)
    with pytest.raises(ValueError, match=r"kept: expected some of \['first'\], got 'second'"):
        shrink(net, symmetry, {"second": torch.tensor([0])}, x)
    for wrong in ([], [0, 0], [4]):
        with pytest.raises(
            ValueError, match=r"kept\['first'\]: expected some of 0 to 3, once each"
        ):
            shrink(net, symmetry, {"first": torch.tensor(wrong)}, x)
    with pytest.raises(ValueError, match="share: expected a number between 0 and 1, got -1"):
        keep_units({}, symmetry, -1)
