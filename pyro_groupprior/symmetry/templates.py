# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What samples are made like: templates, found from the samples themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from joblib import effective_n_jobs
from sklearn.utils.parallel import Parallel, delayed
from torch import Tensor

from .activations import Activations
from .blocks import Block, blocks
from .matching import Match, Matcher, rearranged
from .spec import Symmetry

Tensors: TypeAlias = "Mapping[str, Tensor]"
Reference: TypeAlias = "tuple[list[Block], ...]"  # what a Matcher is made of

_MOST_FOR_TEMPLATE = 200  # samples that a mean is made of while it is sought
_SWEEPS, _LEAST = 20, 1e-3  # at most; less of the spread is not worth another
_CONSTANT = 1e-10  # variance over mean square; less is rounding
_CHUNK = 25  # samples that a process takes at a time


@dataclass(frozen=True)
class Run:
    """The samples, and how they are matched with a reference."""

    symmetry: Symmetry
    samples: dict[str, Tensor]
    activations: Activations | None
    restarts: int
    seed: int

    def features(self, tensors: Tensors) -> list[Block]:
        """What is compared."""
        if self.activations is not None:
            return self.activations(tensors)
        return blocks(self.symmetry, tensors)

    def sample(self, number: int) -> dict[str, Tensor]:
        """One of them."""
        return {name: value[number] for name, value in self.samples.items()}

    def match(
        self,
        parallel: Parallel,
        numbers: Sequence[int],
        reference: Reference,
        starts: Sequence[Match] = (),
    ) -> list[Match]:
        """Match some samples with a reference; the better end of two starts where one is given."""
        matcher = Matcher(self.symmetry, *reference)
        size = max(1, min(_CHUNK, -(-len(numbers) // effective_n_jobs(parallel.n_jobs))))
        found = parallel(
            delayed(_match_chunk)(
                self.part(numbers[start : start + size]),
                numbers[start : start + size],
                matcher,
                starts[start : start + size],
            )
            for start in range(0, len(numbers), size)
        )
        return [match for part in found for match in part]

    def part(self, numbers: Sequence[int]) -> Run:
        """Some of the samples only, to be sent to another process."""
        rows = torch.as_tensor(list(numbers))
        samples = {name: value[rows.to(value.device)] for name, value in self.samples.items()}
        return Run(self.symmetry, samples, self.activations, self.restarts, self.seed)

    def moments(self, numbers: Sequence[int], matches: Sequence[Match]) -> list[list[Block]]:
        """Mean, and mean of squares, of rearranged samples' features."""
        first: list[Tensor] = []
        second: list[Tensor] = []
        for number, match in zip(numbers, matches, strict=True):
            found = self.features(self.sample(number))
            moved = rearranged(self.symmetry, found, match.permutation)
            if not first:
                first, second = [0 * value for value in moved], [0 * value for value in moved]
            for total, squares, value in zip(first, second, moved, strict=True):
                total += value / len(numbers)
                squares += value.square() / len(numbers)
        each = self.features(self.sample(numbers[0]))
        return [
            [Block(value, block.wholes) for value, block in zip(values, each, strict=True)]
            for values in (first, second)
        ]


def _match_chunk(
    run: Run, numbers: Sequence[int], matcher: Matcher, starts: Sequence[Match]
) -> list[Match]:
    found = []
    for place, number in enumerate(numbers):
        generator = torch.Generator().manual_seed(run.seed + number)
        features = run.features(run.sample(place))
        first = [starts[place].permutation] if starts else []
        found.append(matcher.match(features, run.restarts, generator, starts=first))
    return found


def find_reference(
    run: Run, parallel: Parallel, count: int, template: str | Tensors, likelihood: bool
) -> Reference:
    """What all samples are matched with in the end."""
    if not isinstance(template, str):
        return (run.features(template),)
    reference = run.features(run.sample(0))
    step = max(1, math.ceil(count / _MOST_FOR_TEMPLATE))
    numbers = range(0, count, step)
    if template != "first":
        reference = _medoid(run, numbers, run.match(parallel, numbers, (reference,)))
    if template == "mean":
        reference = _climb(run, parallel, numbers, (reference,), _mean)[0]
    if likelihood:
        start = run.moments(numbers, run.match(parallel, numbers, (reference,)))
        return _climb(run, parallel, numbers, _normal(start)[0], _normal)
    return (reference,)


def _medoid(run: Run, numbers: Sequence[int], matches: Sequence[Match]) -> list[Block]:
    """Of the sample nearest to the mean: its squared distances to all others sum up to least."""
    mean, _ = run.moments(numbers, matches)
    distances = []
    for number, match in zip(numbers, matches, strict=True):
        moved = rearranged(run.symmetry, run.features(run.sample(number)), match.permutation)
        pairs = zip(moved, mean, strict=True)
        distances.append(sum(float((value - block.value).square().sum()) for value, block in pairs))
    return run.features(run.sample(numbers[distances.index(min(distances))]))


def _mean(moments: Sequence[list[Block]]) -> tuple[Reference, float]:
    """The mean, and how far samples are from it: the sum of their variances."""
    spread = sum(
        float((squares.value - mean.value.square()).sum())
        for mean, squares in zip(*moments, strict=True)
    )
    return (moments[0],), -spread


def _normal(moments: Sequence[list[Block]]) -> tuple[Reference, float]:
    """
    What to multiply with values and with their squares, for the log-density of independent normal
    distributions; and that density, for one sample on average.
    """
    linear, quadratic, density = [], [], 0.0
    for mean, squares in zip(*moments, strict=True):
        variance = (squares.value - mean.value.square()).clamp(min=0.0)
        if not bool((variance > _CONSTANT * squares.value).any()):
            # The same in all samples, such as a norm layer's first scale: nothing to go by.
            linear.append(Block(torch.zeros_like(variance), mean.wholes))
            quadratic.append(linear[-1])
            continue
        # Of few samples some variances are far too small by chance: half way to the block's mean.
        wider = 0.5 * (variance + variance.mean())
        linear.append(Block(mean.value / wider, mean.wholes))
        quadratic.append(Block(-0.5 / wider, mean.wholes))
        density -= 0.5 * float((wider.log() + variance / wider).sum())
    return (linear, quadratic), density


def _climb(
    run: Run,
    parallel: Parallel,
    numbers: Sequence[int],
    reference: Reference,
    make: Callable[[Sequence[list[Block]]], tuple[Reference, float]],
) -> Reference:
    """Match and take moments in turn, as long as samples come nearer to each other."""
    best, highest = reference, -math.inf
    matches: list[Match] = []
    for _ in range(_SWEEPS):
        # From where they are, too: what is maximised cannot fall.
        matches = run.match(parallel, numbers, reference, starts=matches)
        reference, reached = make(run.moments(numbers, matches))
        if reached > highest:
            gain, best, highest = reached - highest, reference, reached
        else:
            break
        if gain < _LEAST * abs(highest):
            break
    return best
