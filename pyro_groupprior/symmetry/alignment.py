# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Many samples of a net's weights, each rearranged to be as like the others as possible."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from sklearn.utils.parallel import Parallel, delayed
from torch import Tensor

from .activations import Activations
from .blocks import Block, blocks
from .matching import Match, Matcher, rearranged
from .spec import Permutation, Symmetry

Tensors: TypeAlias = "Mapping[str, Tensor]"

_MOST_FOR_TEMPLATE = 200  # samples that a mean is made of while it is sought
_SWEEPS, _LEAST = 20, 1e-3  # at most; less of the spread is not worth another
_CHUNK = 25  # samples that a process takes at a time


@dataclass(frozen=True)
class Alignment:
    """
    How each of ``S`` samples is rearranged.

    :param Permutation permutation: orders by axis, ``[S, n]``; signs likewise.
    :param Tensor similarity: of each sample, rearranged, to the template: what was maximised,
        shape ``[S]``.
    """

    permutation: Permutation
    similarity: Tensor

    @torch.no_grad()
    def apply(self, symmetry: Symmetry, samples: Tensors) -> dict[str, Tensor]:
        """
        The samples, rearranged.

        :param samples: by name, each ``[S, ...]``.
        """
        each = [
            symmetry.apply({name: value[s] for name, value in samples.items()}, self.permutation[s])
            for s in range(len(self.similarity))
        ]
        return {name: torch.stack([one[name] for one in each]) for name in samples}


def align(
    samples: Tensors,
    symmetry: Symmetry,
    *,
    template: str | Tensors = "mean",
    by: str | Activations = "weights",
    restarts: int = 0,
    seed: int = 0,
    n_jobs: int = 1,
) -> Alignment:
    """
    Rearrange the units of every sample so that all are alike.

    Example: samples that differ by where their units stand::

        >>> from pyro_groupprior.symmetry import align, find_symmetry
        >>> net = nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 1))
        >>> symmetry, weights = find_symmetry(net, torch.randn(2, 4)), net.state_dict()
        >>> each = [symmetry.apply(weights, symmetry.random()) for _ in range(5)]
        >>> samples = {name: torch.stack([one[name] for one in each]) for name in weights}
        >>> aligned = align(samples, symmetry).apply(symmetry, samples)
        >>> float(samples["0.weight"].std(0).max()) > 0.1, float(aligned["0.weight"].std(0).max())
        (True, 0.0)

    :param samples: parameters by name, each ``[S, ...]``, such as ``layout.unpack`` gives them of
        packed draws, or :func:`torch.func.stack_module_state` of an ensemble.
    :param Symmetry symmetry: what may be rearranged.
    :param template: what all are made like: the ``"first"`` sample; the ``"medoid"``, that with the
        least squared distance to all others once they have been aligned to the first; the
        ``"mean"`` of all, aligned to the medoid and then again and again to the mean; or one set of
        weights by name, such as another chain's.
    :param by: ``"weights"``: the inner product with the template's is maximised, that is the
        squared distance minimised; ``"likelihood"``: their density under normal distributions, one
        for each weight, of the aligned samples' means and variances, in turn with these; or
        :class:`Activations`, of which the inner product is maximised instead.
    :param int restarts: further starts of each match from random arrangements.
    :param int seed: the same seed gives the same result, whatever ``n_jobs`` is.
    :param int n_jobs: processes over which samples are spread, by joblib.
    :raises ValueError: if an argument is out of range, or shapes do not fit.
    """
    count = _check(samples, symmetry, template, by)
    if restarts < 0:
        raise ValueError(f"restarts: expected none or more, got {restarts}")
    samples = {name: value.detach() for name, value in samples.items()}
    run = _Run(symmetry, samples, by if isinstance(by, Activations) else None, restarts, seed)
    with Parallel(n_jobs=n_jobs) as parallel:
        reference = _reference(run, parallel, count, template, by == "likelihood")
        matches = run.match(parallel, range(count), *reference)
    orders = {
        axis: torch.stack([match.permutation.permutations[axis] for match in matches])
        for axis in symmetry.axes
    }
    signs = {
        name: torch.stack([match.permutation.signs[name] for match in matches])
        for name in symmetry.signs
    }
    similarity = torch.tensor([match.similarity for match in matches], dtype=torch.double)
    return Alignment(Permutation(orders, signs), similarity)


@dataclass(frozen=True)
class _Run:
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
        linear: Sequence[Block],
        quadratic: Sequence[Block] | None = None,
    ) -> list[Match]:
        """Match some samples with a reference."""
        matcher = Matcher(self.symmetry, linear, quadratic)
        chunks = [numbers[start : start + _CHUNK] for start in range(0, len(numbers), _CHUNK)]
        found = parallel(
            delayed(_match_chunk)(self.part(chunk), chunk, matcher) for chunk in chunks
        )
        return [match for part in found for match in part]

    def part(self, numbers: Sequence[int]) -> _Run:
        """Some of the samples only, to be sent to another process."""
        rows = torch.as_tensor(list(numbers))
        samples = {name: value[rows.to(value.device)] for name, value in self.samples.items()}
        return _Run(self.symmetry, samples, self.activations, self.restarts, self.seed)

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


def _match_chunk(run: _Run, numbers: Sequence[int], matcher: Matcher) -> list[Match]:
    found = []
    for place, number in enumerate(numbers):
        generator = torch.Generator().manual_seed(run.seed + number)
        features = run.features(run.sample(place))
        found.append(matcher.match(features, run.restarts, generator))
    return found


def _reference(
    run: _Run, parallel: Parallel, count: int, template: str | Tensors, likelihood: bool
) -> tuple[list[Block], ...]:
    """What all samples are matched with in the end."""
    if not isinstance(template, str):
        return (run.features(template),)
    reference = run.features(run.sample(0))
    step = max(1, math.ceil(count / _MOST_FOR_TEMPLATE))
    numbers = range(0, count, step)
    if template != "first":
        reference = _medoid(run, numbers, run.match(parallel, numbers, reference))
    if template == "mean":
        reference = _climb(run, parallel, numbers, (reference,), _mean)[0]
    if likelihood:
        start = run.moments(numbers, run.match(parallel, numbers, reference))
        return _climb(run, parallel, numbers, _normal(start), _normal)
    return (reference,)


def _medoid(run: _Run, numbers: Sequence[int], matches: Sequence[Match]) -> list[Block]:
    """Of the sample nearest to the mean: its squared distances to all others sum up to least."""
    mean, _ = run.moments(numbers, matches)
    distances = []
    for number, match in zip(numbers, matches, strict=True):
        moved = rearranged(run.symmetry, run.features(run.sample(number)), match.permutation)
        pairs = zip(moved, mean, strict=True)
        distances.append(sum(float((value - block.value).square().sum()) for value, block in pairs))
    return run.features(run.sample(numbers[distances.index(min(distances))]))


def _mean(moments: Sequence[list[Block]]) -> tuple[list[Block], ...]:
    return (moments[0],)


def _normal(moments: Sequence[list[Block]]) -> tuple[list[Block], ...]:
    """What to multiply with values and with their squares, for the log-density."""
    linear, quadratic = [], []
    for mean, squares in zip(*moments, strict=True):
        variance = squares.value - mean.value.square()
        # Of few samples some variances are far too small by chance: half way to the block's mean.
        variance = 0.5 * (variance + variance.mean()).clamp(min=1e-12)
        linear.append(Block(mean.value / variance, mean.wholes))
        quadratic.append(Block(-0.5 / variance, mean.wholes))
    return linear, quadratic


def _climb(
    run: _Run,
    parallel: Parallel,
    numbers: Sequence[int],
    reference: tuple[list[Block], ...],
    make: Callable[[Sequence[list[Block]]], tuple[list[Block], ...]],
) -> tuple[list[Block], ...]:
    """Match and take moments in turn, as long as that brings samples nearer to each other."""
    before = math.inf
    for _ in range(_SWEEPS):
        moments = run.moments(numbers, run.match(parallel, numbers, *reference))
        reference = make(moments)
        spread = sum(
            float((squares.value - mean.value.square()).sum())
            for mean, squares in zip(*moments, strict=True)
        )
        if spread > (1 - _LEAST) * before:
            break
        before = spread
    return reference


def _check(samples: Tensors, symmetry: Symmetry, template: str | Tensors, by: object) -> int:
    """:return: how many samples there are."""
    missing = sorted(symmetry.tensors.keys() - samples.keys())
    if missing:
        raise ValueError(f"samples: expected {sorted(symmetry.tensors)}, {missing} missing")
    counts = sorted({len(value) for value in samples.values()})
    if len(counts) != 1 or not counts[0]:
        raise ValueError(f"samples: expected as many of each tensor, got {counts}")
    for name, dims in symmetry.tensors.items():
        shape = (counts[0], *(dim.size for dim in dims))
        if samples[name].shape != shape:
            raise ValueError(
                f"samples[{name!r}]: expected shape {shape}, got {tuple(samples[name].shape)}"
            )
        if not bool(samples[name].isfinite().all()):
            raise ValueError(f"samples[{name!r}]: expected finite numbers, got NaN or inf")
    if isinstance(template, str) and template not in ("first", "medoid", "mean"):
        raise ValueError(
            f"template: expected 'first', 'medoid', 'mean' or tensors, got {template!r}"
        )
    if by not in ("weights", "likelihood") and not isinstance(by, Activations):
        raise ValueError(f"by: expected 'weights', 'likelihood' or Activations, got {by!r}")
    if by == "likelihood" and not isinstance(template, str):
        raise ValueError("template: expected a name, as by='likelihood' makes one of all samples")
    return counts[0]
