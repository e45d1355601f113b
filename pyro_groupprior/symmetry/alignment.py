# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Many samples of a net's weights, each rearranged to be as like the others as possible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from sklearn.utils.parallel import Parallel
from torch import Tensor

from .activations import Activations
from .spec import Permutation, Symmetry
from .templates import Run, Tensors, find_reference


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

    :param samples: parameters, and buffers that units go along with, by name, each ``[S, ...]``:
        ``layout.unpack(draws, aliases=True)``, or ``params | buffers`` of an ensemble by
        :func:`torch.func.stack_module_state`.
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
    :param int n_jobs: threads over which samples are spread, by joblib.
    :raises TypeError: if the template is neither a name nor tensors by name, or samples are no
        floating-point numbers.
    :raises ValueError: if an argument is out of range, or shapes do not fit.
    """
    count = _check(samples, symmetry, template, by)
    if restarts < 0:
        raise ValueError(f"restarts: expected none or more, got {restarts}")
    samples = {name: value.detach() for name, value in samples.items()}
    if not isinstance(template, str):
        template = {name: template[name].detach().to(samples[name]) for name in symmetry.tensors}
    run = Run(symmetry, samples, by if isinstance(by, Activations) else None, restarts, seed)
    # Assignments and products release Python's lock, and nets are run as graphs without a state.
    with Parallel(n_jobs=n_jobs, prefer="threads") as parallel:
        reference = find_reference(run, parallel, count, template, by == "likelihood")
        matches = run.match(parallel, range(count), reference)
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
        if not samples[name].is_floating_point():
            raise TypeError(f"samples[{name!r}]: expected floats, got {samples[name].dtype}")
        if not bool(samples[name].isfinite().all()):
            raise ValueError(f"samples[{name!r}]: expected finite numbers, got NaN or inf")
    if not isinstance(template, (str, Mapping)):
        got = type(template).__name__
        raise TypeError(f"template: expected a name or tensors by name, got {got}")
    if isinstance(template, str) and template not in ("first", "medoid", "mean"):
        raise ValueError(
            f"template: expected 'first', 'medoid', 'mean' or tensors, got {template!r}"
        )
    if by not in ("weights", "likelihood") and not isinstance(by, Activations):
        raise ValueError(f"by: expected 'weights', 'likelihood' or Activations, got {by!r}")
    if isinstance(by, Activations) and by.symmetry.axes != symmetry.axes:
        raise ValueError(
            f"by: expected activations of a net with the axes {symmetry.axes}, got one with "
            f"{by.symmetry.axes}; give it the same movable"
        )
    if not isinstance(template, str):
        for name, dims in symmetry.tensors.items():
            shape = tuple(dim.size for dim in dims)
            got = tuple(template[name].shape) if name in template else "none"
            if got != shape:
                raise ValueError(f"template[{name!r}]: expected shape {shape}, got {got}")
    if by == "likelihood" and not isinstance(template, str):
        raise ValueError("template: expected a name, as by='likelihood' makes one of all samples")
    return counts[0]
