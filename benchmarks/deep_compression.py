# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Plain nets in few bytes: pruned, shared by k-means, or in eight bits (Han et al. 2016).

Files are written and read by the package's own container and range coder, so that they differ from
those of shared posteriors only in what is in them.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from benchmarks.images import Loader
from pyro_groupprior import Layout
from pyro_groupprior.pruning import keep_units
from pyro_groupprior.sharing import Codebook
from pyro_groupprior.sharing.container import read_container, write_container
from pyro_groupprior.sharing.packing import pack, unpack
from pyro_groupprior.symmetry import Symmetry, find_symmetry

Masks = dict[str, Tensor]
EVERY = 50  # steps from one mask to the next


@dataclass(frozen=True)
class Training:
    """How plain nets are trained.

    :param float rate: Learning rate at first; it falls to zero.
    :param float decay: Of the weights, times the rate in each step.
    :param float momentum: Of stochastic gradient descent (Nesterov's); 0 for Adam.
    """

    rate: float = 1e-3
    decay: float = 0.3
    momentum: float = 0.0

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        """Make the optimizer; biases and batch norm do not decay."""
        owned = list(net.parameters())
        groups = [
            {"params": [p for p in owned if p.dim() > 1], "weight_decay": self.decay},
            {"params": [p for p in owned if p.dim() <= 1], "weight_decay": 0.0},
        ]
        if self.momentum:
            return torch.optim.SGD(groups, self.rate, momentum=self.momentum, nesterov=True)
        return torch.optim.AdamW(groups, self.rate, fused=True)


def train(
    net: nn.Module,
    loader: Loader,
    epochs: int,
    how: Training,
    masks: Masks | Callable[[int], Masks] | None = None,
    smoothing: float = 0.0,
) -> None:
    """Train a net; pruned weights stay at 0.

    :param masks: Which weights are not pruned; or a function that says so before a step.
    :param float smoothing: Of the labels.
    """
    optimizer = how.optimizer(net)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    net.train()
    for _ in range(epochs):
        for x, y in loader:
            present = masks(schedule.last_epoch) if callable(masks) else masks or {}
            _apply(net, present)
            optimizer.zero_grad()
            F.cross_entropy(net(x), y, label_smoothing=smoothing).backward()
            optimizer.step()
            schedule.step()
            _apply(net, present)
    net.eval()


def _apply(net: nn.Module, masks: Masks) -> None:
    for name, mask in masks.items():
        net.get_parameter(name).data.mul_(mask)


def magnitude_masks(net: nn.Module, share: float) -> Masks:
    """Keep the largest weights, and all biases.

    One threshold holds for all layers; in units of each layer's deviation, LeNet-5 loses half a
    point more at a tenth of the weights.
    """
    matrices = _matrices(net)
    every = torch.cat([weight.flatten().abs() for weight in matrices.values()])
    threshold = every.topk(round(share * len(every))).values[-1]
    return {name: weight.abs() >= threshold for name, weight in matrices.items()}


def prune(
    net: nn.Module,
    shares: Iterable[float],
    loader: Loader,
    epochs: int,
    how: Training,
    smoothing: float = 0.0,
) -> nn.Module:
    """Prune a copy of the net to one share after the other, and train it after each."""
    net = copy.deepcopy(net)
    for share in shares:
        train(net, loader, epochs, how, magnitude_masks(net, share), smoothing)
    return net


def prune_gradually(
    net: nn.Module,
    share: float,
    loader: Loader,
    epochs: int,
    after: int,
    how: Training,
    units: Mapping[str, float] | None = None,
    smoothing: float = 0.0,
) -> nn.Module:
    """Prune a copy of the net in many small steps while it is trained (Zhu & Gupta 2018).

    :param units: Shares of the units that stay, by axis of :func:`find_symmetry`, along which
        nothing is flattened. Those with the smallest weights on average go, twice as fast as
        weights do.
    """
    net, steps, masks = copy.deepcopy(net), epochs * len(loader) - 1, {}
    axes = find_symmetry(net, loader.data[0][:1]) if units else None

    def present(step: int) -> Masks:
        if step == steps or (step < steps and step % EVERY == 0):
            left = 1 - step / steps
            for axis, fewer in (units or {}).items():
                assert axes is not None
                _drop_units(net, axes, axis, fewer + (1 - fewer) * max(2 * left - 1, 0.0) ** 3)
            masks.update(magnitude_masks(net, share + (1 - share) * left**3))
            # Ties among zeros, where fewer weights than asked for are left.
            masks.update(
                {name: mask & (net.get_parameter(name) != 0) for name, mask in masks.items()}
            )
        return masks

    train(net, loader, epochs + after, how, present, smoothing)
    return net


@torch.no_grad()
def _drop_units(net: nn.Module, symmetry: Symmetry, axis: str, share: float) -> None:
    """Set all that belongs to some units to zero."""
    values = dict(net.named_parameters())
    scores = {name: value.abs() for name, value in values.items() if name in symmetry.tensors}
    kept = keep_units(scores, symmetry, share, [axis])[axis]
    gone = torch.ones(symmetry.axes[axis], dtype=torch.bool).index_fill(0, kept, False)
    for name in scores:
        for dim, whole in enumerate(symmetry.tensors[name]):
            if getattr(whole, "axis", None) == axis:
                values[name].movedim(dim, 0)[gone] = 0.0


def quantise(net: nn.Module, clusters: int, loader: Loader, epochs: int, lr: float) -> nn.Module:
    """Share values by k-means in each tensor of weights, linearly started, and train these further.

    Zeros stay; other parameters are trained as they are. The gradient of a value is the sum of
    those of its weights.
    """
    net = copy.deepcopy(net)
    labels: dict[str, Tensor] = {}
    values: list[nn.Parameter] = []
    for name, weight in _matrices(net).items():
        kept = weight != 0
        points = weight[kept]
        number = min(clusters, len(points.unique()))
        start = torch.linspace(float(points.min()), float(points.max()), number)
        found = KMeans(number, init=start[:, None].numpy(), n_init=1).fit(points[:, None].numpy())
        labels[name] = torch.full(weight.shape, -1)
        labels[name][kept] = torch.as_tensor(found.labels_).long()
        values.append(nn.Parameter(torch.as_tensor(found.cluster_centers_[:, 0]).float()))
    own = [p for n, p in net.named_parameters() if n not in labels]
    optimizer = torch.optim.Adam([*values, *own], lr=lr)
    net.train()
    for epoch in range(epochs + 1):
        for x, y in loader if epoch < epochs else ():
            _put(net, labels, values)
            optimizer.zero_grad()
            net.zero_grad()
            F.cross_entropy(net(x), y).backward()
            for (name, label), value in zip(labels.items(), values, strict=True):
                gradient = net.get_parameter(name).grad
                assert gradient is not None
                kept = label >= 0
                value.grad = torch.bincount(label[kept], gradient[kept], len(value)).to(value)
            optimizer.step()
    _put(net, labels, values)
    return with_statistics(net, loader)


def rounded(net: nn.Module, loader: Loader) -> nn.Module:
    """Round a copy's weights to what eight bits hold."""
    net = copy.deepcopy(net)
    for name, weight in _matrices(net).items():
        whole, scale = _eight_bits(weight)
        net.get_parameter(name).data.copy_((whole * scale).view_as(weight))
    return with_statistics(net, loader)


def with_statistics(net: nn.Module, loader: Loader) -> nn.Module:
    """Estimate the statistics of batch norm anew, if there is any, and set the net to predict."""
    update_bn(loader.first(), net)
    return net.eval()


def _put(net: nn.Module, labels: dict[str, Tensor], values: list[nn.Parameter]) -> None:
    for (name, label), value in zip(labels.items(), values, strict=True):
        found = torch.where(label >= 0, value.detach()[label.clamp(min=0)], 0.0)
        net.get_parameter(name).data.copy_(found)


def _matrices(net: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in net.named_parameters() if p.dim() > 1}


def save_values(path: Path, net: nn.Module) -> dict[str, int]:
    """Write a net whose matrices have few values, zeros apart; give the bytes of the parts."""
    matrices = _matrices(net)
    layout = Layout([(name, value.shape) for name, value in matrices.items()])
    locs, index, tables, number = [torch.zeros(1)], [], [], 1
    for weight in matrices.values():
        flat = weight.flatten()
        found, label = flat.unique(return_inverse=True)
        place = torch.where(found == 0, 0, torch.cumsum(found != 0, 0) + number - 1)
        locs.append(found[found != 0])
        index.append(place[label].int())
        tables.append((number, number + len(locs[-1])))
        number += len(locs[-1])
    loc = torch.cat(locs)
    book = Codebook(
        layout,
        torch.ones(len(layout)),
        loc,
        (loc != 0).float(),
        torch.cat(index),
        tables=tuple(tables),
    )
    notes, arrays, sizes = pack(book, "<f2")
    del arrays["unit"], arrays["scale"]
    arrays |= {f"dense.{name}": value for name, value in _rest(net, np.float16).items()}
    sizes["header"] = write_container(path, notes, arrays)
    return sizes


def load_values(path: Path, net: nn.Module) -> nn.Module:
    """Rebuild the net that ``save_values`` has written."""
    notes, arrays, num_bytes = read_container(path)
    dense = {k: arrays.pop(k) for k in list(arrays) if k.startswith("dense.")}
    arrays["unit"] = np.ones(len(notes["layout"]), "<f4")
    arrays["scale"] = (arrays["loc"] != 0).astype("<f2")
    book = unpack(notes, arrays, num_bytes)
    return _rebuilt(net, book.layout.unpack(book.moments()[0]), dense)


def save_int8(path: Path, net: nn.Module) -> None:
    """Write each row of a matrix in whole numbers from -127 to 127, times a scale."""
    arrays = {f"dense.{name}": value for name, value in _rest(net, np.float32).items()}
    for name, weight in _matrices(net).items():
        whole, scale = _eight_bits(weight)
        arrays[f"int8.{name}"] = (whole + 127).to(torch.uint8).numpy()
        arrays[f"scale.{name}"] = scale.numpy()
    write_container(path, {}, arrays)


def _eight_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    rows = weight.flatten(1)
    scale = rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    return (rows / scale).round(), scale


def load_int8(path: Path, net: nn.Module) -> nn.Module:
    """Rebuild the net that ``save_int8`` has written."""
    _, arrays, _ = read_container(path)
    dense = {k: v for k, v in arrays.items() if k.startswith("dense.")}
    weights = {
        name: torch.as_tensor((arrays[f"int8.{name}"] - 127.0) * arrays[f"scale.{name}"])
        .float()
        .view_as(value)
        for name, value in _matrices(net).items()
    }
    return _rebuilt(net, weights, dense)


def _rest(net: nn.Module, dtype: type) -> dict[str, np.ndarray]:
    matrices = _matrices(net)
    state = {n: v.numpy() for n, v in net.state_dict().items() if n not in matrices}
    return {n: v.astype(dtype) if v.dtype == np.float32 else v for n, v in state.items()}


def _rebuilt(net: nn.Module, weights: dict[str, Tensor], dense: dict[str, np.ndarray]) -> nn.Module:
    net = copy.deepcopy(net)
    rest = {k.removeprefix("dense."): torch.as_tensor(v.copy()) for k, v in dense.items()}
    net.load_state_dict(weights | rest)
    return net.eval()
