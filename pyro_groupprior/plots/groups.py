# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Groups: their priors over the weights they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..datatree import fixed_group_parameters
from ..guides import posterior_draws, posterior_moments
from ..nn import BayesianModule
from .axes import COLOURS, GREY, make_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_group_priors(
    model: BayesianModule, posterior: Any, ax: Axes | None = None, max_groups: int = 10
) -> Axes:
    """
    One row for each group: a histogram of the posterior means of the weights it holds, in units
    of the base scale, and over it the prior they share, at the posterior medians of its loc and
    scale. Each row is scaled to the same height; histogram and curve in it are densities on one
    scale. Where the data say little, the means shrink together and the curve is the wider one.

    Example::

        >>> model = BayesianModule(nn.Linear(3, 2), likelihoods.Normal())
        >>> guide = AutoMeanField(model)
        >>> guide.setup(torch.randn(10, 3), torch.randn(10, 2))
        >>> plot_group_priors(model, guide).get_xlabel()
        'weight / base scale'

    :param BayesianModule model: the model.
    :param posterior: a guide, or draws by site.
    :param ax: axes to draw on; default: new ones.
    :param int max_groups: show this many of the largest groups.
    :return: the axes.
    :raises ImportError: if Matplotlib is missing.
    """
    ax = make_axes(ax, height=1.2 + 0.7 * min(max_groups, model.assignment.num_groups))
    means, locs, scales = _moments(model, posterior)
    sizes = model.assignment.sizes().cpu().numpy()
    filled = [int(group) for group in np.argsort(-sizes, kind="stable") if sizes[group] > 0]
    shown = filled[:max_groups]
    low = min(means.min(), (locs - 3 * scales)[shown].min())
    high = max(means.max(), (locs + 3 * scales)[shown].max())
    labels = []
    for row, group in enumerate(shown):
        colour = COLOURS[row % len(COLOURS)]
        shares = _shares(model, group)
        grid = locs[group] + scales[group] * np.linspace(-4, 4, 401)
        prior = model.family.distribution(torch.tensor(locs[group]), torch.tensor(scales[group]))
        curve = prior.log_prob(torch.tensor(grid)).exp().numpy()
        heights, edges = _histogram(means, shares, narrowest=(high - low) / 400)
        unit = 0.85 / max(heights.max(), curve.max())
        base = -float(row)
        first = row == 0
        ax.stairs(
            base + unit * heights,
            edges,
            baseline=base,
            fill=True,
            color=colour,
            alpha=0.4,
            label="posterior means of the weights" if first else None,
        )
        ax.plot(grid, base + unit * curve, color=colour, lw=1.6, label="prior" if first else None)
        ax.axhline(base, color=GREY, lw=0.5)
        labels.append(
            f"group {group}, {sizes[group]:.0f} weights\n"
            f"loc {locs[group]:.2f}, scale {scales[group]:.2g}"
        )
    ax.set_yticks([-float(row) + 0.3 for row in range(len(shown))], labels)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(low, high)
    ax.set_ylim(-len(shown) + 0.85, 1.0)
    ax.set_xlabel("weight / base scale")
    if len(filled) > len(shown):
        rest = sum(sizes[group] for group in filled[max_groups:])
        ax.set_title(f"{len(filled) - len(shown)} smaller groups, {rest:.0f} weights, not shown")
    ax.legend(loc="upper right", frameon=False)
    return ax


def _moments(model: BayesianModule, posterior: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of the weights in units of the base scale; medians of the groups' loc and scale."""
    if isinstance(posterior, Mapping):
        draws = posterior
        means = draws[model.site].reshape(-1, model.layout.num_weights).mean(0)
    else:
        draws = posterior_draws(posterior, 1000)
        means, _ = posterior_moments(posterior, model.site)
    fixed = fixed_group_parameters(model)
    names = (f"{model.site}_loc", f"{model.site}_scale")
    groups = model.assignment.num_groups
    locs, scales = (
        draws[name].reshape(-1, groups).median(0).values if name in draws else fixed[name]
        for name in names
    )
    arrays = [(means / model.base_scale), locs, scales]
    means, locs, scales = (value.detach().double().cpu().numpy() for value in arrays)
    return means, locs, scales


def _shares(model: BayesianModule, group: int) -> np.ndarray:
    """How much of each weight belongs to a group, shape ``[W]``."""
    assignment = model.assignment
    member = (assignment.index == group).double()
    if assignment.responsibilities is not None:
        member = (member * assignment.responsibilities).sum(1)
    return member.cpu().numpy()


def _histogram(
    values: np.ndarray, shares: np.ndarray, narrowest: float
) -> tuple[np.ndarray, np.ndarray]:
    """Densities and edges over the range of the members, however few or equal they are."""
    held = shares > 0
    low, high = values[held].min(), values[held].max()
    widen = max(0.0, narrowest - (high - low)) / 2
    num_bins = int(np.clip(2 * held.sum() ** (1 / 2), 1, 60))
    return np.histogram(
        values[held], num_bins, (low - widen, high + widen), density=True, weights=shares[held]
    )
