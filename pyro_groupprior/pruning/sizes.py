# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The sizes that torch's modules keep beside their tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ..symmetry.spec import Dim, Product, Whole

Dims = Mapping[str, tuple[Dim, ...]]  # of a module's tensors, before, by their own names


def fit_sizes(module: nn.Module, dims: Dims, kept: Mapping[str, Tensor]) -> None:
    """
    Make a module's sizes those of its tensors, of which some units have been taken out.

    :param Module module: changed in place.
    :param dims: what the dimensions of its tensors follow.
    :param kept: by axis the units that stay.
    """
    for kinds, fit in _FITS.items():
        if isinstance(module, kinds):
            fit(module, dims, kept)


def _groups(number: int, dim: Dim, kept: Mapping[str, Tensor]) -> int:
    """Of how many groups of channels some remain."""
    first = dim.parts[0] if isinstance(dim, Product) else dim
    if isinstance(first, Whole) and first.axis is not None and first.size == number:
        return len(kept[first.axis])
    return number


def _linear(module: Any, dims: Dims, kept: Mapping[str, Tensor]) -> None:
    module.out_features, module.in_features = module.weight.shape


def _conv(module: Any, dims: Dims, kept: Mapping[str, Tensor]) -> None:
    if module.groups > 1 and "weight" in dims:
        module.groups = _groups(module.groups, dims["weight"][0], kept)
    first, second = module.weight.shape[0], module.weight.shape[1] * module.groups
    if module.transposed:
        module.in_channels, module.out_channels = first, second
    else:
        module.out_channels, module.in_channels = first, second


def _features(module: Any, dims: Dims, kept: Mapping[str, Tensor]) -> None:
    for value in (module.weight, module.running_mean):
        if value is not None:
            module.num_features = len(value)


def _normalized(module: Any, dims: Dims, kept: Mapping[str, Tensor]) -> None:
    if module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)


def _group_norm(module: Any, dims: Dims, kept: Mapping[str, Tensor]) -> None:
    if "weight" in dims:
        module.num_groups = _groups(module.num_groups, dims["weight"][0], kept)
        module.num_channels = len(module.weight)


def _embedding(module: Any, dims: Dims, kept: Mapping[str, Tensor]) -> None:
    module.embedding_dim = module.weight.shape[1]


def _prelu(module: Any, dims: Dims, kept: Mapping[str, Tensor]) -> None:
    module.num_parameters = len(module.weight)


def _bilinear(module: Any, dims: Dims, kept: Mapping[str, Tensor]) -> None:
    module.out_features, module.in1_features, module.in2_features = module.weight.shape


def _recurrent(module: Any, dims: Dims, kept: Mapping[str, Tensor]) -> None:
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    module.input_size = module.weight_ih_l0.shape[1]
    module.hidden_size = module.weight_hh_l0.shape[0] // gates
    if module.proj_size:
        module.proj_size = module.weight_hh_l0.shape[1]


_FITS: dict[tuple[type[nn.Module], ...], Callable[[Any, Dims, Mapping[str, Tensor]], None]] = {
    (nn.Linear,): _linear,
    (
        nn.Conv1d,
        nn.Conv2d,
        nn.Conv3d,
        nn.ConvTranspose1d,
        nn.ConvTranspose2d,
        nn.ConvTranspose3d,
    ): _conv,
    (
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        nn.BatchNorm3d,
        nn.SyncBatchNorm,
        nn.InstanceNorm1d,
        nn.InstanceNorm2d,
        nn.InstanceNorm3d,
    ): _features,
    (nn.LayerNorm, nn.RMSNorm): _normalized,
    (nn.GroupNorm,): _group_norm,
    (nn.Embedding, nn.EmbeddingBag): _embedding,
    (nn.PReLU,): _prelu,
    (nn.Bilinear,): _bilinear,
    (nn.RNNBase,): _recurrent,
}
