# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The value type that says which group(s) each weight belongs to."""

from __future__ import annotations

import operator

import torch
from torch import Tensor


class Assignment:
    """
    Which group, or groups, each of ``W`` weights belongs to. Immutable; compares by value.

    A *hard* assignment gives every weight one group. A *soft* one gives every weight ``k``
    candidate groups and responsibilities that sum to one.

    Example::

        >>> hard = Assignment(torch.tensor([0, 0, 1, 2]))
        >>> hard.num_groups, hard.sizes().tolist()
        (3, [2.0, 1.0, 1.0])
        >>> shares = torch.tensor([[0.8, 0.2], [1.0, 0.0]])
        >>> soft = Assignment(torch.tensor([[0, 1], [1, 0]]), responsibilities=shares)
        >>> round(soft.churn(soft.hard()), 2)
        0.1

    :param Tensor index: integer group indices, shape ``[W]`` (hard) or ``[W, k]`` (soft); stored
        as int32, so that 25 million weights cost 100 MB.
    :param int num_groups: the number of groups ``G``; default: the largest index plus one. Groups
        may be empty.
    :param Tensor responsibilities: for a soft assignment, shape ``[W, k]``, non-negative, every
        row summing to one (within 1e-4).
    :raises TypeError: if ``index`` is not an integer tensor, ``num_groups`` not an integer or
        ``responsibilities`` not a floating-point tensor.
    :raises ValueError: if a shape, an index or a row of responsibilities is out of bounds.
    """

    __slots__ = ("_index", "_num_groups", "_responsibilities")

    def __init__(
        self,
        index: Tensor,
        num_groups: int | None = None,
        responsibilities: Tensor | None = None,
    ) -> None:
        index = torch.as_tensor(index)
        if responsibilities is not None:
            responsibilities = torch.as_tensor(responsibilities)
        if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
            raise TypeError(f"index: expected an integer tensor, got {index.dtype}")
        _check_shapes(index, responsibilities)
        largest = int(index.max())
        if num_groups is None:
            num_groups = largest + 1
        num_groups = _integer("num_groups", num_groups)
        if int(index.min()) < 0 or largest >= num_groups:
            bad = int(index.min()) if int(index.min()) < 0 else largest
            raise ValueError(f"index: expected values in [0, {num_groups}), got {bad}")
        if responsibilities is not None:
            _check_responsibilities(responsibilities)
        # Copied, so that writing to the caller's tensors later cannot change the value.
        self._index = index.detach().to(torch.int32, copy=True)
        self._num_groups = num_groups
        self._responsibilities = (
            None if responsibilities is None else responsibilities.detach().clone()
        )

    @classmethod
    def trusted(cls, index: Tensor, num_groups: int, responsibilities: Tensor | None) -> Assignment:
        """Wrap tensors that are known to be valid, without a copy or a check."""
        self = object.__new__(cls)
        self._index, self._num_groups, self._responsibilities = index, num_groups, responsibilities
        return self

    @classmethod
    def from_dense(cls, responsibilities: Tensor, top_k: int | None = None) -> Assignment:
        """
        A soft assignment from a full matrix of responsibilities, for example the output of a
        mixture's ``predict_proba``.

        Example::

            >>> Assignment.from_dense(torch.tensor([[0.6, 0.3, 0.1]]), top_k=2).index.tolist()
            [[0, 1]]

        :param Tensor responsibilities: shape ``[W, G]``, every row summing to one.
        :param int top_k: keep this many largest entries of a row and renormalise; default: all.
        :raises ValueError: if a row does not sum to one, or ``top_k`` is not in ``[1, G]``.
        """
        responsibilities = torch.as_tensor(responsibilities)
        if responsibilities.dim() != 2:
            raise ValueError(
                f"responsibilities: expected shape [W, G], got {tuple(responsibilities.shape)}"
            )
        num_groups = responsibilities.shape[1]
        top_k = num_groups if top_k is None else top_k
        if not 1 <= top_k <= num_groups:
            raise ValueError(f"top_k: expected a value in [1, {num_groups}], got {top_k}")
        _check_responsibilities(responsibilities)
        kept, index = responsibilities.topk(top_k, dim=1)
        return cls(index, num_groups, kept / kept.sum(1, keepdim=True))

    @property
    def index(self) -> Tensor:
        """Group indices, int32, shape ``[W]`` (hard) or ``[W, k]`` (soft)."""
        return self._index

    @property
    def responsibilities(self) -> Tensor | None:
        """Shape ``[W, k]``, or None for a hard assignment."""
        return self._responsibilities

    @property
    def num_groups(self) -> int:
        """The number of groups ``G``, empty ones included."""
        return self._num_groups

    @property
    def num_weights(self) -> int:
        """The number of weights ``W``."""
        return self._index.shape[0]

    @property
    def is_soft(self) -> bool:
        """Whether weights may belong to several groups."""
        return self._responsibilities is not None

    @property
    def device(self) -> torch.device:
        """Where the indices live."""
        return self._index.device

    def sizes(self) -> Tensor:
        """
        The number of weights in each group (soft: the sum of responsibilities), shape ``[G]``,
        float64.
        """
        if self._responsibilities is None:
            return torch.bincount(self._index, minlength=self._num_groups).double()
        total = torch.zeros(self._num_groups, dtype=torch.float64, device=self.device)
        for start in range(0, self.num_weights, _CHUNK):
            rows = slice(start, start + _CHUNK)
            shares = self._responsibilities[rows].reshape(-1)
            total += torch.bincount(self._index[rows].reshape(-1), shares, self._num_groups)
        return total

    def hard(self) -> Assignment:
        """Every weight in its most probable group; a hard assignment returns itself."""
        if self._responsibilities is None:
            return self
        index = torch.empty(self.num_weights, dtype=torch.int32, device=self.device)
        for start in range(0, self.num_weights, _CHUNK):
            rows = slice(start, start + _CHUNK)
            index[rows] = _most_probable(*_slots(self, rows))
        return Assignment.trusted(index, self._num_groups, None)

    def dense(self) -> Tensor:
        """The full matrix of responsibilities, shape ``[W, G]``: for small nets only."""
        index = self._index.long().reshape(self.num_weights, -1)
        values = self._responsibilities
        if values is None:
            values = torch.ones(index.shape, device=self.device)
        full = values.new_zeros(self.num_weights, self._num_groups)
        return full.scatter_add_(1, index, values)

    def churn(self, other: Assignment) -> float:
        """
        The share of the weights that are grouped differently in ``other``: between hard
        assignments the share of unequal indices, otherwise the mean total variation distance
        between the two rows of responsibilities. Labels are compared as they stand.

        :raises ValueError: if ``other`` is for another number of weights.
        """
        if other.num_weights != self.num_weights:
            raise ValueError(f"other: expected {self.num_weights} weights, got {other.num_weights}")
        if self.num_weights == 0:
            return 0.0
        other = other.to(self.device)
        if not self.is_soft and not other.is_soft:
            return float((self._index != other._index).double().mean())
        total = 0.0
        for start in range(0, self.num_weights, _CHUNK):
            rows = slice(start, start + _CHUNK)
            total += _total_variation(*_slots(self, rows), *_slots(other, rows))
        return max(total / self.num_weights, 0.0)

    def relabel(self, labels: Tensor, num_groups: int | None = None) -> Assignment:
        """
        Rename, permute or merge groups.

        Example::

            >>> Assignment(torch.tensor([0, 1, 2])).relabel(torch.tensor([1, 0, 0])).index.tolist()
            [1, 0, 0]

        :param Tensor labels: shape ``[G]``: the new label of each present group.
        :param int num_groups: the new number of groups; default: the largest label plus one.
        :raises TypeError: if ``labels`` is not an integer tensor.
        :raises ValueError: if ``labels`` does not name a group for each present one.
        """
        labels = torch.as_tensor(labels, device=self.device)
        if labels.shape != (self._num_groups,):
            raise ValueError(
                f"labels: expected shape [{self._num_groups}], one label for each group, "
                f"got {tuple(labels.shape)}"
            )
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"labels: expected an integer tensor, got {labels.dtype}")
        num_groups = int(labels.max()) + 1 if num_groups is None else num_groups
        if int(labels.min()) < 0 or int(labels.max()) >= num_groups:
            raise ValueError(f"labels: expected values in [0, {num_groups}), got {labels.tolist()}")
        if num_groups == self._num_groups and torch.equal(
            labels, torch.arange(len(labels), device=self.device)
        ):
            return self
        flat = labels.int().index_select(0, self._index.reshape(-1))
        return Assignment.trusted(
            flat.reshape(self._index.shape), num_groups, self._responsibilities
        )

    def to(self, device: torch.device | str) -> Assignment:
        """The same assignment on another device; itself, if it is there already."""
        device = torch.device(device)
        if device == self.device:
            return self
        moved = None if self._responsibilities is None else self._responsibilities.to(device)
        return Assignment.trusted(self._index.to(device), self._num_groups, moved)

    def thinned(self, stride: int) -> Assignment:
        """
        The grouping of every ``stride``-th weight, as views.

        Example::

            >>> Assignment(torch.tensor([0, 1, 2, 0])).thinned(2).index.tolist()
            [0, 2]
        """
        shares = None if self._responsibilities is None else self._responsibilities[::stride]
        return Assignment.trusted(self._index[::stride], self._num_groups, shares)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Assignment):
            return NotImplemented
        if (self._num_groups, self._index.shape, self.is_soft) != (
            other._num_groups,
            other._index.shape,
            other.is_soft,
        ):
            return False
        other = other.to(self.device)
        if not torch.equal(self._index, other._index):
            return False
        if self._responsibilities is None or other._responsibilities is None:
            return True
        return torch.equal(self._responsibilities, other._responsibilities)

    # A value type over tensors has no cheap hash; say so instead of hashing by identity.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        kind = f"soft, top {self._index.shape[1]}" if self.is_soft else "hard"
        return f"Assignment({kind}, num_weights={self.num_weights}, num_groups={self.num_groups})"


def _integer(argument: str, value: object) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{argument}: expected an integer, got {value!r}") from None


_CHUNK = 2**13  # weights at a time: they stay in cache, and on one thread


def _most_probable(index: Tensor, shares: Tensor) -> Tensor:
    """The group of each weight, from its slots."""
    # Ties go to the lowest group, not to the first slot, so that the order of slots is moot.
    best = shares.amax(0)
    return index.masked_fill(shares < best, torch.iinfo(torch.int32).max).amin(0)


def _slots(assignment: Assignment, rows: slice) -> tuple[Tensor, Tensor]:
    """
    Groups and shares of some weights, shape ``[k, n]``, so that what is compared lies side by side
    in memory; each group of a weight in one slot only.
    """
    index = assignment.index[rows]
    if assignment.responsibilities is None:
        return index.unsqueeze(0), torch.ones(1, len(index), device=index.device)
    index = index.T.contiguous()
    # A copy, also where there is one slot, since it is written to.
    shares = assignment.responsibilities[rows].T.clone(memory_format=torch.contiguous_format)
    # Slots may name the same group, as after merging groups: the first of them takes all.
    for slot in range(1, len(index)):
        for earlier in range(slot):
            same = index[slot] == index[earlier]
            if bool(same.any()):
                moved = shares[slot] * same
                shares[earlier] += moved
                shares[slot] -= moved
    return index, shares


def _total_variation(index: Tensor, shares: Tensor, other: Tensor, other_shares: Tensor) -> float:
    """Total variation distance between weights, summed over them."""
    shared = shares.new_zeros(shares.shape[1])
    for group, share in zip(index, shares):
        for other_group, other_share in zip(other, other_shares):
            shared += torch.minimum(share, other_share).mul_(group == other_group)
    return float((shares.sum(0) + other_shares.sum(0)).mul_(0.5).sub_(shared).sum())


def _check_shapes(index: Tensor, responsibilities: Tensor | None) -> None:
    dims = 1 if responsibilities is None else 2
    shape = "[W]" if responsibilities is None else "[W, k], as responsibilities are given"
    if index.dim() != dims:
        raise ValueError(f"index: expected shape {shape}, got {tuple(index.shape)}")
    if index.numel() == 0:
        raise ValueError("index: expected at least one weight, got none")
    if responsibilities is not None and responsibilities.shape != index.shape:
        raise ValueError(
            f"responsibilities: expected the shape of index {tuple(index.shape)}, "
            f"got {tuple(responsibilities.shape)}"
        )


def _check_responsibilities(responsibilities: Tensor) -> None:
    if not responsibilities.is_floating_point():
        raise TypeError(
            f"responsibilities: expected a floating-point tensor, got {responsibilities.dtype}"
        )
    if not bool((responsibilities >= 0).all()):
        raise ValueError("responsibilities: expected non-negative numbers, got negative or NaN")
    worst = (responsibilities.double().sum(1) - 1).abs()
    if bool((worst > 1e-4).any()):
        row = int(worst.argmax())
        raise ValueError(
            f"responsibilities: expected rows that sum to 1, got {responsibilities[row].sum():.6g} "
            f"in row {row}"
        )
