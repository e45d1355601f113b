# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Whether a net computes the same after its units have been rearranged."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..batch import map_tensors, tensors_in
from .spec import Permutation, Symmetry

#: Largest difference, over the largest output and over what other weights change of it. By dtype:
#: single precision is for nets that cannot run in double.
TOLERANCES = {torch.float64: (1e-8, 1e-5), torch.float32: (1e-4, 1e-2)}

Given = tuple[tuple[Any, ...], dict[str, Any]]
State = tuple[dict[str, Tensor], Given]


def prove(
    net: nn.Module,
    symmetry: Symmetry,
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> None:
    """
    Rearrange a net's units and compare outputs, in double precision and evaluation mode; at the
    net's own weights and inputs, and at others near by, for which nothing is zero or one by chance.
    Swaps, rolls and single flips, which make up all rearrangements, are tried on all axes at once
    and on halves of them, such that every two are told apart.

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

    :param Module net: the net.
    :param Symmetry symmetry: what is to be proved of it.
    :param args: what the net is called with.
    :param kwargs: what it is called with by name.
    :param int seed: of the weights and inputs near by.
    :raises ValueError: if an output differs, where the message names the axis; a tensor is none of
        the net's; or its output is NaN or infinite.
    """
    own = {**dict(net.named_parameters(remove_duplicate=False)), **dict(net.named_buffers())}
    unknown = sorted(set(symmetry.tensors) - set(own))
    if unknown:
        raise ValueError(f"symmetry: expected tensors of the net, {list(own)}, got {unknown}")
    given = args, dict(kwargs or {})
    with torch.no_grad(), _copied(net, given) as (net, given, dtype):
        own = {**dict(net.named_parameters(remove_duplicate=False)), **dict(net.named_buffers())}
        generator = torch.Generator().manual_seed(seed)
        states: list[State] = [(own, given)]
        states += [_near(own, given, symmetry, generator) for _ in range(2)]
        outputs = [_outputs(net, *state) for state in states]
        for state, before, other in zip(states, outputs, outputs[1:] + outputs[-2:-1], strict=True):
            tolerances = [
                _tolerance(one, two, dtype) for one, two in zip(before, other, strict=True)
            ]

            def same(
                move: Permutation,
                state: State = state,
                before: list[Tensor] = before,
                tolerances: list[float] = tolerances,
            ) -> bool:
                after = _outputs(net, symmetry.apply(state[0], move), state[1])
                differences = (float((a - b).abs().max()) for a, b in zip(before, after))
                return all(d <= most for d, most in zip(differences, tolerances, strict=True))

            if not all(map(same, _moves(symmetry))):
                raise ValueError(
                    f"symmetry: the net computes something else after {_culprit(symmetry, same)}"
                )


def _moves(symmetry: Symmetry) -> Iterator[Permutation]:
    """Rearrangements of all axes, and of parts of them such that every two axes are told apart."""
    axes, signs = list(symmetry.axes), list(symmetry.signs)
    for kind in ("roll", "swap"):
        for chosen in _halves(axes):
            yield _moved(symmetry, kind, chosen)
    for chosen in _halves(signs):
        yield _moved(symmetry, "flip", chosen)


def _halves(names: list[str]) -> Iterator[list[str]]:
    """All, and for each bit the names whose number has it: every two names are told apart."""
    if names:
        yield names
    for bit in range((len(names) - 1).bit_length() if names else 0):
        yield [name for number, name in enumerate(names) if number >> bit & 1]


def _moved(symmetry: Symmetry, kind: str, chosen: list[str]) -> Permutation:
    """One kind of rearrangement, of positions of the same kind only."""
    found = symmetry.identity()
    orders, signs = dict(found.permutations), dict(found.signs)
    for name in chosen:
        if kind == "flip":
            signs[name][0] = -1
            continue
        kinds = symmetry.kinds.get(name, torch.zeros(symmetry.axes[name], dtype=torch.long))
        for value in kinds.unique():
            places = (kinds == value).nonzero()[:, 0]
            if kind == "swap":
                places = places[:2]
            orders[name][places] = places.roll(1)
    return Permutation(orders, signs)


def _culprit(symmetry: Symmetry, same: Any) -> str:
    """What changes the output by itself; several that go only together have none."""
    for axis in symmetry.axes:
        if not all(same(_moved(symmetry, kind, [axis])) for kind in ("roll", "swap")):
            return f"permuting {axis!r}"
    for sign in symmetry.signs:
        if not same(_moved(symmetry, "flip", [sign])):
            return f"flipping {sign!r}"
    return "permuting units"


@contextmanager
def _copied(net: nn.Module, given: Given) -> Iterator[tuple[nn.Module, Given, torch.dtype]]:
    """The net in double precision, where it runs so: its ``forward`` may ask for another."""
    try:
        double, own = copy.deepcopy(net).double().cpu().eval(), copy.deepcopy(net).cpu().eval()
    except RuntimeError as error:
        raise ValueError(
            f"net: {type(net).__name__} cannot be copied, as after a forward pass with "
            f"torch.nn.utils.weight_norm, for which there is torch.nn.utils.parametrizations: "
            f"{error}"
        ) from error
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)  # for tensors that are made on the way
        in_double = map_tensors(lambda tensor: _moved_to(tensor, torch.float64), given)
        try:
            double(*in_double[0], **in_double[1])
        except RuntimeError:
            torch.set_default_dtype(default)
            single = map_tensors(lambda tensor: _moved_to(tensor, torch.float32), given)
            yield own.float(), single, torch.float32
        else:
            yield double, in_double, torch.float64
    finally:
        torch.set_default_dtype(default)


def _moved_to(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _near(
    own: dict[str, Tensor], given: Given, symmetry: Symmetry, generator: torch.Generator
) -> State:
    """Other values of what moves, and other inputs."""
    near, found = {}, {}
    for name, value in own.items():
        if name in symmetry.tensors and value.is_floating_point():
            if id(value) not in found:  # tied tensors stay tied
                found[id(value)] = _shifted(value, generator)
            value = found[id(value)]
        near[name] = value
    return near, map_tensors(lambda value: _shifted(value, generator), given)


def _shifted(value: Tensor, generator: torch.Generator) -> Tensor:
    """Positive numbers stay so, as variances have to."""
    if not value.is_floating_point():
        return value
    noise = torch.randn(2, *value.shape, dtype=value.dtype, generator=generator)
    shift = 0.0 if bool((value >= 0).all()) and bool(value.any()) else 0.1 * noise[1]
    return value * (0.3 * noise[0]).exp() + shift


def _outputs(net: nn.Module, state: dict[str, Tensor], given: Given) -> list[Tensor]:
    output = functional_call(net, state, *given, tie_weights=False)
    found = [tensor.double() for tensor in tensors_in(output) if tensor.numel()]
    if not all(bool(tensor.isfinite().all()) for tensor in found):
        raise ValueError("net: its output is NaN or infinite, so that nothing can be told from it")
    return found


def _tolerance(output: Tensor, other: Tensor, dtype: torch.dtype) -> float:
    """By what an output may differ from itself: other weights change far more of it."""
    of_output, of_change = TOLERANCES[dtype]
    largest, change = float(output.abs().max()), float((output - other).abs().max())
    rounding = torch.finfo(dtype).eps * 1e3 * largest
    return min(of_output * largest, max(of_change * change, rounding))
