# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Expectation-maximisation of a one-dimensional normal mixture from noisy values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array

from .cells import Cells

BLOCK = 2048  # cells at a time: with their components, what a processor's cache holds


@dataclass(frozen=True)
class Mixture:
    """
    ``G`` normal components; all arrays of shape ``[G]``.

    :param weights: they sum to one.
    :param means: of the components.
    :param scales: their standard deviations.
    """

    weights: np.ndarray
    means: np.ndarray
    scales: np.ndarray

    def __len__(self) -> int:
        return len(self.weights)


@dataclass(frozen=True)
class Noisy:
    """
    Values with noise, gathered in cells; all arrays of shape ``[C]``.

    :param counts: values in a cell.
    :param values: their mean.
    :param spreads: their variance within the cell.
    :param noise: variance of their noise.
    :param units: how many values of each cell belong to each unit, shape ``[U, C]``, where whole
        units are assigned.
    """

    counts: np.ndarray
    values: np.ndarray
    spreads: np.ndarray
    noise: np.ndarray
    units: csr_array | None = None

    def __getitem__(self, rows: slice) -> Noisy:
        return Noisy(self.counts[rows], self.values[rows], self.spreads[rows], self.noise[rows])

    @property
    def num_points(self) -> float:
        """Values, or units of them, that are assigned as one."""
        return float(self.counts.sum()) if self.units is None else self.units.shape[0]

    @classmethod
    def from_cells(cls, cells: Cells, units: np.ndarray | None = None) -> Noisy:
        """
        From cells over (value, log of the noise's standard deviation).

        :param units: the unit of each value, integers from 0, shape ``[n]``.
        """
        noise = np.exp(2 * cells.means[:, 1])
        table = None if units is None else cells.table(units)
        return cls(cells.counts, cells.means[:, 0], cells.variances[:, 0], noise, table)


def log_density(mixture: Mixture, data: Noisy) -> np.ndarray:
    """``log N(value; mean_g, scale_g^2 + noise)``, averaged over a cell's values: ``[C, G]``."""
    variance = mixture.scales**2 + data.noise[:, None]
    density = data.values[:, None] - mixture.means
    density *= density
    density += data.spreads[:, None]
    density /= variance
    density += np.log(variance, out=variance)
    density *= -0.5
    density -= 0.5 * np.log(2 * np.pi)
    return density


def shares_of(mixture: Mixture, data: Noisy) -> tuple[np.ndarray, np.ndarray]:
    """
    Responsibilities, shape ``[C, G]`` or, where whole units are assigned, ``[U, G]``; and the
    log-density of each cell's values, on average, or of each unit.
    """
    joint = log_density(mixture, data)
    if data.units is not None:
        joint = data.units @ joint
    with np.errstate(divide="ignore"):
        joint += np.log(mixture.weights)
    return joint, normalise(joint)


def normalise(joint: np.ndarray) -> np.ndarray:
    """Make responsibilities of log-joints, in place; returns the log of each row's sum."""
    top = joint.max(1, keepdims=True)
    joint -= top
    np.exp(joint, out=joint)
    total = joint.sum(1, keepdims=True)
    joint /= total
    return (np.log(total) + top)[:, 0]


@dataclass(frozen=True)
class Settings:
    """
    How to fit.

    :param max_iter: most EM steps.
    :param tol: EM stops when a step gains less, in nats a value.
    :param min_scale: smallest standard deviation of a component.
    :param prior_scale: each component's scale is shrunk towards it,
    :param prior_count: as if so many values had been seen at that distance from its mean.
    :param zero_mean: all means are zero.
    """

    max_iter: int
    tol: float
    min_scale: float
    zero_mean: bool
    prior_scale: float = 1.0
    prior_count: float = 0.0

    def log_prior(self, mixture: Mixture) -> float:
        """Up to a constant: inverse gamma on each variance, with its mode at the prior scale."""
        ratio = (self.prior_scale / mixture.scales) ** 2
        return float(0.5 * self.prior_count * (np.log(ratio) - ratio).sum())


def step(mixture: Mixture, data: Noisy, settings: Settings) -> tuple[Mixture, float]:
    """
    One step of EM: each value's responsibilities and, under each component, its posterior; then the
    components' moments (Bovy, Hogg and Roweis 2011, "Extreme deconvolution", eq. 16), their
    variances at the mode under an inverse-gamma prior (Fraley and Raftery 2007, "Bayesian
    regularization for normal mixture estimation"): else few values can end in a spike of their own.

    :return: the next mixture, and the objective of the given one: the log-likelihood of all values
        plus the log-prior.
    """
    weights, size, first, second = np.zeros((4, len(mixture)))
    objective = settings.log_prior(mixture)
    variance = mixture.scales**2
    for part, mass, taken, log_likelihood in _blocks(mixture, data):
        objective += log_likelihood
        weights += taken
        # A value's posterior mean as a distance from the component's mean, and its variance.
        pull = variance / (variance + part.noise[:, None])
        away = part.values[:, None] - mixture.means
        away *= pull
        size += mass.sum(0)
        first += (mass * away).sum(0)
        away *= away
        away += pull * part.noise[:, None] + pull**2 * part.spreads[:, None]
        second += (mass * away).sum(0)
    size = size.clip(min=1e-300)
    shift = -mixture.means if settings.zero_mean else first / size
    squares = second - 2 * shift * first + size * shift**2
    squares += settings.prior_count * settings.prior_scale**2
    scales = np.sqrt(squares / (size + settings.prior_count)).clip(min=settings.min_scale)
    return Mixture(weights / weights.sum(), mixture.means + shift, scales), objective


def _blocks(mixture: Mixture, data: Noisy) -> Iterator[tuple[Noisy, np.ndarray, np.ndarray, float]]:
    """
    Blocks of cells; how many of their values each component takes, ``[C, G]``; how many points,
    ``[G]``; and the log-likelihood.
    """
    if data.units is not None:
        # A cell's values belong to many units, so that these come first, all of them.
        shares, log_likelihood = shares_of(mixture, data)
        mass = data.units.T @ shares
        yield data, mass, shares.sum(0), float(log_likelihood.sum())
        return
    for start in range(0, len(data.counts), BLOCK):
        part = data[start : start + BLOCK]
        mass, log_likelihood = shares_of(mixture, part)
        mass *= part.counts[:, None]
        yield part, mass, mass.sum(0), float(part.counts @ log_likelihood)


def fit(mixture: Mixture, data: Noisy, settings: Settings) -> tuple[Mixture, list[float]]:
    """
    EM from a first mixture.

    :return: the mixture, and the objective before every step and at the end: the log-likelihood
        of all values plus the log-prior.
    """
    # Begun below the bound, the first step would lower the objective.
    mixture = replace(mixture, scales=mixture.scales.clip(min=settings.min_scale))
    trace: list[float] = []
    least = settings.tol * data.num_points
    while True:
        following, objective = step(mixture, data, settings)
        trace.append(objective)
        if len(trace) > settings.max_iter or (len(trace) > 1 and trace[-1] - trace[-2] < least):
            return mixture, trace
        mixture = following


def without_closest_pair(mixture: Mixture) -> Mixture:
    """
    Merge the two components whose merging costs least by Runnalls' bound (2007, "Kullback-Leibler
    approach to Gaussian mixture reduction", eq. 21), with moments preserved.
    """
    w, m, v = mixture.weights, mixture.means, mixture.scales**2
    pair = w[:, None] + w
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(pair > 0, w[:, None] / pair, 0.5)
    merged = share * v[:, None] + (1 - share) * v + share * (1 - share) * (m[:, None] - m) ** 2
    cost = pair * np.log(merged) - w[:, None] * np.log(v)[:, None] - w * np.log(v)
    cost[np.tril_indices(len(mixture))] = np.inf
    first, second = np.unravel_index(cost.argmin(), cost.shape)
    mean = share[first, second] * m[first] + (1 - share[first, second]) * m[second]
    keep = np.arange(len(mixture)) != second
    means, scales, weights = m.copy(), mixture.scales.copy(), w.copy()
    means[first], scales[first] = mean, np.sqrt(merged[first, second])
    weights[first] = pair[first, second]
    return replace(mixture, weights=weights[keep], means=means[keep], scales=scales[keep])


def single(data: Noisy, settings: Settings) -> Mixture:
    """The one normal that explains all values."""
    precise = data.counts / (data.noise + np.median(data.noise) + 1e-300)
    middle = 0.0 if settings.zero_mean else float((precise * data.values).sum() / precise.sum())
    squares = (data.values - middle) ** 2 + data.spreads
    spread = max(float(np.sqrt((precise * squares).sum() / precise.sum())), settings.min_scale)
    one = Mixture(np.ones(1), np.array([middle]), np.array([spread]))
    return fit(one, data, settings)[0]


def start(data: Noisy, one: Mixture, num_components: int, settings: Settings) -> Mixture:
    """
    Where to begin: each value is shrunk by its noise towards the single normal, and components
    begin at quantiles of what is left: noisy values themselves would scatter them far apart.
    """
    middle, spread = float(one.means[0]), float(one.scales[0])
    even = np.full(num_components, 1 / num_components)
    if settings.zero_mean:
        return Mixture(even, np.zeros(num_components), spread * np.geomspace(0.05, 2, len(even)))
    shrunk = middle + spread**2 / (spread**2 + data.noise) * (data.values - middle)
    order = np.argsort(shrunk, kind="stable")
    place = (np.cumsum(data.counts[order]) - data.counts[order] / 2) / data.counts.sum()
    means = np.interp((np.arange(num_components) + 0.5) / num_components, place, shrunk[order])
    widths = np.full(num_components, max(spread / num_components, settings.min_scale))
    return Mixture(even, means, widths)


def best_of(
    data: Noisy, one: Mixture, num_components: int, settings: Settings
) -> tuple[Mixture, list[float]]:
    """
    The better of two fits: one begun with so many components, and one with twice as many that are
    merged down, so that what is found depends little on where it began.
    """
    if num_components == 1:
        return fit(one, data, settings)
    mixture = start(data, one, 2 * num_components, settings)
    while len(mixture) > num_components:
        mixture = without_closest_pair(fit(mixture, data, replace(settings, max_iter=5))[0])
    found = [fit(mixture, data, settings)]
    found.append(fit(start(data, one, num_components, settings), data, settings))
    return max(found, key=lambda fitted: fitted[1][-1])


def search(
    data: Noisy,
    num_components: int,
    settings: Settings,
    num_parameters: Callable[[int], int] | None,
) -> tuple[Mixture, Settings]:
    """
    The best mixture found from nothing.

    :param num_parameters: free parameters of so many components: of all numbers of components, the
        one with the best Bayesian information criterion; None: exactly ``num_components``.
    :return: the mixture, and the settings with the prior that its scales were given.
    """
    one = single(data, replace(settings, prior_count=0.0))
    settings = replace(settings, prior_scale=float(one.scales[0]) / num_components)
    mixture, trace = best_of(data, one, num_components, settings)
    best, least = mixture, float("inf")
    while num_parameters is not None:
        criterion = -2 * trace[-1] + num_parameters(len(mixture)) * np.log(data.num_points)
        if criterion < least:
            best, least = mixture, criterion
        if len(mixture) == 1:
            break
        found = [
            best_of(data, one, len(mixture) - 1, settings),
            fit(without_closest_pair(mixture), data, settings),
        ]
        mixture, trace = max(found, key=lambda fitted: fitted[1][-1])
    return best, settings
