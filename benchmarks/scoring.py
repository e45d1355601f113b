# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Scores of posterior draws on rows left out, the same for all methods."""

import math
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import arviz
import numpy as np
import pyro
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from benchmarks.datasets import Split
from pyro_groupprior.collapse import CollapseWarning
from pyro_groupprior.mcmc import ChainWarning, TemperatureWarning
from pyro_groupprior.svi import ConvergenceWarning

BINS = 15


def run(
    method: Callable[[Split, tuple[int, ...]], tuple[Tensor, Tensor | None]],
    split: Split,
    hidden: tuple[int, ...],
    seed: int,
    chains: int | None = None,
) -> dict[str, Any]:
    """Run and score one method, and count its warnings.

    :param chains: That a regression's draws come from, one after the other: adds ``rhat`` of the
        function, the largest over new rows, and its median.
    :return: What :func:`score` gives; ``seconds`` of the processor; ``falling``, warnings that a
        loss still was; ``hot``, that chains ran hotter than the posterior; ``stuck``, that some
        hardly moved; ``rolled_back``, repairs of a collapse; ``dead``, collapses left as they were.
    """
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    start = time.process_time()
    with warnings.catch_warnings(record=True) as told:
        for category in (ConvergenceWarning, CollapseWarning, TemperatureWarning, ChainWarning):
            warnings.simplefilter("always", category)
        function, noise = method(split, hidden)
    seconds = time.process_time() - start
    collapses = [str(w.message) for w in told if issubclass(w.category, CollapseWarning)]
    rolled_back = sum("Rolled back" in message for message in collapses)
    found = score(function.detach(), noise, split)
    if chains:
        each = rhats(function.unflatten(0, (chains, -1)).numpy())
        found |= {"rhat": float(np.max(each)), "rhat_median": float(np.median(each))}
    return found | {
        "seconds": seconds,
        "falling": sum(issubclass(w.category, ConvergenceWarning) for w in told),
        "hot": sum(issubclass(w.category, TemperatureWarning) for w in told),
        "stuck": sum(issubclass(w.category, ChainWarning) for w in told),
        "rolled_back": rolled_back,
        "dead": len(collapses) - rolled_back,
    }


def marks(runs: Iterable[dict[str, Any]]) -> str:
    """Mark a row: ``*`` if some loss was still falling, ``!`` if some posterior is a wrong one.

    That is a net that stayed collapsed onto its prior, or chains that ran hot or hardly moved.
    """
    runs = list(runs)
    falling = any(run.get("falling") for run in runs)
    wrong = any(run.get(key) for run in runs for key in ("dead", "hot", "stuck"))
    return "*" * falling + "!" * wrong


def rhats(function: np.ndarray) -> np.ndarray:
    """Rank-normalised split R-hat of each test row's function value.

    :param function: Draws, shape ``[chains, draws, rows]``.
    """
    return arviz.rhat(arviz.convert_to_dataset(function))["x"].to_numpy()


def score(function: Tensor, noise: Tensor | None, split: Split) -> dict[str, float]:
    """Score draws as an equal mixture.

    :param function: Of a regression, shape ``[S, N]``; logits of a classification, ``[S, N, C]``.
    :param noise: Of a regression, shape ``[S]``, in units of the standardised target.
    :return: NLL in nats a row and the target's own unit; RMSE, share of targets in central 90 %
        intervals and mean noise; or accuracy and expected calibration error.
    """
    if noise is None:
        return _score_classes(function, split.new_y)
    y = split.new_y[:, 0]
    each = torch.distributions.Normal(function, noise.unsqueeze(1))
    log_p = each.log_prob(y).logsumexp(0) - math.log(len(function))
    below = each.cdf(y).mean(0)  # of the mixture, at the observation
    return {
        "nll": float(-log_p.mean()) + math.log(split.scale),
        "rmse": float((function.mean(0) - y).square().mean().sqrt()) * split.scale,
        "coverage": float(((below > 0.05) & (below < 0.95)).float().mean()),
        "noise": float(noise.mean()) * split.scale,
    }


def _score_classes(logits: Tensor, y: Tensor) -> dict[str, float]:
    log_p = logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))
    classes = log_p.shape[1]
    return {
        "nll": float(-log_p.gather(1, y[:, None]).mean()),
        "accuracy": float((log_p.argmax(1) == y).float().mean()),
        "ece": float(multiclass_calibration_error(log_p.exp(), y, classes, n_bins=BINS)),
    }
