# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""How weights move during training: snapshots in bounded memory, and their correlations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

MIN_SNAPSHOTS = 4
GIB = 2**30
CHUNK = 2**18  # elements worked on at once: measured, as many as the cache holds


class Trajectories:
    """
    Snapshots of the posterior moments of ``W`` weights, evenly spread over all of training, in
    bounded memory on the CPU.

    Of the snapshots offered, every ``stride``-th is kept, starting with the first; at first
    ``stride`` is 1. One that is due when the store is full first thins it: every second snapshot
    is dropped and ``stride`` doubles. Snapshots offered between two that are due are not kept, so
    that the last one kept may be up to ``stride - 1`` offers old.

    Example::

        >>> store = Trajectories(max_snapshots=4)
        >>> for step in range(6):
        ...     kept = store.append(torch.full((3,), float(step)), step=step)
        >>> store.steps, store.stride, store.means.shape
        ([0, 2, 4], 2, torch.Size([3, 3]))

    :param int max_snapshots: keep at most so many, at least 4 (an odd number counts as one less).
    :param float max_memory: GiB that they may take; fewer are kept where it is not enough.
    :param torch.dtype dtype: what they are stored in; ``torch.float16`` halves the memory.
    :raises TypeError: if ``dtype`` is no floating one.
    :raises ValueError: if a number is out of range.
    """

    def __init__(
        self,
        max_snapshots: int = 32,
        max_memory: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if max_snapshots < MIN_SNAPSHOTS:
            raise ValueError(
                f"max_snapshots: expected at least {MIN_SNAPSHOTS}, got {max_snapshots}"
            )
        if not max_memory > 0:
            raise ValueError(f"max_memory: expected a positive number of GiB, got {max_memory}")
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TypeError(f"dtype: expected a floating torch.dtype, got {dtype}")
        self.max_snapshots, self.max_memory, self.dtype = max_snapshots, max_memory, dtype
        self.steps: list[int] = []
        self.stride = 1
        self.num_offered = 0
        # Allocated once, as [rows, W]: a list of snapshots would need as much again to stack.
        self._means: Tensor | None = None
        self._sds: Tensor | None = None

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def means(self) -> Tensor:
        """Posterior means, shape ``[T, W]``: a view, which the next :meth:`append` may change."""
        none = torch.empty(0, 0, dtype=self.dtype)
        return none if self._means is None else self._means[: len(self)]

    @property
    def sds(self) -> Tensor | None:
        """Standard deviations, shape ``[T, W]``, a view as well; None if none were given."""
        return None if self._sds is None else self._sds[: len(self)]

    @property
    def num_bytes(self) -> int:
        """Bytes set aside for the snapshots."""
        return sum(s.numel() * s.element_size() for s in self._stores())

    def append(self, mean: Tensor, sd: Tensor | None = None, step: int | None = None) -> bool:
        """
        Offer a snapshot.

        :param Tensor mean: posterior means, shape ``[W]``.
        :param Tensor sd: standard deviations, shape ``[W]``; for all snapshots or for none.
        :param int step: when it was taken; default: the number of snapshots offered before.
        :return: whether it was kept.
        :raises ValueError: if the shapes are not those of the first snapshot, a value is not
            finite in the ``dtype`` of the store, or not even four snapshots fit.
        """
        rows = [mean] if sd is None else [mean, sd]
        self._check(rows)
        if not self.is_due:
            self.num_offered += 1
            return False
        rows = [row.detach().to("cpu", self.dtype) for row in rows]
        for name, row in zip(("mean", "sd"), rows):
            if not row.isfinite().all():
                raise ValueError(f"{name}: expected numbers that are finite in {self.dtype}")
        if self._means is None:
            self._allocate(mean.numel(), len(rows))
        if len(self) == self._capacity:
            self._thin()
        for store, row in zip(self._stores(), rows):
            store[len(self)] = row
        self.steps.append(self.num_offered if step is None else step)
        self.num_offered += 1
        return True

    @property
    def is_due(self) -> bool:
        """Whether the next snapshot offered is kept; if not, it need not be computed."""
        return self.num_offered % self.stride == 0

    def skip(self) -> None:
        """
        Count a snapshot as offered that is not due, without computing it.

        :raises RuntimeError: if it is due.
        """
        if self.is_due:
            raise RuntimeError("skip: the next snapshot is due; append it")
        self.num_offered += 1

    def clear(self) -> None:
        """Forget all snapshots; the memory is kept for those to come."""
        self.steps, self.stride, self.num_offered = [], 1, 0

    def state_dict(self) -> dict[str, Tensor]:
        """All there is to save, as plain tensors; views of the store, as in ``nn.Module``."""
        state = {
            "means": self.means,
            "steps": torch.tensor(self.steps, dtype=torch.int64),
            "counters": torch.tensor([self.stride, self.num_offered]),
        }
        return state if self.sds is None else {**state, "sds": self.sds}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """
        Take up what :meth:`state_dict` gave, thinned where the limits of this store ask for it.

        :raises ValueError: if the parts do not fit together, or not even four snapshots fit.
        """
        missing = {"means", "steps", "counters"} - set(state)
        if missing:
            raise ValueError(f"state: expected the entries of a state_dict, got no {missing}")
        stores = [state["means"], *([state["sds"]] if "sds" in state else [])]
        steps = state["steps"].tolist()
        if any(store.shape != (len(steps), stores[0].shape[-1]) for store in stores):
            raise ValueError(
                f"state: expected tensors with a row for each of {len(steps)} steps, got shapes "
                f"{[tuple(store.shape) for store in stores]}"
            )
        stride, num_offered = state["counters"].tolist()
        loaded = Trajectories(self.max_snapshots, self.max_memory, self.dtype)
        if stores[0].numel():
            loaded._allocate(stores[0].shape[1], len(stores))
            every = 1
            while len(steps[::every]) > loaded._capacity:
                every *= 2
            loaded.steps, stride = steps[::every], stride * every
            for own, saved in zip(loaded._stores(), stores):
                own[: len(loaded)] = saved[::every]
        loaded.stride, loaded.num_offered = stride, num_offered
        self.__dict__.update(loaded.__dict__)

    @property
    def _capacity(self) -> int:
        assert self._means is not None
        return len(self._means)

    def _stores(self) -> list[Tensor]:
        return [store for store in (self._means, self._sds) if store is not None]

    def _check(self, rows: list[Tensor]) -> None:
        size = rows[0].shape[:1] if self._means is None else self._means.shape[1:]
        for name, row in zip(("mean", "sd"), rows):
            if row.shape != size or row.dim() != 1 or row.numel() == 0:
                width = "[W]" if self._means is None else f"[{size[0]}]"
                raise ValueError(f"{name}: expected shape {width}, got {list(row.shape)}")
        if self._means is not None and len(rows) != len(self._stores()):
            wanted = "as with" if self._sds is not None else "none, as without"
            raise ValueError(f"sd: expected {wanted} the snapshots before")

    def _allocate(self, width: int, num_stores: int) -> None:
        each = width * num_stores * torch.empty(0, dtype=self.dtype).element_size()
        rows = min(self.max_snapshots, int(self.max_memory * GIB / each))
        rows -= rows % 2  # so that a full store is next due, thinned or not, at the same time
        if rows < MIN_SNAPSHOTS:
            raise ValueError(
                f"max_memory: {MIN_SNAPSHOTS} snapshots of {width} weights take "
                f"{MIN_SNAPSHOTS * each / GIB:.3g} GiB, got {self.max_memory}; leave out the sd or "
                "store float16 to halve that"
            )
        # Pages that no snapshot was written to yet take no memory.
        stores = [torch.empty(rows, width, dtype=self.dtype) for _ in range(num_stores)]
        self._means, self._sds = stores[0], stores[1] if num_stores == 2 else None

    def _thin(self) -> None:
        self.steps = self.steps[::2]
        for store in self._stores():
            for row in range(1, len(self)):
                store[row] = store[2 * row]
        self.stride *= 2


def standardized(trajectories: Tensor) -> Tensor:
    """
    One row for each weight: its trajectory, centred over time and scaled to unit norm, so that the
    product of two rows is their Pearson correlation. Rows that never move are zero.

    Example::

        >>> standardized(torch.tensor([[1.0, 0.0, 5.0], [3.0, 0.0, 1.0]]))
        tensor([[-0.7071,  0.7071],
                [ 0.0000,  0.0000],
                [ 0.7071, -0.7071]])

    :param Tensor trajectories: shape ``[T, W]``: snapshots over time, or posterior draws.
    :return: shape ``[W, T]``; worked out in pieces, so that it is all the memory needed.
    :raises ValueError: if there are fewer than two snapshots, or a value is not finite.
    """
    _check_snapshots(trajectories)
    steps, width = trajectories.shape
    result = trajectories.new_empty((width, steps), dtype=_precision(trajectories))
    for part in _parts(width, steps):
        result[part] = _unit_rows(trajectories[:, part])
    return result


def pair_correlations(trajectories: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """
    Pearson correlation of chosen pairs of weights; no ``W x W`` matrix is formed. The correlation
    with a weight that never moves is 0.

    Example::

        >>> draws = torch.tensor([[0.0, 0.0, 1.0], [1.0, 2.0, 0.0], [2.0, 4.0, -1.0]])
        >>> pair_correlations(draws, torch.tensor([0, 0]), torch.tensor([1, 2]))
        tensor([ 1., -1.])

    :param Tensor trajectories: shape ``[T, W]``: snapshots over time, or posterior draws.
    :param Tensor first: indices of weights, shape ``[P]``.
    :param Tensor second: those they are paired with, shape ``[P]``.
    :return: shape ``[P]``.
    :raises ValueError: if the shapes do not fit, there are fewer than two snapshots, or a value
        is not finite.
    :raises IndexError: if an index is out of range.
    """
    _check_snapshots(trajectories)
    if first.dim() != 1 or first.shape != second.shape:
        raise ValueError(
            f"first, second: expected two index vectors of one length, got shapes "
            f"{list(first.shape)} and {list(second.shape)}"
        )
    result = trajectories.new_empty(len(first), dtype=_precision(trajectories))
    for part in _parts(len(first), len(trajectories)):
        rows = [_unit_rows(trajectories[:, index[part]]) for index in (first, second)]
        result[part] = (rows[0] * rows[1]).sum(1)
    return result.clamp_(-1, 1)


def correlation_matrix(trajectories: Tensor, max_weights: int = 5000) -> Tensor:
    """
    Pearson correlations of all pairs of weights, for small nets. A weight that never moves has
    correlation 0 with all others.

    Example::

        >>> draws = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, -1.0]])
        >>> correlation_matrix(draws).round(decimals=3)
        tensor([[ 1., -1.],
                [-1.,  1.]])

    :param Tensor trajectories: shape ``[T, W]``: snapshots over time, or posterior draws.
    :param int max_weights: refuse more weights than this, since memory is quadratic in it.
    :return: shape ``[W, W]``.
    :raises ValueError: if there are too many weights or fewer than two snapshots, or a value is
        not finite.
    """
    if trajectories.dim() == 2 and trajectories.shape[1] > max_weights:
        raise ValueError(
            f"trajectories: expected at most max_weights={max_weights} weights for the matrix of "
            f"all pairs, got {trajectories.shape[1]}; use pair_correlations or standardized"
        )
    rows = standardized(trajectories)
    return (rows @ rows.T).clamp_(-1, 1).fill_diagonal_(1)


def _check_snapshots(trajectories: Tensor) -> None:
    if trajectories.dim() != 2 or len(trajectories) < 2:
        raise ValueError(
            f"trajectories: expected shape [T, W] with at least 2 snapshots, got "
            f"{list(trajectories.shape)}"
        )


def _precision(trajectories: Tensor) -> torch.dtype:
    single = trajectories.dtype.itemsize < 4 or not trajectories.is_floating_point()
    return torch.float32 if single else trajectories.dtype


def _parts(total: int, width: int) -> Iterator[slice]:
    size = max(1, CHUNK // width)
    return (slice(start, start + size) for start in range(0, total, size))


def _unit_rows(columns: Tensor) -> Tensor:
    """Standardised rows, float64, of columns ``[T, n]``."""
    # Differences are exactly zero where nothing moves, whatever a mean would round to.
    moves = columns.double() - columns[0].double()
    moves -= moves.mean(0)
    size = torch.linalg.vector_norm(moves, dim=0)
    if not size.isfinite().all():
        raise ValueError("trajectories: expected finite values")
    moves /= size.where(size > 0, 1.0)
    return moves.T
