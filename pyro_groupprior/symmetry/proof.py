# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Whether a net computes the same after its units have been rearranged."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..batch import map_tensors, tensors_in
from .spec import Symmetry

TOLERANCE = 1e-8  # relative, in double precision


def prove(net: nn.Module, symmetry: Symmetry, *args: Any, seed: int = 0) -> None:
    """
    Rearrange a net's units at random and compare outputs, in double precision and evaluation mode;
    at the net's own weights and at others near by, for which nothing is zero or one by chance.

    Example::

        >>> from pyro_groupprior.symmetry import Symmetry, Whole, prove
        >>> net = nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 1))
        >>> units = Whole(50, "hidden")
        >>> rows = {"0.weight": (units, Whole(4)), "0.bias": (units,)}
        >>> prove(net, Symmetry({**rows, "2.weight": (Whole(1), units)}), torch.randn(3, 4))
        >>> prove(net, Symmetry(rows), torch.randn(3, 4))
        Traceback (most recent call last):
            ...
        ValueError: symmetry: the net computes something else after permuting 'hidden'

    :param args: what the net is called with.
    :raises ValueError: if an output differs; the message names the axis.
    """
    generator = torch.Generator().manual_seed(seed)
    net = copy.deepcopy(net).double().cpu().eval()
    args = map_tensors(_in_double, args)
    own = {**dict(net.named_parameters(remove_duplicate=False)), **dict(net.named_buffers())}
    with torch.no_grad():
        for state in (own, _near(own, symmetry, generator)):
            before = _outputs(net, state, args)
            # All at once, and one by one only to tell which it is.
            for part in (symmetry, *map(symmetry.only, symmetry.axes)):
                moved = part.apply(state, part.random(generator))
                if _close(before, _outputs(net, moved, args)):
                    if part is symmetry:
                        break
                elif part is not symmetry:
                    raise ValueError(
                        "symmetry: the net computes something else after permuting "
                        f"{next(iter(part.axes))!r}"
                    )
            else:
                raise ValueError("symmetry: the net computes something else after permuting units")


def _near(
    own: dict[str, Tensor], symmetry: Symmetry, generator: torch.Generator
) -> dict[str, Tensor]:
    """Other values of what moves; positive ones stay so, as variances have to."""
    near, found = {}, {}
    for name, value in own.items():
        if name in symmetry.tensors and value.is_floating_point():
            if id(value) not in found:  # tied tensors stay tied
                noise = torch.randn(2, *value.shape, dtype=value.dtype, generator=generator)
                shift = 0.0 if bool((value >= 0).all()) and bool(value.any()) else 0.1 * noise[1]
                found[id(value)] = value * (0.3 * noise[0]).exp() + shift
            value = found[id(value)]
        near[name] = value
    return near


def _in_double(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.double() if tensor.is_floating_point() else tensor


def _outputs(net: nn.Module, state: dict[str, Tensor], args: tuple[Any, ...]) -> list[Tensor]:
    output = functional_call(net, state, args, tie_weights=False)
    return list(tensors_in(output))


def _close(first: list[Tensor], second: list[Tensor]) -> bool:
    for one, other in zip(first, second, strict=True):
        scale = float(one.abs().max()) if one.numel() else 0.0
        if not torch.allclose(one, other, rtol=0.0, atol=TOLERANCE * max(scale, 1.0)):
            return False
    return True
