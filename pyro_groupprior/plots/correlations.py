# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Correlations of weights, group by group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ..assignment import Assignment
from ..nn import BayesianModule
from ..regrouping.trajectories import Trajectories, correlation_matrix
from .axes import make_axes, spread
from .sampling import even_sample
from .sources import grouped_draws

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

# From orange by white to blue; the blue is much the darker one, so that in grey print a strong
# correlation is not taken for one of the other sign.
ENDS = ("#D55E00", "#F7B37F", "#FFFFFF", "#6C9CC4", "#00304F")
NARROW = 0.045  # share of the axes that a group's label takes


def plot_correlations(
    model: BayesianModule | Assignment | xr.DataTree,
    posterior: Any = None,
    ax: Axes | None = None,
    max_weights: int = 400,
    *,
    seed: int = 0,
) -> Axes:
    """
    Pearson correlations of all pairs of weights, ordered by group, with lines between groups: over
    posterior draws, or over snapshots taken during training. Within a group weights keep their
    order; soft members stand with their most probable group. Where there are many weights a sample
    is drawn, as many of each group as it has; labels say how many of a group's weights there are.

    Example::

        >>> draws = torch.randn(100, 3)
        >>> ax = plot_correlations(Assignment(torch.tensor([0, 1, 0])), draws)
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['group 0: 2', 'group 1: 1']

    :param model: the model, or the groups alone; or a tree that
        :func:`~pyro_groupprior.datatree.to_datatree` has made, which has its own draws.
    :param posterior: of a model a guide, draws by site, or what has run chains; of a model or of
        groups draws ``[S, W]``, or what a :class:`~pyro_groupprior.Monitor` has kept,
        ``monitor.trajectories[site]``.
    :param ax: axes to draw on; default: new ones.
    :param int max_weights: draw at most so many, and one of each group at least.
    :param int seed: of the sample.
    :return: the axes.
    :raises ImportError: if Matplotlib is missing.
    :raises TypeError: if the model or the posterior is of the wrong kind.
    :raises ValueError: if shapes do not fit, there are fewer than two draws, one is not finite, or
        the tree lacks what is needed.
    """
    if max_weights < 1:
        raise ValueError(f"max_weights: expected a positive number, got {max_weights}")
    draws, assignment = grouped_draws(model, posterior)
    index = assignment.hard().index.cpu().numpy()
    chosen = even_sample(index, max_weights, seed)
    chosen = chosen[np.argsort(index[chosen], kind="stable")]
    drawn = draws[:, chosen]
    if not bool(drawn.isfinite().all()):
        raise ValueError("posterior: expected finite draws, got NaN or inf")
    matrix = correlation_matrix(drawn, max_weights=len(chosen)).numpy()
    groups, counts = np.unique(index[chosen], return_counts=True)
    ax = make_axes(ax, height=5.5)
    # As wide as there is room: labels and bar of a square are cut off by constrained layout.
    look: dict[str, Any] = {"interpolation": "nearest", "aspect": "auto"}
    image = ax.imshow(matrix, cmap=_colours(), vmin=-1, vmax=1, **look)
    ends = np.cumsum(counts)
    for end in ends[:-1] - 0.5:
        ax.axhline(end, color="black", lw=0.8)
        ax.axvline(end, color="black", lw=0.8)
    whole = np.bincount(index, minlength=groups.max() + 1)[groups]
    middles, room = ends - counts / 2 - 0.5, NARROW * len(chosen)
    named = np.flatnonzero(counts >= (room if len(groups) * NARROW > 1 else 0))
    ax.set_yticks(
        spread(middles[named], room),
        [f"group {groups[i]}: {_of(counts[i], whole[i])}" for i in named],
    )
    ax.set_xticks(spread(middles[named], room), [str(groups[i]) for i in named])
    ax.tick_params(length=0)
    ax.set_xlabel("group")
    ax.set_ylabel("weights")
    bar = ax.figure.colorbar(image, ax=ax, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.set_label(f"correlation over {len(draws)} {_kind(posterior)}")
    return ax


def _of(count: int, size: int) -> str:
    return f"{count:,}" if count == size else f"{count:,} of {size:,}"


def _kind(posterior: Any) -> str:
    return "snapshots" if isinstance(posterior, Trajectories) else "draws"


def _colours() -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("correlation", ENDS)
