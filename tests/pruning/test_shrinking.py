# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Smaller nets, against the whole net with the weights of what was taken out at zero."""

import pytest
import torch
from torch import nn

from pyro_groupprior.pruning import keep_units, shrink, shrinkable_axes
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


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent_layers_shrink(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = Read(kind)
    x = torch.randn(4, 3, 5)
    symmetry = find_symmetry(net, x)
    kept = dict.fromkeys(symmetry.axes, torch.tensor([0, 1, 4]))
    small = shrink(net, symmetry, kept, x)
    assert (small.layer.input_size, small.layer.hidden_size) == (3, 3)
    # Units that others do not hear of are not missed.
    gone = torch.tensor([2, 3, 5])
    for name in ("last.weight", "layer.weight_ih_l0", "layer.weight_hh_l0"):
        net.get_parameter(name).data[:, gone] = 0.0
    torch.testing.assert_close(small(x), net(x))


class Read(nn.Module):
    """A recurrent layer that reads another."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 2)
        self.layer = kind(6, 6, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.layer(torch.relu(self.first(x)))[0])


def test_more_modules_know_their_sizes() -> None:
    net = nn.Sequential(
        nn.Linear(3, 6), nn.PReLU(6), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 2)
    ).eval()
    x = torch.randn(4, 3)
    symmetry = find_symmetry(net, x)
    (axis,) = symmetry.axes
    small = shrink(net, symmetry, {axis: torch.tensor([1, 4])}, x)
    assert (small[1].num_parameters, small[2].num_features) == (2, 2)
    assert small[3].in_features == 2
    for one, other in zip(net.parameters(), small.parameters(), strict=True):
        assert one.data_ptr() != other.data_ptr()


def test_attention_keeps_its_width() -> None:
    make, x, _, _ = NETS["transformer"]
    net = make()
    symmetry = find_symmetry(net, x)
    axes = shrinkable_axes(net, symmetry)
    assert [symmetry.axes[axis] for axis in axes] == [16, 16]
    scores = {name: value.abs() for name, value in net.named_parameters()}
    small = shrink(net, symmetry, keep_units(scores, symmetry, 0.5, axes), x)
    assert small[1].linear1.out_features == 8
    with pytest.raises(ValueError, match=r"got '.*', whose size cannot change"):
        shrink(net, symmetry, keep_units(scores, symmetry, 0.5), x)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_constant_units_leave_their_constants(kind: str) -> None:
    torch.manual_seed(0)
    net: nn.Sequential
    if kind == "linear":
        x = torch.randn(20, 3)
        net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    else:
        x = torch.randn(4, 1, 6, 6)
        norm = nn.BatchNorm2d(5)
        nn.init.uniform_(norm.bias)
        net = nn.Sequential(nn.Conv2d(1, 5, 3), norm, nn.ReLU(), nn.Conv2d(5, 2, 3))
        net.eval()
    symmetry = find_symmetry(net, x)
    net[0].weight.data[2:], net[0].bias.data[2:] = 0.0, torch.tensor([1.0, 2.0, 3.0])
    kept = {"0": torch.tensor([0, 1])}
    small = shrink(net, symmetry, kept, x, replace="mean")
    new = torch.randn_like(x)
    torch.testing.assert_close(small(new), net(new))
    assert not torch.allclose(shrink(net, symmetry, kept, x)(new), net(new), atol=0.1)
    assert not net[0]._forward_hooks  # nothing is left behind


def test_means_are_replaced_on_average() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    x = torch.randn(300, 3)
    kept = {"0": torch.tensor([0, 5, 6])}
    small = shrink(net, find_symmetry(net, x), kept, x, replace="mean")
    torch.testing.assert_close(small(x).mean(0), net(x).mean(0))
    expected = net[2].bias + net[2].weight[:, [1, 2, 3, 4, 7]] @ net[:2](x)[
        :, [1, 2, 3, 4, 7]
    ].mean(0)
    torch.testing.assert_close(small[2].bias, expected)


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
    with pytest.raises(TypeError, match=r"kept\['first'\]: expected numbers of units, got torch.b"):
        shrink(net, symmetry, {"first": torch.tensor([True, False, True, True])}, x)
    with pytest.raises(ValueError, match="replace: expected one of"):
        shrink(net, symmetry, {}, x, replace="median")
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        shrink(net, symmetry, {})
    scores = {name: value.detach() for name, value in net.named_parameters()}
    with pytest.raises(ValueError, match="share: expected a number between 0 and 1, got -1"):
        keep_units(scores, symmetry, -1)
    with pytest.raises(ValueError, match="scores: expected some of weights along 'first', got"):
        keep_units({}, symmetry, 0.5)
    with pytest.raises(
        ValueError, match=r"scores\['first.bias'\]: expected numbers of shape \(4,\)"
    ):
        keep_units({**scores, "first.bias": torch.ones(3)}, symmetry, 0.5)
    with pytest.raises(ValueError, match=r"scores\['first.bias'\]: .* with 4 NaN"):
        keep_units({**scores, "first.bias": torch.full((4,), torch.nan)}, symmetry, 0.5)
    with pytest.raises(ValueError, match=r"axes: expected some of \['first'\], got 'last'"):
        keep_units(scores, symmetry, 0.5, ["last"])


def test_a_bias_that_layers_share_is_not_shifted_twice() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.one, self.two = nn.Linear(3, 6), nn.Linear(6, 2), nn.Linear(6, 2)
            self.two.bias = self.one.bias

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.first(x).relu()
            return self.one(hidden) + self.two(hidden)

    net, x = Shared(), torch.randn(300, 3)
    symmetry = find_symmetry(net, x)
    (axis,) = symmetry.axes
    kept = {axis: torch.arange(3)}
    zero, mean = (shrink(net, symmetry, kept, x, replace=r) for r in ("zero", "mean"))
    torch.testing.assert_close(mean(x), zero(x))  # nothing that could be shifted
    single = shrink(net, symmetry, kept, x[0], replace="mean")  # one row without a batch
    assert single(x).shape == (300, 2)
