# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Groups: their priors over the weights they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr

from ..assignment import Assignment
from ..nn import BayesianModule
from .axes import COLOURS, GREY, make_axes
from .sources import grouped_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MAX_POINTS = 5000  # members of a group that its aggregate posterior is averaged over


def plot_group_priors(
    model: BayesianModule | xr.DataTree,
    posterior: Any = None,
    ax: Axes | None = None,
    max_groups: int = 10,
) -> Axes:
    """
    One row for each group, in units of the base scale: the prior its weights share, at the
    posterior medians of its loc and scale; on the same scale of density the aggregate posterior,
    that is the average of its weights' posteriors, which the prior is fitted to; and a histogram
    of their posterior means, of a height of its own. Where the data say little about single
    weights, the means crowd together and their spread falls short of the other two.

    Example::

        >>> model = BayesianModule(nn.Linear(3, 2), likelihoods.Normal())
        >>> guide = AutoMeanField(model)
        >>> guide.setup(torch.randn(10, 3), torch.randn(10, 2))
        >>> plot_group_priors(model, guide).get_xlabel()
        'weight / base scale'

    :param model: the model; or a tree that :func:`~pyro_groupprior.datatree.to_datatree` has made,
        which has its own draws.
    :param posterior: of a model a guide, draws by site, or what has run chains.
    :param ax: axes to draw on; default: new ones.
    :param int max_groups: show this many of the largest groups.
    :return: the axes.
    :raises ImportError: if Matplotlib is missing.
    :raises TypeError: if the model or the posterior is of the wrong kind.
    :raises ValueError: if no groups are wanted, the draws do not fit, or the tree lacks what is
        needed.
    """
    if max_groups < 1:
        raise ValueError(f"max_groups: expected a positive number, got {max_groups}")
    weights = grouped_weights(model, posterior)
    means, sds, locs, scales = weights.mean, weights.sd, weights.loc, weights.scale
    sizes = weights.assignment.sizes().cpu().numpy()
    filled = [int(group) for group in np.argsort(-sizes, kind="stable") if sizes[group] > 0]
    shown = filled[:max_groups]
    ax = make_axes(ax, height=1.2 + 0.8 * len(shown))
    low = min(means.min(), (locs - 3 * scales)[shown].min())
    high = max(means.max(), (locs + 3 * scales)[shown].max())
    grid = np.linspace(low, high, 1001)
    labels = []
    for row, group in enumerate(shown):
        base, colour = -float(row), COLOURS[row % len(COLOURS)]
        shares = _shares(weights.assignment, group)
        fn = weights.family.distribution(torch.tensor(locs[group]), torch.tensor(scales[group]))
        prior = fn.log_prob(torch.tensor(grid)).exp().numpy()
        aggregate = _aggregate(grid, means, sds, shares)
        heights, edges = _histogram(means, shares, narrowest=(high - low) / 200)
        unit = 0.85 / max(prior.max(), aggregate.max())
        stairs: dict[str, Any] = {"baseline": base, "fill": True, "color": colour, "alpha": 0.35}
        names = ("posterior means", "aggregate posterior", "prior") if row == 0 else (None,) * 3
        ax.stairs(base + 0.85 * heights / heights.max(), edges, label=names[0], **stairs)
        ax.plot(grid, base + unit * aggregate, color="black", lw=1.0, ls=":", label=names[1])
        ax.plot(grid, base + unit * prior, color=colour, lw=1.8, label=names[2])
        ax.axhline(base, color=GREY, lw=0.5)
        labels.append(
            f"group {group}, {sizes[group]:,.0f} weights\n"
            f"loc {locs[group]:.2f}, scale {scales[group]:.2g}"
        )
    ax.set_yticks([-float(row) + 0.35 for row in range(len(shown))], labels)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(low, high)
    ax.set_ylim(-len(shown) + 0.9, 1.0)
    rest = sum(sizes[group] for group in filled[max_groups:])
    note = f"\n{len(filled) - len(shown)} smaller groups, {rest:,.0f} weights, not shown"
    ax.set_xlabel("weight / base scale" + (note if len(filled) > len(shown) else ""))
    # Above the axes: inside, it would hide some group or other.
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    return ax


def _shares(assignment: Assignment, group: int) -> np.ndarray:
    """How much of each weight belongs to a group, shape ``[W]``."""
    member = (assignment.index == group).double()
    if assignment.responsibilities is not None:
        member = (member * assignment.responsibilities).sum(1)
    return member.cpu().numpy()


def _aggregate(
    grid: np.ndarray, means: np.ndarray, sds: np.ndarray, shares: np.ndarray
) -> np.ndarray:
    """Density of a weight drawn at random from a group, then from its posterior."""
    held = np.flatnonzero(shares > 0)
    held = held[:: -(-len(held) // MAX_POINTS)]
    # A point has no density: no curve narrower than the grid can show.
    width = np.maximum(sds[held], grid[1] - grid[0])
    each = np.exp(-0.5 * ((grid[:, None] - means[held]) / width) ** 2) / width
    return each @ shares[held] / (shares[held].sum() * np.sqrt(2 * np.pi))


def _histogram(
    values: np.ndarray, shares: np.ndarray, narrowest: float
) -> tuple[np.ndarray, np.ndarray]:
    """
    Heights and edges over the range of the members, however few or equal they are; no bin is
    narrower than ``narrowest``.
    """
    held = shares > 0
    low, high = values[held].min(), values[held].max()
    widen = max(0.0, narrowest - (high - low)) / 2
    low, high = low - widen, high + widen
    fitting = max(1, int((high - low) / narrowest))
    num_bins = min(fitting, 60, int(np.ceil(2 * held.sum() ** 0.5)))
    return np.histogram(values[held], num_bins, (low, high), weights=shares[held])
