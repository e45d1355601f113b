# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The demo's tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

import pyro_groupprior as pgp

from .demo_data import Data
from .demo_fit import Fit

LEVEL = 0.9


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """
    Columns as wide as needed, the first to the left and the others to the right.

    Example::

        >>> print(table(["a", "long"], [["bb", "1"]]))
        a   long
        bb     1
    """
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )


def scores(data: Data, fits: Mapping[str, Fit]) -> str:
    """
    One line for each prior. The last but one column compares row by row with the first prior,
    which leaves out what all priors find hard alike.
    """
    quality = ["accuracy", "ECE"] if data.is_labels else [f"RMSE ({data.unit})", "coverage"]
    head = [
        "prior",
        "groups",
        *quality,
        "NLL (nats/row)",
        f"NLL minus {next(iter(fits))}",
        "seconds",
    ]
    rows = []
    first = row_nll(data, next(iter(fits.values())))
    for name, fit in fits.items():
        prediction, y = fit.prediction, data.new_y
        if data.is_labels:
            values = [pgp.metrics.accuracy(prediction, y), pgp.metrics.ece(prediction, y)]
            texts = [f"{value:.3f}" for value in values]
        else:
            rmse = data.scale * pgp.metrics.rmse(prediction, y)
            texts = [f"{rmse:.2f}", f"{pgp.metrics.coverage(prediction, y, LEVEL):.3f}"]
        nll = row_nll(data, fit)
        against = "-" if not rows else with_error(nll - first, sign="+")
        groups = str(fit.model.assignment.num_groups)
        rows.append([name, groups, *texts, with_error(nll), against, f"{fit.seconds:.0f}"])
    if data.is_labels:
        shares = torch.bincount(data.y) / len(data.y)
        values = [float((data.new_y == shares.argmax()).double().mean()), math.nan]
        texts = [f"{values[0]:.3f}", "-"]
        nll = -shares[data.new_y].log()
    else:
        # Standardised on the training rows, the targets are Normal(0, 1) to who knows no inputs.
        normal = torch.distributions.Normal(0.0, 1.0)
        low, high = normal.icdf(torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
        inside = ((data.new_y > low) & (data.new_y < high)).double().mean()
        texts = [f"{data.scale * data.new_y.square().mean().sqrt():.2f}", f"{inside:.3f}"]
        nll = -normal.log_prob(data.new_y).squeeze(1) + math.log(data.scale)
    rows.append(["(no inputs)", "-", *texts, with_error(nll), with_error(nll - first, "+"), "-"])
    return table(head, rows)


def row_nll(data: Data, fit: Fit) -> Tensor:
    """Negative log predictive density of each row, in nats, of the target in its own unit."""
    return -fit.prediction.log_prob(data.new_y) + math.log(data.scale)


def with_error(values: Tensor, sign: str = "") -> str:
    """
    The mean with its standard error.

    Example::

        >>> with_error(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        '2.500 ± 0.645'
    """
    error = values.double().std() / math.sqrt(len(values))
    return f"{values.double().mean():{sign}.3f} ± {error:.3f}"


def groups(fit: Fit) -> str:
    """One line for each group: its size, prior, and how much of each layer it holds."""
    assignment, layout = fit.model.assignment, fit.model.layout
    dense, sizes = assignment.dense(), assignment.sizes().tolist()
    median = fit.guide.median()
    layers: dict[str, list[slice]] = {}
    for entry in layout:
        layers.setdefault(entry.name.rpartition(".")[0], []).append(entry.slice)
    held = {
        layer: sum((dense[part].sum(0) for part in parts), torch.zeros(len(sizes)))
        for layer, parts in layers.items()
    }
    total = {layer: float(values.sum()) for layer, values in held.items()}
    head = ["group", "size", "loc", "scale"]
    head += [f"of layer {layer} ({total[layer]:.0f})" for layer in layers]
    rows = []
    for group in range(assignment.num_groups):
        loc, scale = (float(median[f"weights_{name}"][group]) for name in ("loc", "scale"))
        shares = [f"{float(held[layer][group]) / total[layer]:.0%}" for layer in layers]
        rows.append([str(group), f"{sizes[group]:.0f}", f"{loc:+.2f}", f"{scale:.2f}", *shares])
    return table(head, rows)


def phases(history: pgp.History) -> str:
    """One line for each regroup."""
    rows = [
        [
            str(record.phase),
            str(record.epoch),
            str(record.num_groups),
            f"{record.churn:.1%}",
            " ".join(f"{size:.0f}" for size in record.sizes),
            " ".join(f"{scale:.2f}" for scale in record.scales),
        ]
        for record in history.phases
    ]
    return table(["phase", "epoch", "groups", "churn", "sizes", "scales"], rows)


def report(data: Data, fits: Mapping[str, Fit]) -> str:
    """All tables of one data set."""
    fit = fits["dynamic"]
    return "\n".join(
        [
            f"== {data.name}: {len(data.y)} rows to train on, {len(data.new_y)} to score on, "
            f"{fit.model.layout.num_weights} weights ==",
            "",
            scores(data, fits),
            "",
            "Groups found by the dynamic prior (loc and scale: posterior medians, in units of "
            "1/sqrt(fan-in)):",
            groups(fit),
            "",
            "Its phases (churn: share of the weights' memberships that moved):",
            phases(fit.history),
        ]
    )
