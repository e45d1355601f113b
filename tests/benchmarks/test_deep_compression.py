# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The plain nets that shared posteriors are held against."""

import torch
from torch import nn

from benchmarks import deep_compression as plain
from benchmarks.images import Loader

HOW = plain.Training(rate=1e-2, decay=1e-2)


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 4)
    )


def rows(number=512):
    torch.manual_seed(1)
    x = torch.randn(number, 1, 8, 8)
    return x, (x[:, 0, :4].mean((1, 2)) > 0).long() + 2 * (x[:, 0, 4:].mean((1, 2)) > 0).long()


def accuracy(model, data):
    with torch.no_grad():
        return float((model(data[0]).argmax(1) == data[1]).float().mean())


def test_pruned_and_shared_nets_keep_their_zeros_and_come_back_from_their_files(tmp_path):
    data, trained = rows(), net()
    plain.train(trained, Loader(data), 20, HOW)
    assert accuracy(trained, data) > 0.9
    pruned = plain.prune(trained, [0.6, 0.4], Loader(data), 5, HOW)
    matrices = [p for p in pruned.parameters() if p.dim() > 1]
    kept = sum(int((p != 0).sum()) for p in matrices)
    assert kept == round(0.4 * sum(p.numel() for p in matrices))
    assert accuracy(pruned, data) > 0.8
    shared = plain.quantise(pruned, 8, Loader(data), 2, 1e-3)
    for before, after in zip(pruned.parameters(), shared.parameters(), strict=True):
        if before.dim() > 1:
            assert torch.equal(before != 0, after != 0)
            assert len(after[after != 0].unique()) <= 8
    sizes = plain.save_values(tmp_path / "values", shared)
    again = plain.load_values(tmp_path / "values", net())
    for before, after in zip(
        shared.state_dict().values(), again.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(before, after, atol=2e-3, rtol=2e-3)
        assert not bool((after[before == 0] != 0).any())
    size = (tmp_path / "values").stat().st_size
    assert sizes["index"] < size < 1200


def test_pruned_in_many_steps():
    data, trained = rows(), net()
    plain.train(trained, Loader(data), 20, HOW)
    pruned = plain.prune_gradually(trained, 0.3, Loader(data), 60, 5, HOW)
    matrices = [p for p in pruned.parameters() if p.dim() > 1]
    size = sum(p.numel() for p in matrices)
    assert sum(int((p != 0).sum()) for p in matrices) == round(0.3 * size)
    assert accuracy(pruned, data) > 0.8


def test_pruned_by_units_too():
    torch.manual_seed(0)
    data = rows()
    trained = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 4)
    )
    plain.train(trained, Loader(data), 20, HOW)
    pruned = plain.prune_gradually(trained, 0.1, Loader(data), 60, 5, HOW, {"1": 0.25})
    rows_left = (pruned[1].weight != 0).any(1)
    assert int(rows_left.sum()) == 5
    assert not bool((pruned[3].weight[:, ~rows_left] != 0).any())
    matrices = [p for p in pruned.parameters() if p.dim() > 1]
    kept, size = sum(int((p != 0).sum()) for p in matrices), sum(p.numel() for p in matrices)
    assert kept == round(0.1 * size)
    assert int((pruned[3].weight != 0).any(1).sum()) > 2  # the other axis is not pruned by units
    assert accuracy(pruned, data) > 0.8


def test_values_without_zeros_come_back_too(tmp_path):
    shared = plain.quantise(net(), 16, Loader(rows()), 0, 1e-3)
    plain.save_values(tmp_path / "values", shared)
    again = plain.load_values(tmp_path / "values", net())
    torch.testing.assert_close(again[4].weight, shared[4].weight, atol=1e-3, rtol=1e-3)
    # Each value is the mean of its weights.
    first, own = shared[4].weight.flatten(), net()[4].weight.flatten()
    for value in first.unique():
        torch.testing.assert_close(own[first == value].mean(), value, atol=1e-3, rtol=1e-2)


def test_eight_bits(tmp_path):
    plain.save_int8(tmp_path / "int8", net())
    again = plain.load_int8(tmp_path / "int8", net())
    for before, after in zip(net().parameters(), again.parameters(), strict=True):
        if before.dim() > 1:
            bound = before.flatten(1).abs().amax(1) / 254
            assert bool(((before - after).flatten(1).abs().amax(1) <= bound * 1.001).all())
        else:
            assert torch.equal(before, after)


def test_rounding_is_what_the_file_holds_with_statistics_of_the_rounded_net(tmp_path):
    data, own = rows(), net()
    with torch.no_grad():
        own[0].weight.mul_(5.0)
    loader = Loader(data)
    rounded = plain.rounded(own, loader)
    plain.save_int8(tmp_path / "int8", rounded)
    again = plain.load_int8(tmp_path / "int8", net())
    for name, before in rounded.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], before, atol=1e-6, rtol=1e-6)
    with torch.no_grad():
        outputs = rounded[0](data[0])
    torch.testing.assert_close(rounded[1].running_mean, outputs.mean((0, 2, 3)))
    assert torch.equal(own[1].running_mean, torch.zeros(6))


def test_images_are_shifted_and_mirrored_whole():
    x = torch.zeros(64, 2, 12, 12)
    x[:, 0, 5, 6], x[:, 1, 5, 6] = 1.0, 2.0
    moved = next(iter(Loader((x, torch.zeros(64).long()), augment=True)))[0]
    assert moved.shape == x.shape
    assert torch.equal(moved[:, 0].sum((1, 2)), torch.ones(64))
    torch.testing.assert_close(moved[:, 1], 2 * moved[:, 0])
    places = moved[:, 0].flatten(1).argmax(1)
    assert len(places.unique()) > 20


def test_decay_is_of_weights_alone():
    own = net()
    for how in (plain.Training(0.1, 0.5), plain.Training(0.1, 0.5, momentum=0.9)):
        decays = {
            id(parameter): group["weight_decay"]
            for group in how.optimizer(own).param_groups
            for parameter in group["params"]
        }
        for name, parameter in own.named_parameters():
            assert decays[id(parameter)] == (0.5 if name in ("0.weight", "4.weight") else 0.0)
