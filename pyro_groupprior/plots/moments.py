# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Weights as points: posterior mean and standard deviation, of posteriors or of groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ..comparison import WeightMoments
from ..nn import BayesianModule
from .axes import COLOURS, GREY, MARKERS, make_axes, plain_numbers
from .lineages import style
from .sampling import even_sample
from .sources import grouped_weights, tree_draws

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_POINTS = 5000  # weights of a posterior that are drawn


def plot_weight_moments(
    posteriors: Mapping[str, WeightMoments | xr.DataTree] | xr.DataTree,
    ax: Axes | None = None,
    seed: int = 0,
) -> Axes:
    """
    Mean and standard deviation of every weight, a colour and a marker for each posterior; a sample
    of them where there are many. Above the dashed lines a weight's sign is open: its mean is less
    than two standard deviations away from zero. Weights without a deviation are left out.

    Example::

        >>> from pyro_groupprior.comparison import WeightMoments
        >>> from pyro_groupprior.plots import plot_weight_moments
        >>> moments = WeightMoments(torch.randn(50), torch.rand(50))
        >>> plot_weight_moments({"HMC": moments}).get_ylabel()
        'posterior sd'

    :param posteriors: by name, of the same weights, moments or trees that
        :func:`~pyro_groupprior.datatree.to_datatree` has made; or one tree.
    :param ax: axes to draw on; default: new ones.
    :param int seed: of the sample.
    :return: the axes.
    :raises ImportError: if Matplotlib is missing.
    :raises TypeError: if one is neither.
    :raises ValueError: if there are none, or a tree has no draws of the weights.
    """
    if isinstance(posteriors, xr.DataTree):  # a mapping itself
        posteriors = {"posterior": posteriors}
    if not posteriors:
        raise ValueError("posteriors: expected at least one, got none")
    found = {name: _moments(name, posterior) for name, posterior in posteriors.items()}
    ax = make_axes(ax)
    widest = 0.0
    for number, (name, (mean, sd)) in enumerate(found.items()):
        chosen = np.random.default_rng(seed).permutation(len(mean))[:MAX_POINTS]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        style: dict[str, Any] = {"s": 8, "alpha": 0.5, "color": colour, "lw": 0, "marker": marker}
        ax.scatter(mean[chosen], sd[chosen], label=name, **style)
        widest = max(widest, float(np.abs(mean).max()))
    ax.set_yscale("log")
    plain_numbers(ax.yaxis)
    lowest, highest = ax.get_ylim()
    edge = np.linspace(-widest, widest, 400)  # an even number: not zero itself
    ax.plot(edge, np.abs(edge) / 2, color=GREY, lw=0.8, ls="--", label="|mean| = 2 sd")
    ax.set_ylim(lowest, highest)
    ax.set_xlabel("posterior mean")
    ax.set_ylabel("posterior sd")
    ax.legend(markerscale=2)
    return ax


def plot_moments_by_group(
    model: BayesianModule | xr.DataTree,
    posterior: Any = None,
    ax: Axes | None = None,
    max_groups: int = 8,
    *,
    seed: int = 0,
) -> Axes:
    """
    Mean and standard deviation of every weight in units of the base scale, a colour and a marker
    for each group, soft members by their most probable one. The large mark of a group is its prior:
    a weight of which the data say nothing lies there. Where there are many weights a sample is
    drawn, as many of each group as there are, so that small groups are seen too. Weights without a
    deviation are left out.

    Example::

        >>> model = BayesianModule(nn.Linear(3, 2), likelihoods.Normal(), grouping="layer")
        >>> guide = AutoMeanField(model)
        >>> guide.setup(torch.randn(10, 3), torch.randn(10, 2))
        >>> ax = plot_moments_by_group(model, guide)
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('posterior mean / base scale', 'posterior sd / base scale')

    :param model: the model; or a tree that :func:`~pyro_groupprior.datatree.to_datatree` has made,
        which has its own draws.
    :param posterior: of a model a guide, draws by site, or what has run chains.
    :param ax: axes to draw on; default: new ones.
    :param int max_groups: colour this many of the largest groups; all others are grey.
    :param int seed: of the sample.
    :return: the axes.
    :raises ImportError: if Matplotlib is missing.
    :raises TypeError: if the model or the posterior is of the wrong kind.
    :raises ValueError: if no groups are wanted, the draws do not fit, no weight has a deviation, or
        the tree lacks what is needed.
    """
    if max_groups < 1:
        raise ValueError(f"max_groups: expected a positive number, got {max_groups}")
    weights = grouped_weights(model, posterior)
    if not (weights.sd > 0).any():
        raise ValueError("posterior: expected one with standard deviations, got a point")
    index = weights.assignment.hard().index.cpu().numpy()
    sizes = np.bincount(index, minlength=weights.assignment.num_groups)
    ranked = [int(group) for group in np.argsort(-sizes, kind="stable") if sizes[group]]
    shown, rest = ranked[:max_groups], ranked[max_groups:]
    chosen = even_sample(np.where(weights.sd > 0, index, -1), MAX_POINTS, seed)
    ax = make_axes(ax, height=4.5)
    points_style: dict[str, Any] = {"s": 9 if len(chosen) > 1000 else 16, "alpha": 0.6, "lw": 0}
    if rest:
        points = chosen[np.isin(index[chosen], rest)]
        ax.scatter(
            weights.mean[points],
            weights.sd[points],
            color=GREY,
            marker=".",
            label=f"{len(rest)} other groups, {sizes[rest].sum():,} weights",
            **points_style,
        )
    prior_sd = weights.scale * weights.family.unit_variance**0.5
    for number, group in enumerate(shown):
        look: dict[str, Any] = {key: style(number)[key] for key in ("color", "marker")}
        points = chosen[index[chosen] == group]
        label = f"group {group}, {sizes[group]:,} weights"
        ax.scatter(weights.mean[points], weights.sd[points], label=label, **look, **points_style)
        mark: dict[str, Any] = {"s": 90, "edgecolor": "black", "lw": 1.2, "zorder": 3}
        ax.scatter(weights.loc[group], prior_sd[group], **look, **mark)
    ax.scatter([], [], s=90, color="white", edgecolor="black", lw=1.2, label="prior of a group")
    ax.set_yscale("log")
    plain_numbers(ax.yaxis)
    ax.set_xlabel("posterior mean / base scale")
    ax.set_ylabel("posterior sd / base scale")
    # Beside the axes: inside, it would hide points.
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, markerscale=1.5)
    return ax


def _moments(name: str, posterior: WeightMoments | xr.DataTree) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(posterior, xr.DataTree):
        draws = tree_draws(posterior).double()
        posterior = WeightMoments(draws.mean(0), draws.std(0, correction=min(1, len(draws) - 1)))
    if not isinstance(posterior, WeightMoments):
        raise TypeError(
            f"posteriors[{name!r}]: expected WeightMoments or a DataTree, got "
            f"{type(posterior).__name__}"
        )
    return posterior.mean.cpu().numpy(), posterior.sd.cpu().numpy()
