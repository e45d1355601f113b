# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Predictions against an input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from torch import Tensor

from ..predictive import Prediction
from .axes import COLOURS, make_axes
from .predicted import FITTED, check_level, predicted_numbers
from .sources import tree_group

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INPUTS = {FITTED: "constant_data", "predictions": "predictions_constant_data"}


def plot_bands(
    prediction: Prediction | xr.DataTree,
    x: Tensor | None = None,
    y: Tensor | None = None,
    ax: Axes | None = None,
    level: float = 0.9,
    *,
    column: int = 0,
    output: int = 0,
    group: str = FITTED,
    x_label: str = "",
    shift: float = 0.0,
    scale: float = 1.0,
    unit: str = "",
) -> Axes:
    """
    Predictive mean and central intervals against one input: the outer interval is that of an
    observation, the inner one that of the mean, which is what more data could narrow (epistemic;
    not known of a tree). Of inputs with one column that varies these are bands, else, since
    neighbours may differ in other columns, a bar for each row.

    Example::

        >>> model = BayesianModule(nn.Linear(1, 1), likelihoods.Normal())
        >>> x = torch.linspace(-1, 1, 10).unsqueeze(1)
        >>> prediction = predict(model, AutoMeanField(model), x)
        >>> plot_bands(prediction, x, x_label="time (s)", unit="m").get_ylabel()
        'prediction (m)'

    :param prediction: of numbers; or a tree that :func:`~pyro_groupprior.datatree.to_datatree` has
        made with ``x``.
    :param Tensor x: the rows' inputs, ``[N]`` or ``[N, D]``; of a tree, its own by default.
    :param Tensor y: observations, drawn as points; of a tree, its own by default.
    :param ax: axes to draw on; default: new ones.
    :param float level: probability of the intervals, between 0 and 1.
    :param int column: which input is the abscissa.
    :param int output: which of several outputs a row.
    :param str group: of a tree, ``"posterior_predictive"`` or, for ``new_x``, ``"predictions"``.
    :param str x_label: the input's name and unit.
    :param float shift: to show standardised targets in their own unit: ``shift + scale * y``.
    :param float scale: likewise.
    :param str unit: its name.
    :return: the axes.
    :raises ImportError: if Matplotlib is missing.
    :raises TypeError: if the prediction is of class labels, or ``x`` is missing.
    :raises ValueError: if the level is not between 0 and 1, the inputs or ``y`` do not fit, there
        is no such column, output or group, or the tree has no predictions.
    """
    check_level(level)
    if group not in INPUTS:
        raise ValueError(f"group: expected one of {list(INPUTS)}, got {group!r}")
    found = predicted_numbers(prediction, y, level, group)
    inputs = _inputs(prediction, x, group, len(found.mean))
    values = _column("column", column, inputs)
    mean, low, high = (
        shift + scale * _column("output", output, part)
        for part in (found.mean, found.low, found.high)
    )
    order = np.argsort(values, kind="stable")
    smooth = not np.delete(np.ptp(inputs, axis=0), column).any()
    ax = make_axes(ax)
    ends = [(low, high, COLOURS[5], 0.35, f"{level:.0%} interval of an observation")]
    if found.mean_low is not None and found.mean_high is not None:
        below, above = (
            shift + scale * _column("output", output, part)
            for part in (found.mean_low, found.mean_high)
        )
        ends.append((below, above, COLOURS[0], 0.45, f"{level:.0%} interval of the mean"))
    for number, (below, above, colour, alpha, label) in enumerate(ends):
        bounds: dict[str, Any] = {"color": colour, "alpha": alpha, "label": label}
        if smooth:
            ax.fill_between(values[order], below[order], above[order], lw=0, **bounds)
        else:
            bounds["alpha"] = 0.7
            ax.vlines(values, below, above, lw=1.2 + 1.3 * number, **bounds)
    if smooth:
        ax.plot(values[order], mean[order], color="black", lw=1.4, label="predictive mean")
    else:
        ax.plot(values, mean, "_", color="black", ms=5, label="predictive mean")
    if found.seen is not None:
        seen = shift + scale * _column("output", output, found.seen)
        style: dict[str, Any] = {"ms": 4, "mfc": COLOURS[1], "mec": "black", "mew": 0.5}
        ax.plot(values, seen, "o", label="observed", zorder=3, **style)
    ax.set_xlabel(x_label or ("input" if inputs.shape[1] == 1 else f"input {column}"))
    ax.set_ylabel("prediction" + (f" ({unit})" if unit else ""))
    # Above the axes: inside, it would hide some part of the bands.
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return ax


def _inputs(
    prediction: Prediction | xr.DataTree, x: Tensor | None, group: str, rows: int
) -> np.ndarray:
    """``[N, D]``."""
    if x is not None:
        values = x.detach().cpu().numpy()
    elif isinstance(prediction, xr.DataTree):
        constants = tree_group(prediction, INPUTS[group])
        if "x" not in constants:
            raise ValueError(f"tree: {INPUTS[group]} has no inputs; give x")
        values = constants["x"].values
    else:
        raise TypeError("x: expected the rows' inputs, got None")
    if values.ndim not in (1, 2) or len(values) != rows:
        raise ValueError(f"x: expected shape [{rows}] or [{rows}, D], got {list(values.shape)}")
    return values.reshape(rows, -1)


def _column(argument: str, number: int, values: np.ndarray) -> np.ndarray:
    table = values.reshape(len(values), -1)
    if not 0 <= number < table.shape[1]:
        raise ValueError(f"{argument}: expected one of {table.shape[1]}, from 0, got {number}")
    return table[:, number]
