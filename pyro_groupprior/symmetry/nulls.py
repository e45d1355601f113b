# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What matching finds, and what it would find where there is nothing to be found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .alignment import align
from .blocks import blocks
from .matching import Matcher
from .spec import Symmetry
from .transpositions import num_transpositions, random_transpositions

Tensors: TypeAlias = "Mapping[str, Tensor]"


@dataclass(frozen=True)
class Null:
    """
    What comes of aligning pure noise with a template.

    :param float slope: of the aligned samples' mean on the template: the share of the template
        that such a mean shows though it is in none of the samples.
    :param transpositions: by axis, mean number of swaps.
    :param random: by axis, the mean number of swaps of a random permutation, ``n - H_n``, and its
        standard deviation, to stand beside.
    """

    slope: float
    transpositions: dict[str, float]
    random: dict[str, tuple[float, float]]


@torch.no_grad()
def matching_null(
    template: Tensors, symmetry: Symmetry, num_samples: int = 20, seed: int = 0, **options: Any
) -> Null:
    """
    Align noise with a template: normal numbers with each tensor's own mean and standard deviation,
    log-normal ones for tensors without negative numbers. Matching picks, of all noise, what looks
    like the template, so that a mean of aligned samples resembles it in any case; this says how
    much.

    Example::

        >>> from pyro_groupprior.symmetry import find_symmetry, matching_null
        >>> net = nn.Sequential(nn.Linear(20, 100), nn.ReLU(), nn.Linear(100, 1))
        >>> null = matching_null(net.state_dict(), find_symmetry(net, torch.randn(2, 20)))
        >>> 0.2 < null.slope < 0.8
        True

    :param template: one set of weights by name.
    :param Symmetry symmetry: of the net.
    :param int num_samples: how many.
    :param int seed: the same seed gives the same result.
    :param options: of :func:`align`: ``by`` (not ``"likelihood"``, which has a template of its
        own), ``restarts`` and ``n_jobs``.
    :raises ValueError: if there is nothing to align, a tensor is missing, or nothing in the
        template varies.
    """
    if not symmetry.axes:
        raise ValueError("symmetry: expected one with an axis, got none")
    _check_names("template", template, symmetry)
    template = {name: template[name].detach().cpu() for name in symmetry.tensors}
    generator = torch.Generator().manual_seed(seed)
    samples: dict[str, Tensor] = {}
    for name in symmetry.tensors:
        first = symmetry.tied.get(name, name)
        if first not in samples:
            samples[first] = _noise(template[first], num_samples, generator)
        samples[name] = samples[first]
    found = align(samples, symmetry, template=template, seed=seed, **options)
    aligned = found.apply(symmetry, samples)
    centred = {name: value - value.mean() for name, value in template.items()}
    means = {name: value.mean(0) for name, value in aligned.items()}
    # Of what can be moved only: all else dilutes it.
    pairs = zip(blocks(symmetry, means), blocks(symmetry, centred), strict=True)
    products = [(float((a.value * b.value).sum()), float(b.value.square().sum())) for a, b in pairs]
    squares = sum(square for _, square in products)
    if not squares:
        raise ValueError("template: expected tensors of which entries differ, got constant ones")
    orders = found.permutation.permutations
    return Null(
        slope=sum(product for product, _ in products) / squares,
        transpositions={a: float(num_transpositions(o).double().mean()) for a, o in orders.items()},
        random={axis: random_transpositions(size) for axis, size in symmetry.axes.items()},
    )


def _noise(value: Tensor, number: int, generator: torch.Generator) -> Tensor:
    positive = bool((value >= 0).all()) and bool(value.any())  # such as variances
    base = value.double()
    if positive:
        base = base.clamp(min=1e-6 * float(base.max())).log()
    noise = torch.randn(number, *value.shape, generator=generator, dtype=torch.double)
    drawn = base.mean() + base.std(correction=0) * noise
    return (drawn.exp() if positive else drawn).to(value)


@torch.no_grad()
def transpositions_along(
    samples: Tensors, symmetry: Symmetry, lag: int = 1, shuffle: bool = False, seed: int = 0
) -> dict[str, Tensor]:
    """
    How many swaps of units lie between one sample of a chain and a later one, by matching the one
    with the other.

    Example::

        >>> from pyro_groupprior.symmetry import find_symmetry, transpositions_along
        >>> net = nn.Sequential(nn.Linear(2, 9), nn.ReLU(), nn.Linear(9, 1))
        >>> symmetry = find_symmetry(net, torch.randn(2, 2))
        >>> chain = {name: torch.stack([v, v, v]) for name, v in net.state_dict().items()}
        >>> transpositions_along(chain, symmetry)["0"].tolist()
        [0, 0]

    :param samples: parameters by name, each ``[S, ...]``, in the order of the chain.
    :param Symmetry symmetry: of the net.
    :param int lag: how many samples later.
    :param bool shuffle: what would be found if nothing had been swapped: the change from the one
        sample to the other is added to the first in another order of each tensor's entries.
    :param int seed: of that order.
    :return: by axis, numbers ``[S - lag]``.
    :raises ValueError: if there are no more samples than the lag, or a tensor is missing.
    """
    _check_names("samples", samples, symmetry)
    count = min(len(value) for value in samples.values())
    if not 0 < lag < count:
        raise ValueError(f"lag: expected 1 to {count - 1}, got {lag}")
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[Tensor]] = {axis: [] for axis in symmetry.axes}
    for number in range(count - lag):
        names = [name for name in symmetry.tensors if name not in symmetry.tied]
        one = {name: samples[name][number] for name in names}
        other = {name: samples[name][number + lag] for name in names}
        if shuffle:
            other = {
                name: one[name] + _shuffled(other[name] - one[name], generator) for name in one
            }
        match = Matcher(symmetry, blocks(symmetry, one)).match(
            blocks(symmetry, other), generator=generator
        )
        for axis, order in match.permutation.permutations.items():
            found[axis].append(num_transpositions(order))
    return {axis: torch.stack(counts) for axis, counts in found.items()}


def _check_names(argument: str, tensors: Tensors, symmetry: Symmetry) -> None:
    if missing := sorted(symmetry.tensors.keys() - tensors.keys()):
        raise ValueError(f"{argument}: expected {sorted(symmetry.tensors)}, {missing} missing")


def _shuffled(change: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(change.numel(), generator=generator).to(change.device)
    return change.flatten()[order].reshape(change.shape)
