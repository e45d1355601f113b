# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Whole units taken out of a net, which gets smaller by them."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace as with_
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.modes import evaluation_mode
from ..symmetry.proof import prove
from ..symmetry.spec import Dim, Symmetry, Whole, positions
from .masks import WeightMasks
from .sizes import fit_sizes
from .units import check_kept, shrinkable_axes

REPLACEMENTS = ("zero", "mean")
_BIASED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def shrink(
    net: nn.Module,
    symmetry: Symmetry,
    kept: Mapping[str, Tensor],
    *args: Any,
    replace: str = "zero",
) -> nn.Module:
    """
    A smaller copy of a net, without some of its units. The others get from them what they would
    get were their outputs zero, or what ``replace`` says; layers that take means over units, such
    as layer norm, take them over fewer.

    Example::

        >>> from pyro_groupprior.pruning import shrink
        >>> from pyro_groupprior.symmetry import find_symmetry
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
        >>> x = torch.randn(1, 2)
        >>> shrink(net, find_symmetry(net, x), {"0": torch.tensor([0, 3])}, x)
        Sequential(
          (0): Linear(in_features=2, out_features=2, bias=True)
          (1): ReLU()
          (2): Linear(in_features=2, out_features=1, bias=True)
        )

    :param Module net: the net.
    :param Symmetry symmetry: what belongs to which unit.
    :param kept: by axis the units that stay; all of those left out.
    :param args: what the net is called with, to see whether the smaller one works.
    :param str replace: ``"mean"``: the biases of linear and convolutional layers take on the mean,
        over all rows of ``args``, of what is no longer there, so that nothing is lost with units
        that are constant; give it some hundred rows then (Evci et al. 2018, "Mean replacement
        pruning").
    :raises TypeError: if units are no integers.
    :raises ValueError: if an axis or a unit is unknown, none is left, or the smaller net does not
        run, or not as it should, as where its ``forward`` has sizes written into it.
    """
    if replace not in REPLACEMENTS:
        raise ValueError(f"replace: expected one of {REPLACEMENTS}, got {replace!r}")
    kept = check_kept(kept, symmetry, shrinkable_axes(net, symmetry))
    small = copy.deepcopy(net)
    done: dict[int, nn.Parameter | Tensor] = {}
    for name, dims in symmetry.tensors.items():
        path, _, own = name.rpartition(".")
        tensor = getattr(net.get_submodule(path), own)
        if id(tensor) not in done:
            value = selected(tensor.detach(), dims, kept).clone()
            is_parameter = isinstance(tensor, nn.Parameter)
            done[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if is_parameter else value
        setattr(small.get_submodule(path), own, done[id(tensor)])  # tied ones stay tied
    for path, module in small.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        owned = {
            name.removeprefix(prefix): dims
            for name, dims in symmetry.tensors.items()
            if name.rpartition(".")[0] == path
        }
        if owned:
            fit_sizes(module, owned, kept)
        if isinstance(masks := getattr(module, "weight_masks", None), WeightMasks):
            masks.masks = {
                name: selected(mask, symmetry.tensors.get(prefix + name, ()), kept)
                for name, mask in masks.masks.items()
            }
    with evaluation_mode(net):
        net(*args)  # what is wrong with it or its arguments is not the smaller one's fault
    try:
        prove(small, _shortened(symmetry, kept), *args)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(f"net: it does not work with fewer units: {error}") from error
    if replace == "mean":
        _replace_by_means(net, small, symmetry, kept, args)
    return small


def selected(value: Tensor, dims: tuple[Dim, ...], kept: Mapping[str, Tensor]) -> Tensor:
    """The part of a tensor that stays; dimensions are counted from the last."""
    for number, dim in enumerate(dims, -len(dims)):
        place = positions(dim, kept)
        if place is not None:
            value = value.index_select(number, place.to(value.device))
    return value


def _shortened(symmetry: Symmetry, kept: Mapping[str, Tensor]) -> Symmetry:
    """What the smaller net's symmetry must be, if the units that are left do what they did."""

    def part(whole: Whole) -> Whole:
        return with_(whole, size=whole.size if whole.axis is None else len(kept[whole.axis]))

    return symmetry.mapped(part)


def _replace_by_means(
    net: nn.Module,
    small: nn.Module,
    symmetry: Symmetry,
    kept: Mapping[str, Tensor],
    args: tuple[Any, ...],
) -> None:
    """Shift biases so that every layer's mean output is as before, from the first on."""
    means: dict[str, list[Tensor]] = {}
    owners = Counter(id(m.bias) for m in net.modules() if isinstance(m, _BIASED))
    biased = [
        path
        for path, module in net.named_modules()
        # What several layers share cannot be shifted for each of them.
        if isinstance(module, _BIASED) and module.bias is not None and owners[id(module.bias)] == 1
    ]

    def noted(path: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            means.setdefault(path, []).append(_mean(module, output))

        return hook

    def shifted(path: str) -> Any:
        name = f"{path}.bias".lstrip(".")

        def hook(module: Any, inputs: Any, output: Tensor) -> Tensor | None:
            if len(means[path]) > 1:
                return None  # it runs more than once, on inputs of different means
            whole = selected(means[path][0], symmetry.tensors.get(name, ()), kept)
            shift = whole - _mean(module, output)
            module.bias += shift
            return output + shift.reshape(_along_units(module, output))

        return hook

    with evaluation_mode(net), evaluation_mode(small):
        for module, hook in ((net, noted), (small, shifted)):
            handles = [module.get_submodule(p).register_forward_hook(hook(p)) for p in biased]
            try:
                module(*args)
            finally:
                for handle in handles:
                    handle.remove()


def _along_units(module: nn.Module, output: Tensor) -> list[int]:
    """The shape of something with one number for each unit."""
    spatial = 0 if isinstance(module, nn.Linear) else len(module.kernel_size)  # type: ignore[arg-type]
    return [output.shape[output.dim() - spatial - 1], *[1] * spatial]


def _mean(module: nn.Module, output: Tensor) -> Tensor:
    units = output.dim() - len(_along_units(module, output))
    return output.movedim(units, -1).reshape(-1, output.shape[units]).mean(0)
