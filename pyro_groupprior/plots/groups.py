# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Groups: their priors over the weights they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..datatree import fixed_group_parameters
from ..guides import posterior_medians, posterior_moments
from ..nn import BayesianModule
from .axes import COLOURS, GREY, make_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MAX_POINTS = 5000  # members of a group that its aggregate posterior is averaged over


def plot_group_priors(
    model: BayesianModule, posterior: Any, ax: Axes | None = None, max_groups: int = 10
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

    :param BayesianModule model: the model.
    :param posterior: a guide, or draws by site.
    :param ax: axes to draw on; default: new ones.
    :param int max_groups: show this many of the largest groups.
    :return: the axes.
    :raises ImportError: if Matplotlib is missing.
    """
    ax = make_axes(ax, height=1.2 + 0.8 * min(max_groups, model.assignment.num_groups))
    means, sds, locs, scales = _moments(model, posterior)
    sizes = model.assignment.sizes().cpu().numpy()
    filled = [int(group) for group in np.argsort(-sizes, kind="stable") if sizes[group] > 0]
    shown = filled[:max_groups]
    low = min(means.min(), (locs - 3 * scales)[shown].min())
    high = max(means.max(), (locs + 3 * scales)[shown].max())
    grid = np.linspace(low, high, 1001)
    labels = []
    for row, group in enumerate(shown):
        base, colour = -float(row), COLOURS[row % len(COLOURS)]
        shares = _shares(model, group)
        fn = model.family.distribution(torch.tensor(locs[group]), torch.tensor(scales[group]))
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
            f"group {group}, {sizes[group]:.0f} weights\n"
            f"loc {locs[group]:.2f}, scale {scales[group]:.2g}"
        )
    ax.set_yticks([-float(row) + 0.35 for row in range(len(shown))], labels)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(low, high)
    ax.set_ylim(-len(shown) + 0.9, 1.0)
    rest = sum(sizes[group] for group in filled[max_groups:])
    note = f"\n{len(filled) - len(shown)} smaller groups, {rest:.0f} weights, not shown"
    ax.set_xlabel("weight / base scale" + (note if len(filled) > len(shown) else ""))
    # Above the axes: inside, it would hide some group or other.
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    return ax


def _moments(model: BayesianModule, posterior: Any) -> tuple[np.ndarray, ...]:
    """
    Means and deviations of the weights in units of the base scale; medians of the groups' loc and
    scale.
    """
    if isinstance(posterior, Mapping):
        draws = posterior
        weights = draws[model.site].reshape(-1, model.layout.num_weights)
        mean, sd = weights.mean(0), weights.std(0)
    else:
        draws = {name: value.unsqueeze(0) for name, value in posterior_medians(posterior).items()}
        mean, sd = posterior_moments(posterior, model.site)
    fixed = fixed_group_parameters(model)
    groups = model.assignment.num_groups
    loc, scale = (
        # In NumPy: torch's median is wrong on expanded tensors (seen in 2.13).
        torch.as_tensor(np.median(draws[name].detach().cpu().reshape(-1, groups), axis=0))
        if name in draws
        else fixed[name]
        for name in (f"{model.site}_loc", f"{model.site}_scale")
    )
    tensors = (mean / model.base_scale, sd / model.base_scale, loc, scale)
    return tuple(value.detach().double().cpu().numpy() for value in tensors)


def _shares(model: BayesianModule, group: int) -> np.ndarray:
    """How much of each weight belongs to a group, shape ``[W]``."""
    assignment = model.assignment
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
