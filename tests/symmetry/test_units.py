# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from torch import nn

from pyro_groupprior import BayesianModule
from pyro_groupprior.symmetry import posterior_symmetry, unit_blocks

from .nets import NETS


def test_by_hand() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 2)
    )
    model = BayesianModule(net)
    symmetry = posterior_symmetry(model, torch.randn(1, 1, 3, 3))
    assert symmetry.axes == {"0": 2, "3": 3}
    blocks = unit_blocks(symmetry, model.layout)
    expected = [0] * 4 + [1] * 4 + [0, 1] + [2] * 8 + [3] * 8 + [4] * 8 + [2, 3, 4]
    expected += [2, 3, 4, 2, 3, 4, 5, 5]
    assert blocks.tolist() == expected


def test_what_reads_channels_and_places_is_their_channels() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1))
    model = BayesianModule(net)
    blocks = unit_blocks(posterior_symmetry(model, torch.randn(1, 1, 3, 3)), model.layout)
    assert model.layout.unpack(blocks)["3.weight"].tolist() == [[0] * 4 + [1] * 4]


@pytest.mark.parametrize("name", ["mlp", "attention", "concatenated", "tied", "lstm"])
def test_exchanging_two_units_exchanges_their_blocks(name: str) -> None:
    make, x, _, _ = NETS[name]
    model = BayesianModule(make(), grouping="layer")
    symmetry = posterior_symmetry(model, x)
    layout = model.layout
    blocks = unit_blocks(symmetry, layout)
    for axis in symmetry.axes:
        one = symmetry.only(axis)
        named = layout.unpack(blocks, aliases=True)
        moved = layout.pack(one.apply(named, one.random(torch.Generator().manual_seed(1))))
        sizes = blocks.bincount().tolist()
        assert sorted(moved.bincount().tolist()) == sorted(sizes)
        if name in ("mlp", "concatenated"):  # no axis comes twice in a tensor
            pairs = torch.stack([blocks, moved]).unique(dim=1)
            assert pairs.shape[1] == len(sizes)
