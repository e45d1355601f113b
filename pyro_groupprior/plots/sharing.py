# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Shared posteriors: what shares what, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import norm

from ..comparison import WeightMoments
from ..sharing import Codebook, bits_a_weight
from .axes import COLOURS, GREY, draw_curves, make_axes, plain_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_POINTS = 5000  # weights that are drawn
CIRCLE = np.linspace(0, 2 * np.pi, 100)


def plot_codebook(
    codebook: Codebook,
    moments: WeightMoments,
    tensor: str | None = None,
    ax: Axes | None = None,
    seed: int = 0,
) -> Axes:
    """
    Every weight at its mean and standard deviation before it was shared, in the colour of its
    entry; the entries (black), and two standard deviations of their weights' points around them;
    outliers as crosses. Pruned weights are left out, and of many weights a sample is drawn.

    Example::

        >>> from pyro_groupprior.comparison import WeightMoments
        >>> from pyro_groupprior.plots import plot_codebook
        >>> from pyro_groupprior.sharing import make_codebook
        >>> moments = WeightMoments(torch.randn(500), torch.rand(500) + 0.1)
        >>> codebook = make_codebook(Layout([("w", torch.Size([500]))]), moments, 4)
        >>> plot_codebook(codebook, moments).get_xlabel()
        'posterior mean'

    :param Codebook codebook: what the weights share.
    :param WeightMoments moments: of all weights, before.
    :param str tensor: which; default: the largest.
    :param ax: axes to draw on; default: new ones.
    :param int seed: of the sample.
    :return: the axes.
    :raises ImportError: if Matplotlib is missing.
    :raises KeyError: if there is no such tensor.
    """
    ax = make_axes(ax)
    book, mean, sd = _of_tensor(codebook, moments, tensor)
    with np.errstate(divide="ignore"):  # pruned weights may have none
        log_sd = np.log(sd)
    index, kept = book.index.cpu().numpy(), book.kept.cpu().numpy()
    own = np.zeros(len(mean), bool)
    own[book.outliers.places.cpu().numpy()] = True
    chosen = _sample(np.flatnonzero(kept), seed)
    shared = chosen[~own[chosen]]
    colours = np.array(COLOURS)[index[shared] % len(COLOURS)]
    ax.scatter(mean[shared], np.exp(log_sd[shared]), s=5, alpha=0.4, color=colours, lw=0)
    for number in np.unique(index[kept & ~own]):
        points = np.stack([mean, log_sd])[:, (index == number) & kept & ~own]
        if points.shape[1] > 2:
            values, vectors = np.linalg.eigh(np.cov(points))
            root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
            x, y = points.mean(1)[:, None] + 2 * root @ [np.cos(CIRCLE), np.sin(CIRCLE)]
            ax.plot(x, np.exp(y), lw=0.8, color=COLOURS[number % len(COLOURS)])
    used = torch.as_tensor(np.unique(index[kept & ~own]), device=book.loc.device)
    unit = float(book.unit)
    loc, scale = (unit * value[used].cpu().numpy() for value in (book.loc, book.scale))
    ax.scatter(loc, scale, s=14, color="black", zorder=3, label="entries")
    crosses = chosen[own[chosen]]
    if len(crosses):
        ax.scatter(
            mean[crosses], np.exp(log_sd[crosses]), s=14, marker="x", color=GREY, label="outliers"
        )
    ax.set_yscale("log")
    plain_numbers(ax.yaxis)
    ax.set_xlabel("posterior mean")
    ax.set_ylabel("posterior sd")
    ax.set_title(next(iter(book.layout)).name)
    ax.legend()
    return ax


def plot_densities(
    codebook: Codebook,
    moments: WeightMoments,
    tensor: str | None = None,
    ax: Axes | None = None,
    seed: int = 0,
) -> Axes:
    """
    The density of a tensor's weights, any of them and any draw: before they were shared (grey), and
    after (black), with what each entry has of it. Pruned weights are left out; of many weights the
    density before is that of a sample.

    Example::

        >>> from pyro_groupprior.comparison import WeightMoments
        >>> from pyro_groupprior.plots import plot_densities
        >>> from pyro_groupprior.sharing import make_codebook
        >>> moments = WeightMoments(torch.randn(500), torch.rand(500) + 0.1)
        >>> codebook = make_codebook(Layout([("w", torch.Size([500]))]), moments, 4)
        >>> plot_densities(codebook, moments).get_ylabel()
        'density'

    :param Codebook codebook: what the weights share.
    :param WeightMoments moments: of all weights, before.
    :param str tensor: which; default: the largest.
    :param ax: axes to draw on; default: new ones.
    :param int seed: of the sample.
    :return: the axes.
    :raises ImportError: if Matplotlib is missing.
    :raises KeyError: if there is no such tensor.
    :raises ValueError: if all of it is pruned.
    """
    ax = make_axes(ax)
    book, mean, sd = _of_tensor(codebook, moments, tensor)
    index, kept = book.index.cpu().numpy(), book.kept.cpu().numpy()
    name = next(iter(book.layout)).name
    if not kept.any():
        raise ValueError(f"tensor: {name!r} has been pruned altogether")
    after_mean, after_sd = (value.double().cpu().numpy() for value in book.moments())
    chosen = _sample(np.flatnonzero(kept), seed)
    wide = 3 * np.median(sd[kept])
    low, high = np.quantile(mean[kept], [0.001, 0.999])
    grid = np.linspace(low - wide, high + wide, 400)
    before = norm.pdf(grid, mean[chosen, None], sd[chosen, None]).mean(0)
    ax.fill_between(grid, before, color=GREY, alpha=0.4, lw=0, label="before")
    total, shared = np.zeros_like(grid), kept.copy()
    apart = torch.cat([book.blend.places, book.outliers.places]).cpu().numpy()
    shared[apart] = False
    for number, count in zip(*np.unique(index[shared], return_counts=True), strict=True):
        of = np.flatnonzero(shared & (index == number))[0]
        part = count / kept.sum() * norm.pdf(grid, after_mean[of], after_sd[of])
        label = None if total.any() else "what an entry has of it"
        ax.plot(grid, part, lw=0.8, color=COLOURS[number % len(COLOURS)], label=label)
        total += part
    own = _sample(apart, seed)
    if len(own):
        part = norm.pdf(grid, after_mean[own, None], after_sd[own, None]).mean(0)
        total += len(apart) / kept.sum() * part
    ax.plot(grid, total, color="black", lw=1.2, label="shared")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("weight")
    ax.set_ylabel("density")
    ax.set_title(name)
    ax.legend()
    return ax


def plot_sizes(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    score: str = "accuracy",
    ax: Axes | None = None,
) -> Axes:
    """
    A score against the bytes of files, a line for each way to make them.

    Example::

        >>> from pyro_groupprior.plots import plot_sizes
        >>> plot_sizes({"shared": ([12_000, 24_000], [0.91, 0.92])}).get_xlabel()
        'size of the file (kB)'

    :param curves: by name, bytes and scores.
    :param str score: what the scores are, for the label.
    :param ax: axes to draw on; default: new ones.
    :return: the axes.
    :raises ImportError: if Matplotlib is missing.
    :raises ValueError: if there are no curves.
    """
    points = {name: sorted(zip(*curve, strict=True)) for name, curve in curves.items()}
    ax = draw_curves(
        {
            name: ([size / 1000 for size, _ in of], [value for _, value in of])
            for name, of in points.items()
        },
        score,
        ax,
    )
    plain_numbers(ax.xaxis)
    ax.set_xlabel("size of the file (kB)")
    return ax


def plot_bits(codebook: Codebook, ax: Axes | None = None) -> Axes:
    """
    How many bits a weight of each tensor takes in a file, beside its share of the weights.

    Example::

        >>> from pyro_groupprior.comparison import WeightMoments
        >>> from pyro_groupprior.plots import plot_bits
        >>> from pyro_groupprior.sharing import make_codebook
        >>> moments = WeightMoments(torch.randn(500), torch.rand(500) + 0.1)
        >>> codebook = make_codebook(Layout([("w", torch.Size([500]))]), moments, 4)
        >>> plot_bits(codebook).get_xlabel()
        'bits a weight'

    :param Codebook codebook: what the weights share.
    :param ax: axes to draw on; default: new ones.
    :return: the axes.
    :raises ImportError: if Matplotlib, or constriction, is missing.
    """
    ax = make_axes(ax, height=1.0 + 0.3 * len(codebook.layout))
    bits = bits_a_weight(codebook)
    rows = -np.arange(len(bits))
    bars = ax.barh(rows, list(bits.values()), color=COLOURS[0])
    sizes = [f"{entry.size:,} weights" for entry in codebook.layout]
    ax.bar_label(bars, sizes, padding=3, fontsize=8, color=GREY)
    ax.set_yticks(rows, list(bits))
    ax.margins(x=0.25)
    ax.set_xlim(left=0)
    ax.set_xlabel("bits a weight")
    return ax


def _of_tensor(
    codebook: Codebook, moments: WeightMoments, tensor: str | None
) -> tuple[Codebook, np.ndarray, np.ndarray]:
    """Of one tensor, by default the largest: codebook, and the weights' means and deviations."""
    entry = codebook.layout[tensor or max(codebook.layout, key=lambda e: e.size).name]
    mean, sd = (v[entry.slice].double().cpu().numpy() for v in (moments.mean, moments.sd))
    return codebook.select(entry.name), mean, sd


def _sample(places: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(places)[:MAX_POINTS]
