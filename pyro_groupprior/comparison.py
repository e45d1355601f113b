# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Two posteriors of one net side by side: in the space of weights, and by what they predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torchmetrics.functional import accuracy

from .guides import posterior_moments
from .nn import BayesianModule
from .nn.grouping import Grouping
from .predictive import Prediction


@dataclass(frozen=True)
class WeightMoments:
    """
    Mean and standard deviation of a net's packed weights.

    :param Tensor mean: shape ``[W]``.
    :param Tensor sd: likewise.
    """

    mean: Tensor
    sd: Tensor


Posterior: TypeAlias = "Any"  # a guide, or draws by site


@torch.no_grad()
def weight_moments(model: BayesianModule, posterior: Posterior) -> WeightMoments:
    """
    Posterior mean and standard deviation of a net's weights.

    Example::

        >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal())
        >>> draws = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
        >>> weight_moments(model, {"weights": draws}).mean
        tensor([2., 2., 2.])

    :param BayesianModule model: the net.
    :param posterior: a guide, draws by site of which there are two or more, such as of MCMC or the
        packed weights of an ensemble's members, or :class:`WeightMoments`.
    :raises ValueError: if there are no draws of the weights, or fewer than two.
    """
    if isinstance(posterior, WeightMoments):
        return posterior
    if not isinstance(posterior, Mapping):
        return WeightMoments(*posterior_moments(posterior, model.site))
    draws, size = posterior.get(model.site), model.layout.num_weights
    if draws is None or draws.shape[1:] != (size,) or len(draws) < 2:
        raise ValueError(
            f"posterior: expected two or more draws [S, {size}] of {model.site!r}, got "
            f"{None if draws is None else tuple(draws.shape)}"
        )
    return WeightMoments(draws.mean(0), draws.std(0))


@torch.no_grad()
def compare_weights(
    model: BayesianModule,
    posteriors: Mapping[str, Posterior],
    reference: str,
    by: Grouping = "layer",
) -> pd.DataFrame:
    """
    Posteriors of a net's weights beside a reference, each as independent normal distributions: how
    far apart, in what, and where. They are to be in one frame before, as
    :func:`~pyro_groupprior.symmetry.in_frame` brings them: a unit's weights mean nothing where
    another has taken its place.

    - ``kl``: Kullback-Leibler divergence from the reference, summed, in nats;
    - ``w2``: Wasserstein-2 distance in units of the base scale, the root of the mean of squares;
    - ``overlap``: the area below both densities, between 0 and 1, the mean;
    - ``snr``: the weights' median ``|mean| / sd``;
    - ``sd_ratio``: the geometric mean of the standard deviation over the reference's.

    Example::

        >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal())
        >>> one = WeightMoments(torch.zeros(3), torch.ones(3))
        >>> two = WeightMoments(torch.ones(3), torch.ones(3))
        >>> table = compare_weights(model, {"one": one, "two": two}, "one")
        >>> table[["posterior", "kl", "overlap"]].round(2).values.tolist()
        [['one', 0.0, 1.0], ['two', 1.5, 0.62]]

    :param BayesianModule model: the net.
    :param posteriors: by name, as in :func:`weight_moments`.
    :param str reference: one of the names.
    :param by: weights to take together, as ``grouping`` in
        :class:`~pyro_groupprior.BayesianModule`: ``"all"``, ``"layer"``, ``"row"`` for units, or
        ``torch.arange(W)`` for weight by weight.
    :return: a row for each posterior and each group of weights, with the name of the tensor that
        holds the first of these, and how many they are.
    :raises ValueError: if there is no such reference.
    """
    if reference not in posteriors:
        raise ValueError(f"reference: expected one of {list(posteriors)}, got {reference!r}")
    found = {name: weight_moments(model, posterior) for name, posterior in posteriors.items()}
    assignment = model.partition(by)
    index, base_scale = assignment.index.long().cpu(), model.base_scale.cpu().double()
    firsts = torch.full((assignment.num_groups,), len(index)).scatter_reduce(
        0, index, torch.arange(len(index)), "amin"
    )
    starts = torch.tensor([entry.start for entry in model.layout])
    names = [model.layout[int(i)].name for i in torch.searchsorted(starts, firsts, right=True) - 1]
    one = _normal(found[reference])
    tables = []
    for name, moments in found.items():
        two = _normal(moments)
        each = pd.DataFrame(
            {
                "group": index.numpy(),
                "kl": kl_divergence(two, one).numpy(),
                "w2": (
                    ((two.mean - one.mean) ** 2 + (two.scale - one.scale) ** 2)
                    / base_scale.square()
                ).numpy(),
                "overlap": overlap(two, one).numpy(),
                "snr": (two.mean.abs() / two.scale).numpy(),
                "sd_ratio": (two.scale / one.scale).log().numpy(),
            }
        )
        groups = each.groupby("group")
        table = groups.agg(
            {"kl": "sum", "w2": "mean", "overlap": "mean", "snr": "median", "sd_ratio": "mean"}
        )
        table["w2"], table["sd_ratio"] = table["w2"] ** 0.5, table["sd_ratio"].map(_exp)
        table.insert(0, "posterior", name)
        table.insert(1, "tensor", [names[group] for group in table.index])
        table.insert(2, "weights", groups.size())
        tables.append(table.reset_index())
    return pd.concat(tables, ignore_index=True)


def overlap(first: Normal, second: Normal) -> Tensor:
    """
    The area below both of two normal densities: one less their total variation distance.

    Example::

        >>> from pyro_groupprior.comparison import overlap
        >>> from torch.distributions import Normal
        >>> round(float(overlap(Normal(0.0, 1.0), Normal(2.0, 1.0))), 4)      # 2 Phi(-1)
        0.3173
    """
    narrow = first.scale <= second.scale
    mean, sd = _pair(narrow, first.mean, second.mean), _pair(narrow, first.scale, second.scale)
    # In units of the narrower one, the other at N(shift, width): where are the densities equal?
    shift, width = (mean[1] - mean[0]) / sd[0], sd[1] / sd[0]
    equal = width - 1 < 1e-6
    square = torch.where(equal, 2.0, width.square())
    root = (square * (shift.square() + (square - 1) * square.log())).sqrt()
    low, high = (-shift - root) / (square - 1), (-shift + root) / (square - 1)
    standard = Normal(torch.zeros_like(shift), 1.0)
    inside = standard.cdf(high) - standard.cdf(low)
    wide = standard.cdf((high - shift) / square.sqrt()) - standard.cdf(
        (low - shift) / square.sqrt()
    )
    return torch.where(equal, 2 * standard.cdf(-shift.abs() / 2), 1 - inside + wide)


def agreement(first: Prediction, second: Prediction) -> float:
    """
    Share of the rows of which two posteriors predict the same label (Izmailov et al. 2021, "What
    are Bayesian neural network posteriors really like?").

    :param Prediction first: of class labels.
    :param Prediction second: likewise, for the same rows.
    :raises TypeError: if one is not of class labels.
    :raises ValueError: if they are for different rows.
    """
    one, other = _probabilities(first, second)
    labels = other.argmax(-1).flatten()
    return float(
        accuracy(
            one.argmax(-1).flatten(),
            labels,
            "multiclass",
            num_classes=one.shape[-1],
            average="micro",
        )
    )


def total_variation(first: Prediction, second: Prediction) -> float:
    """
    Mean total variation distance of two posteriors' predictive probabilities, between 0 and 1
    (Izmailov et al. 2021).

    :param Prediction first: of class labels.
    :param Prediction second: likewise, for the same rows.
    :raises TypeError: if one is not of class labels.
    :raises ValueError: if they are for different rows.
    """
    one, other = _probabilities(first, second)
    return float(0.5 * (one - other).abs().sum(-1).mean())


def _normal(moments: WeightMoments) -> Normal:
    return Normal(moments.mean.cpu().double(), moments.sd.cpu().double().clamp(min=1e-12))


def _exp(value: float) -> float:
    return float(torch.tensor(value).exp())


def _pair(condition: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(condition, first, second), torch.where(condition, second, first)


def _probabilities(first: Prediction, second: Prediction) -> tuple[Tensor, Tensor]:
    if not (first.is_categorical and second.is_categorical):
        raise TypeError("prediction: expected two of class labels")
    one, other = first.mean, second.mean
    if one.shape != other.shape:
        raise ValueError(
            f"prediction: expected two for the same rows, got shapes {tuple(one.shape)} and "
            f"{tuple(other.shape)}"
        )
    return one, other
