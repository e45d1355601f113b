# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Names, shapes and places of the tensors that are packed into one weight site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Entry:
    """
    One tensor of a net and its place in the packed vector.

    :param str name: parameter name, as in ``net.named_parameters()``.
    :param shape: its shape.
    :param int start: offset of its first element in the packed vector.
    :param aliases: further names of the same tensor, where weights are tied.
    """

    name: str
    shape: torch.Size
    start: int
    aliases: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.shape.numel()

    @property
    def stop(self) -> int:
        """Offset after its last element."""
        return self.start + self.size

    @property
    def slice(self) -> slice:
        """Where its elements stand in the packed vector."""
        return slice(self.start, self.stop)


class Layout(Sequence[Entry]):
    """
    How named tensors lie one after another in one vector of ``W`` weights.

    Example::

        >>> layout = Layout([("a", torch.Size([2, 3])), ("b", torch.Size([2]))])
        >>> layout.num_weights, layout["b"].slice
        (8, slice(6, 8, None))
        >>> {name: tuple(t.shape) for name, t in layout.unpack(torch.arange(8.0)).items()}
        {'a': (2, 3), 'b': (2,)}

    :param shapes: names and shapes, in packing order.
    :param aliases: for tied tensors, the further names of each.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[str, torch.Size]],
        aliases: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        entries, start = [], 0
        for name, shape in shapes:
            entry = Entry(name, torch.Size(shape), start, tuple((aliases or {}).get(name, ())))
            entries.append(entry)
            start = entry.stop
        self.entries: tuple[Entry, ...] = tuple(entries)
        self.num_weights: int = start
        self._by_name = {entry.name: entry for entry in entries}
        self._sizes = [entry.size for entry in entries]

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __getitem__(self, key: int | str) -> Entry:  # type: ignore[override]
        """An entry by position or by name."""
        if isinstance(key, int):
            return self.entries[key]
        if key not in self._by_name:
            raise KeyError(f"no packed tensor named {key!r}; there are {list(self._by_name)}")
        return self._by_name[key]

    @property
    def names(self) -> list[str]:
        """Names of the packed tensors, in packing order."""
        return list(self._by_name)

    def pack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """
        The packed vector of named tensors, shape ``[W]``.

        :raises KeyError: if a tensor is missing.
        :raises ValueError: if a shape does not fit.
        """
        for entry in self.entries:
            if entry.name not in tensors:
                raise KeyError(f"tensors: {entry.name!r} is missing")
            if tensors[entry.name].shape != entry.shape:
                raise ValueError(
                    f"tensors[{entry.name!r}]: expected shape {tuple(entry.shape)}, "
                    f"got {tuple(tensors[entry.name].shape)}"
                )
        return torch.cat([tensors[entry.name].reshape(-1) for entry in self.entries])

    def unpack(self, flat: Tensor, aliases: bool = False) -> dict[str, Tensor]:
        """
        Views of a packed vector under their names. Leading dimensions (draws) stay in front.

        :param Tensor flat: shape ``[..., W]``.
        :param bool aliases: also list tied tensors under their further names.
        :raises ValueError: if the last dimension is not ``W``.
        """
        if flat.shape[-1] != self.num_weights:
            raise ValueError(
                f"flat: expected last dimension {self.num_weights}, got {flat.shape[-1]}"
            )
        # One split, not a slice for each tensor: its gradient is one concatenation.
        pieces = flat.split(self._sizes, dim=-1)
        batch = flat.shape[:-1]
        named = {
            entry.name: piece.reshape(batch + entry.shape if batch else entry.shape)
            for entry, piece in zip(self.entries, pieces, strict=True)
        }
        if aliases:
            for entry in self.entries:
                named.update(dict.fromkeys(entry.aliases, named[entry.name]))
        return named
