# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""First groupings against groups counted by hand, and against what each weight truly does."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.init import _calculate_fan_in_and_fan_out
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_groupprior import Assignment, BayesianModule
from pyro_groupprior.nn.grouping import GROUPINGS, initial_assignment
from pyro_groupprior.nn.selection import owned_parameters


def groups(net: nn.Module, grouping: object, **options: object) -> list[int]:
    return BayesianModule(net, grouping=grouping, **options).assignment.index.tolist()


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))


def repeat(values: list[int], times: int) -> list[int]:
    """Every value several times in a row."""
    return [value for value in values for _ in range(times)]


@pytest.mark.parametrize(
    ("grouping", "expected"),
    [
        ("all", [0] * 13),
        ("tensor", [0] * 6 + [1] * 3 + [2] * 3 + [3]),
        ("layer", [0] * 9 + [1] * 4),
        ("row", [0, 0, 1, 1, 2, 2, 0, 1, 2, 3, 3, 3, 3]),
        ("column", [0, 1, 0, 1, 0, 1, 2, 2, 2, 3, 4, 5, 6]),
        ("channel", [0] * 9 + [1] * 4),
        ("head", [0] * 9 + [1] * 4),
        (list(range(13)), list(range(13))),
        (torch.arange(13) % 5, [i % 5 for i in range(13)]),
        (lambda layout: torch.arange(layout.num_weights) // 7, [0] * 7 + [1] * 6),
        (
            lambda layout: Assignment(torch.cat([torch.full((e.size,), e.size) for e in layout])),
            [6] * 6 + [3] * 6 + [1],
        ),
    ],
)
def test_linear(grouping: object, expected: list[int]) -> None:
    assert groups(mlp(), grouping) == expected


def test_a_ready_assignment_is_kept_as_it_is() -> None:
    soft = Assignment.from_dense(torch.rand(13, 4).softmax(1), top_k=2)
    assert BayesianModule(mlp(), grouping=soft).assignment == soft


LSTM_ROWS = list(range(8))
HAND = {
    # weight [6, 1, 1, 2] in two blocks of channels, bias [6]
    ("conv", "row"): repeat(list(range(6)), 4) + list(range(6)),
    ("conv", "column"): [0, 0, 1, 1] * 3 + [2, 2, 3, 3] * 3 + [4] * 6,
    ("conv", "channel"): repeat(list(range(6)), 4) + list(range(6)),
    # weight [4, 3, 2]: inputs first; outputs 0-2 from inputs 0 and 1, 3-5 from 2 and 3
    ("transposed", "row"): repeat([0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5], 2) + list(range(6)),
    ("transposed", "column"): repeat([0, 1, 2, 3], 6) + [4] * 6,
    ("transposed", "channel"): repeat([0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5], 2) + list(range(6)),
    # weight [2, 2, 3], bias [2]: an input is a pair
    ("bilinear", "row"): [0] * 6 + [1] * 6 + [0, 1],
    ("bilinear", "column"): list(range(6)) * 2 + [6, 6],
    # weight [4, 2]: tokens are read, features are fed
    ("embedding", "row"): [0, 1] * 4,
    ("embedding", "column"): [0, 0, 1, 1, 2, 2, 3, 3],
    # input [8, 3], state [8, 2], two biases [8]: 4 gates of 2 units
    ("lstm", "row"): repeat(LSTM_ROWS, 3) + repeat(LSTM_ROWS, 2) + LSTM_ROWS * 2,
    ("lstm", "column"): [0, 1, 2] * 8 + [3, 4] * 8 + [5] * 16,
    ("lstm", "layer"): [0] * 56,
    ("lstm", "head"): [0] * 56,
    # two directions, projected from 2 to 1: input [8, 3], state [8, 1], biases, projection [1, 2]
    ("projected", "layer"): [0] * 48 + [1] * 2 + [2] * 48 + [3] * 2,
    # in [12, 4], its bias [12], out [4, 4], its bias [4]; 2 heads of 2 units
    ("attention", "head"): repeat([0, 0, 1, 1] * 3, 4)
    + [0, 0, 1, 1] * 3
    + [2, 2, 3, 3] * 4
    + [4] * 4,
    ("attention", "row"): repeat(list(range(12)), 4)
    + list(range(12))
    + repeat([12, 13, 14, 15], 4)
    + [12, 13, 14, 15],
    ("attention", "column"): [0, 1, 2, 3] * 12 + [4] * 12 + [5, 6, 7, 8] * 4 + [9] * 4,
    ("attention", "layer"): [0] * 60 + [1] * 20,
    # two parameters of its own: a vector without a weight beside it
    ("vector", "row"): [0, 1, 2],
}
HAND_NETS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(4, 6, (1, 2), groups=2),
    "transposed": lambda: nn.ConvTranspose1d(4, 6, 2, groups=2),
    "bilinear": lambda: nn.Bilinear(2, 3, 2),
    "embedding": lambda: nn.Embedding(4, 2),
    "lstm": lambda: nn.LSTM(3, 2),
    "projected": lambda: nn.LSTM(3, 2, bidirectional=True, proj_size=1),
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "vector": lambda: nn.PReLU(3),
}


@pytest.mark.parametrize(("name", "grouping"), HAND)
def test_other_layers(name: str, grouping: str) -> None:
    assert groups(HAND_NETS[name](), grouping) == HAND[name, grouping]


def test_attention_with_inputs_of_different_width() -> None:
    """Query, key and value are different units; key and value read inputs of their own."""
    net = nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True)
    model = BayesianModule(net, grouping="row")
    index = model.layout.unpack(model.assignment.index)
    for part, name in enumerate(("q_proj_weight", "k_proj_weight", "v_proj_weight")):
        assert index[name][:, 0].tolist() == [4 * part + unit for unit in range(4)]
        assert bool((index[name] == index[name][:, :1]).all())
    assert index["in_proj_bias"].tolist() == list(range(12))
    assert index["bias_k"].flatten().tolist() == [4, 5, 6, 7]
    assert index["bias_v"].flatten().tolist() == [8, 9, 10, 11]
    model = BayesianModule(net, grouping="column")
    index = model.layout.unpack(model.assignment.index)
    own = ("q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias")
    sets = [set(index[name].flatten().tolist()) for name in own]
    assert [len(s) for s in sets] == [4, 3, 5, 1]
    assert all(not a & b for a, b in itertools.combinations(sets, 2))
    heads = BayesianModule(net, grouping="head")
    index = heads.layout.unpack(heads.assignment.index)
    for name in own[:3]:
        assert index[name][:, 0].tolist() == [0, 0, 1, 1]
    assert index["bias_k"].flatten().tolist() == [0, 0, 1, 1]


LINEAR_MAPS = {
    "linear": (lambda: nn.Linear(3, 4), (1, 3)),
    "conv1d": (lambda: nn.Conv1d(4, 2, 3, groups=2), (1, 4, 6)),
    "conv2d": (lambda: nn.Conv2d(6, 9, 2, groups=3, dilation=2), (1, 6, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, (1, 2, 2)), (1, 2, 3, 3, 3)),
    "depthwise": (lambda: nn.Conv1d(3, 6, 2, groups=3), (1, 3, 5)),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), (1, 4, 5)),
    "transposed2d": (lambda: nn.ConvTranspose2d(2, 3, 2), (1, 2, 4, 4)),
    "transposed3d": (lambda: nn.ConvTranspose3d(4, 2, 2, groups=2), (1, 4, 3, 3, 3)),
}


@pytest.mark.parametrize("name", LINEAR_MAPS)
def test_rows_and_columns_say_what_a_weight_connects(name: str) -> None:
    """With all others at zero, a weight carries its column's input to its row's output only."""
    make, shape = LINEAR_MAPS[name]
    rows, columns = (BayesianModule(make(), grouping=g) for g in ("row", "column"))
    num_inputs = shape[1]
    for weight in range(rows.layout.num_weights):
        row, column = int(rows.assignment.index[weight]), int(columns.assignment.index[weight])
        flat = torch.zeros(rows.layout.num_weights)
        flat[weight] = 1.0
        x = torch.ones(shape, requires_grad=True)
        out = rows.call_net(flat, x)
        assert out.detach().transpose(0, 1).flatten(1).any(1).nonzero().flatten().tolist() == [row]
        (slope,) = torch.autograd.grad(out.sum(), x)
        read = slope.transpose(0, 1).flatten(1).any(1).nonzero().flatten().tolist()
        assert read == ([] if column == num_inputs else [column])


@pytest.mark.parametrize("make", [nn.Embedding, nn.EmbeddingBag])
def test_rows_and_columns_of_embeddings(make: type[nn.Module]) -> None:
    """With all others at zero, a weight turns its column's token into its row's feature only."""
    rows, columns = (BayesianModule(make(5, 3), grouping=g) for g in ("row", "column"))
    tokens = torch.arange(5).reshape(5, 1)
    for weight in range(15):
        out = rows.call_net(torch.eye(15)[weight], tokens).reshape(5, 3)
        read_and_fed = [[int(columns.assignment.index[weight]), int(rows.assignment.index[weight])]]
        assert out.nonzero().tolist() == read_and_fed


class Allocated(TorchDispatchMode):
    """Counts the bytes of all tensors made on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, torch.UntypedStorage] = {}  # kept, so that none is reused

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage.data_ptr()] = storage
        return out

    @property
    def num_bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.storages.values())


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_a_grouping_takes_no_memory_beside_its_indices(grouping: str) -> None:
    """25 million weights must not sort, or even hold, as many int64 keys."""
    net = nn.Sequential(nn.Linear(300, 200), nn.Conv1d(100, 60, 9), nn.MultiheadAttention(100, 4))
    owned, layout = list(owned_parameters(net)), BayesianModule(net).layout
    with Allocated() as allocated:
        assignment = initial_assignment(grouping, net, owned, layout)
    assert 4 * layout.num_weights < allocated.num_bytes < 1.3 * 4 * layout.num_weights
    assert assignment.index.unique().tolist() == list(range(assignment.num_groups))


@pytest.mark.parametrize("name", LINEAR_MAPS)
def test_fan_in_counts_the_inputs_of_a_unit(name: str) -> None:
    """The sum of an inner output over all ones with unit weights, without its bias."""
    make, shape = LINEAR_MAPS[name]
    model = BayesianModule(make())
    flat = model.layout.unpack(torch.ones(model.layout.num_weights))
    flat["bias"] *= 0
    out = model.call_net(model.layout.pack(flat), torch.ones(shape))
    expected = torch.full_like(model.base_scale, 1 / math.sqrt(out.max()))
    torch.testing.assert_close(model.base_scale, expected)
    if "transposed" not in name:  # of which torch's function knows nothing
        fan_in, _ = _calculate_fan_in_and_fan_out(model.net.weight)
        assert fan_in == out.max()


@pytest.mark.parametrize(
    ("make", "fan_in"),
    [
        (lambda: nn.Bilinear(3, 2, 4), {"weight": 6, "bias": 6}),
        (lambda: nn.Embedding(5, 3), {"weight": 1}),
        (lambda: nn.GRU(3, 2), {"weight_ih_l0": 3, "weight_hh_l0": 2, "bias_ih_l0": 3}),
        (lambda: nn.MultiheadAttention(4, 2), {"in_proj_weight": 4, "out_proj.bias": 4}),
        (lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=5), {"k_proj_weight": 3}),
    ],
)
def test_fan_in_of_other_layers(make: Callable[[], nn.Module], fan_in: dict[str, int]) -> None:
    model = BayesianModule(make())
    scales = model.layout.unpack(model.base_scale)
    for name, number in fan_in.items():
        assert scales[name].unique().tolist() == pytest.approx([number**-0.5])
        weight = model.net.get_parameter(name)
        if weight.dim() > 1 and not isinstance(model.net, nn.Embedding):
            assert _calculate_fan_in_and_fan_out(weight)[0] == number


@pytest.mark.parametrize("head", [0, 1, 2])
def test_heads_compute_by_themselves(head: int) -> None:
    """What a head puts out depends on the weights of that head only."""
    net = nn.MultiheadAttention(6, 3, batch_first=True)
    model = BayesianModule(net, grouping="head")
    named = model.layout.unpack(model.initial_weights() + 0.1)
    named["out_proj.weight"] = torch.eye(6)
    flat = model.layout.pack(named).requires_grad_()
    x = torch.randn(2, 4, 6)
    out = model.call_net(flat, (x, x, x))[0][..., 2 * head : 2 * head + 2]
    (slope,) = torch.autograd.grad(out.square().sum(), flat)
    index = model.layout.unpack(model.assignment.index)
    used: Tensor = model.layout.unpack(slope)["in_proj_weight"] != 0
    assert bool(used.any()) and set(index["in_proj_weight"][used].tolist()) == {head}
    reads = index["out_proj.weight"][:, 2 * head : 2 * head + 2].unique().tolist()
    assert reads == [3 + head]


def test_each_part_of_a_deep_net_has_its_own_layers() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    model = BayesianModule(nn.TransformerEncoder(layer, 2), grouping="layer")
    index = model.layout.unpack(model.assignment.index)
    by_layer = [set(index[n].flatten().tolist()) for n in index if n.endswith("weight")]
    assert by_layer == [{number} for number in range(8)]


@pytest.mark.parametrize(
    ("base_scale", "expected"),
    [("fan_in", [3**-0.5] * 4), (0.5, [0.5] * 4), (torch.tensor([1.0, 2, 3, 4]), [1, 2, 3, 4])],
)
def test_base_scale(base_scale: object, expected: list[float]) -> None:
    model = BayesianModule(nn.Linear(3, 1), base_scale=base_scale)
    assert model.base_scale.tolist() == pytest.approx(expected)
    assert model.base_scale.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"grouping": "unit"}, ValueError, "grouping: expected one of .*got 'unit'"),
        ({"grouping": 3}, TypeError, "indices or an Assignment, got int"),
        ({"grouping": lambda layout: "row"}, TypeError, "got str"),
        ({"grouping": [0, 1]}, ValueError, "expected one for 4 weights, got one for 2"),
        ({"grouping": torch.tensor([0, 1, -1, 0])}, ValueError, "got -1"),
        ({"grouping": torch.zeros(4)}, TypeError, "integer"),
        ({"base_scale": "fan_out"}, ValueError, "got 'fan_out'"),
        ({"base_scale": 0.0}, ValueError, "base_scale: expected finite positive"),
        ({"base_scale": torch.tensor([1.0, 1, 1, torch.nan])}, ValueError, "finite positive"),
        ({"base_scale": torch.ones(5)}, ValueError, r"shape \[4\], got \(5,\)"),
    ],
)
def test_refusals(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BayesianModule(nn.Linear(3, 1), **options)
