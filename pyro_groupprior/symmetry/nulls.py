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
from .transpositions import num_transpositions

Tensors: TypeAlias = "Mapping[str, Tensor]"


@dataclass(frozen=True)
class Null:
    """
    What comes of aligning pure noise with a template.

    :param float slope: of the aligned samples' mean on the template: the share of the template
        that such a mean shows though it is in none of the samples.
    :param transpositions: by axis, mean number of swaps.
    """

    slope: float
    transpositions: dict[str, float]


@torch.no_grad()
def matching_null(
    template: Tensors, symmetry: Symmetry, num_samples: int = 20, seed: int = 0, **options: Any
) -> Null:
    """
    Align noise with a template: normal numbers with each tensor's own mean and standard deviation.
    Matching picks, of all noise, what looks like the template, so that a mean of aligned samples
    resembles it in any case; this says how much.

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
    :param options: of :func:`align`.
    """
    generator = torch.Generator().manual_seed(seed)
    samples, centred = {}, {}
    for name in symmetry.tensors:
        value = template[name].detach().cpu()
        sd, mean = value.std(correction=0), value.mean()
        noise = torch.randn(num_samples, *value.shape, generator=generator)
        samples[name] = (mean + sd * noise).to(value)
        centred[name] = value - mean
    found = align(samples, symmetry, template=template, seed=seed, **options)
    aligned = found.apply(symmetry, samples)
    moved = [name for name, part in centred.items() if bool(part.any())]
    products = sum(float((aligned[name].mean(0) * centred[name]).sum()) for name in moved)
    squares = sum(float(centred[name].square().sum()) for name in moved)
    counts = {
        axis: float(num_transpositions(order).double().mean())
        for axis, order in found.permutation.permutations.items()
    }
    return Null(products / squares, counts)


@torch.no_grad()
def transpositions_along(
    samples: Tensors, symmetry: Symmetry, lag: int = 1, shuffle: bool = False, seed: int = 0
) -> dict[str, Tensor]:
    """
    How many swaps of units lie between one sample of a chain and a later one, by matching the one
    with the other.

    :param samples: parameters by name, each ``[S, ...]``, in the order of the chain.
    :param Symmetry symmetry: of the net.
    :param int lag: how many samples later.
    :param bool shuffle: what would be found if nothing had been swapped: the change from the one
        sample to the other is added to the first in another order of each tensor's entries.
    :param int seed: of that order.
    :return: by axis, numbers ``[S - lag]``.
    :raises ValueError: if there are no more samples than the lag.
    """
    count = min(len(value) for value in samples.values())
    if not 0 < lag < count:
        raise ValueError(f"lag: expected 1 to {count - 1}, got {lag}")
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[Tensor]] = {axis: [] for axis in symmetry.axes}
    for number in range(count - lag):
        one = {name: samples[name][number] for name in symmetry.tensors}
        other = {name: samples[name][number + lag] for name in symmetry.tensors}
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


def _shuffled(change: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(change.numel(), generator=generator).to(change.device)
    return change.flatten()[order].reshape(change.shape)
