# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""
Numbers in about as many bits as their entropy, by the range coder of ``constriction``.

Probabilities are made by sums, products and quotients only, which are the same on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LEAST = 2.0**-16  # probability of anything that can be
WHOLE = 2.0**24  # in which probabilities are counted
CLASSES = 16  # how densely a row is filled, in steps of a factor of 2
MIDDLE = 8
PRIORS = (2.0, 8.0, 32.0, 128.0)  # rows' worth of the overall share that columns start with


def _stream() -> Any:
    try:
        import constriction
    except ImportError as error:
        raise ImportError(
            "files of shared posteriors need the package constriction; install "
            "pyro_groupprior[sharing]"
        ) from error
    return constriction.stream


class Encoder:
    """
    Write symbols one array after the other; :class:`Decoder` reads them in the same order.

    Example::

        >>> import numpy as np
        >>> from pyro_groupprior.sharing.coding import Decoder, Encoder
        >>> encoder, counts = Encoder(), np.array([90, 10])
        >>> encoder.symbols(np.arange(100) // 90, counts)
        >>> words = encoder.words()
        >>> len(words) * 32 < 100
        True
        >>> bool((Decoder(words).symbols(100, counts) == np.arange(100) // 90).all())
        True
    """

    def __init__(self) -> None:
        self._model = _stream().model
        self._coder = _stream().queue.RangeEncoder()

    def symbols(self, values: np.ndarray, counts: np.ndarray) -> None:
        """
        :param values: integers in ``[0, len(counts))``, ``[n]``.
        :param counts: how often each is expected; at least one of them is positive.
        """
        if len(counts) > 1 and len(values):
            model = self._model.Categorical(_probabilities(counts), perfect=False)
            self._coder.encode(np.ascontiguousarray(values, np.int32), model)

    def bits(self, values: np.ndarray, probabilities: np.ndarray) -> None:
        """
        :param values: booleans, ``[n]``.
        :param probabilities: that each is true, ``[n]``.
        """
        if len(values):
            model = self._model.Bernoulli(perfect=False)
            self._coder.encode(
                np.ascontiguousarray(values, np.int32), model, _clipped(probabilities)
            )

    def mask(self, values: np.ndarray) -> None:
        """
        Booleans whose rows and columns are filled more densely or less: each row tells how densely,
        and each column is expected to be as in the rows before.

        :param values: ``[rows, columns]``.
        """
        share = np.count_nonzero(values) / max(values.size, 1)
        costs = [_mask_cost(values, share, prior) for prior in PRIORS]
        best = int(np.argmin([cost for cost, _ in costs]))
        classes = costs[best][1]
        counts = np.bincount(classes, minlength=CLASSES)
        self.symbols(np.array([best]), np.ones(len(PRIORS)))
        self.numbers(counts)
        self.symbols(classes, counts)
        columns = _Columns(values.shape, share, PRIORS[best])
        for row, kind in zip(values, classes, strict=True):
            self.bits(row, columns.probabilities(int(kind)))
            columns.add(row)

    def numbers(self, values: np.ndarray) -> None:
        """
        Integers of at least 0 and less than ``2 ** 31``, without any expectation.

        :param values: ``[n]``.
        """
        lengths = np.array([int(value).bit_length() for value in values])
        self.symbols(lengths, np.ones(32))
        for value, length in zip(values, lengths, strict=True):
            for bit in range(int(length) - 1):
                self.symbols(np.array([int(value) >> bit & 1]), np.ones(2))

    def words(self) -> np.ndarray:
        """What has been written so far, uint32."""
        return np.asarray(self._coder.get_compressed())


class Decoder:
    """
    Read what :class:`Encoder` has written.

    :param words: uint32.
    """

    def __init__(self, words: np.ndarray) -> None:
        self._model = _stream().model
        self._coder = _stream().queue.RangeDecoder(np.ascontiguousarray(words, np.uint32))

    def symbols(self, number: int, counts: np.ndarray) -> np.ndarray:
        """:return: int32, ``[number]``."""
        if len(counts) < 2 or not number:
            return np.zeros(number, np.int32)
        model = self._model.Categorical(_probabilities(counts), perfect=False)
        return np.asarray(self._coder.decode(model, number))

    def bits(self, probabilities: np.ndarray) -> np.ndarray:
        """:return: booleans, as many as there are probabilities."""
        if not len(probabilities):
            return np.zeros(0, bool)
        model = self._model.Bernoulli(perfect=False)
        return np.asarray(self._coder.decode(model, _clipped(probabilities))) > 0

    def mask(self, shape: tuple[int, int], share: float) -> np.ndarray:
        """
        :param share: of those that are true.
        :return: booleans of the shape.
        """
        prior = PRIORS[int(self.symbols(1, np.ones(len(PRIORS)))[0])]
        counts = self.numbers(CLASSES)
        if counts.sum() != shape[0]:
            raise ValueError(f"counts: expected {shape[0]} rows, got {counts.sum()}")
        classes, columns = self.symbols(shape[0], counts), _Columns(shape, share, prior)
        values = np.empty(shape, bool)
        for row, kind in zip(values, classes, strict=True):
            row[:] = self.bits(columns.probabilities(int(kind)))
            columns.add(row)
        return values

    def numbers(self, number: int) -> np.ndarray:
        """:return: int64, ``[number]``."""
        values = []
        for length in self.symbols(number, np.ones(32)).tolist():
            value = 1 << (length - 1) if length else 0
            for bit in range(length - 1):
                value |= int(self.symbols(1, np.ones(2))[0]) << bit
            values.append(value)
        return np.array(values, np.int64)


class _Columns:
    """How densely each column has been filled so far."""

    def __init__(self, shape: tuple[int, ...], share: float, prior: float) -> None:
        self._filled = np.full(shape[1], prior * max(share, LEAST))
        self._rows = prior

    def add(self, row: np.ndarray) -> None:
        self._filled += row
        self._rows += 1.0

    def class_of(self, row: np.ndarray) -> int:
        """The power of 2, less a constant, by which the row is filled more densely than others."""
        expected = self._filled.sum() / self._rows
        power = np.round(np.log2(max(row.sum(), 0.25) / expected))
        return int(np.clip(power + MIDDLE, 0, CLASSES - 1))

    def probabilities(self, kind: int) -> np.ndarray:
        return self._filled / self._rows * 2.0 ** (kind - MIDDLE)


def _mask_cost(values: np.ndarray, share: float, prior: float) -> tuple[float, np.ndarray]:
    """How many bits a mask takes, about, and how densely each row is filled."""
    columns, classes, bits = _Columns(values.shape, share, prior), np.empty(len(values), int), 0.0
    for number, row in enumerate(values):
        kind = classes[number] = columns.class_of(row)
        probabilities = _clipped(columns.probabilities(int(kind)))
        bits -= float(np.log2(np.where(row, probabilities, 1 - probabilities)).sum())
        columns.add(row)
    return bits, classes


def _probabilities(counts: np.ndarray) -> np.ndarray:
    # Whole numbers: the order in which they are summed does not matter.
    counts = np.asarray(counts, np.float64)
    whole = np.maximum(np.floor(counts * (WHOLE / counts.sum())), counts > 0)
    return whole / whole.sum()


def _clipped(probabilities: np.ndarray) -> np.ndarray:
    return np.clip(np.asarray(probabilities, np.float64), LEAST, 1 - LEAST)
