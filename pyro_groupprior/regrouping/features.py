# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What clusterers are given: points, one for each weight."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .posterior import WeightPosterior
from .trajectories import standardized

FEATURES = ("mean", "moments", "estimate", "evidence", "trajectory", "draws")
NUM_DRAWS = 64


@torch.no_grad()
def points_of(posterior: WeightPosterior, features: str, seed: int = 0) -> np.ndarray:
    """
    The points of a posterior, shape ``[W, columns]``, on the CPU; features as in
    :class:`~pyro_groupprior.Cluster`.

    Example::

        >>> one = torch.ones(3)
        >>> groups = Assignment(torch.zeros(3, dtype=torch.long))
        >>> points_of(WeightPosterior(torch.arange(3.0), one, one, groups), "mean").ravel().round(3)
        array([-1.225,  0.   ,  1.225], dtype=float32)

    :param int seed: of posterior draws.
    :raises FloatingPointError: if a point is not finite.
    :raises ValueError: if the posterior lacks what the features need.
    """
    columns = _COLUMNS[features](posterior, seed)
    points = columns.detach().cpu().numpy()
    # A sum over all tells of NaN and inf without a copy; its overflow is looked at more closely.
    if not np.isfinite(points.T.sum(dtype=np.float64)) and not np.isfinite(points).all():
        raise FloatingPointError("posterior: expected finite means and deviations")
    return points


def _mean(posterior: WeightPosterior, seed: int) -> Tensor:
    return _standardised((posterior.mean / posterior.base_scale).unsqueeze(1))


def _moments(posterior: WeightPosterior, seed: int) -> Tensor:
    sd = (posterior.sd / posterior.base_scale).clamp(min=1e-12)
    return _standardised(torch.stack([posterior.mean / posterior.base_scale, sd.log_()], 1))


def _estimate(posterior: WeightPosterior, seed: int) -> Tensor:
    return _standardised(posterior.evidence().estimate.unsqueeze(1))


def _evidence(posterior: WeightPosterior, seed: int) -> Tensor:
    return torch.stack(posterior.evidence()).T  # so that each column lies in one piece


def _trajectory(posterior: WeightPosterior, seed: int) -> Tensor:
    if posterior.trajectory is None or len(posterior.trajectory) < 3:
        raise ValueError(
            "features: a trajectory needs at least 3 snapshots of the posterior means; put a "
            "Monitor among the callbacks, with a shorter interval than that of regrouping"
        )
    return standardized(posterior.trajectory)


def _draws(posterior: WeightPosterior, seed: int) -> Tensor:
    if posterior.draw is None:
        raise ValueError("features: 'draws' needs a posterior to draw from")
    device = posterior.mean.device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        return standardized(posterior.draw(NUM_DRAWS))


def _standardised(points: Tensor) -> Tensor:
    spread = points.double().std(0, correction=0) if len(points) < 1e6 else points.std(0)
    spread = torch.where(spread > 0, spread, 1.0).to(points)
    middle = points.mean(0, dtype=torch.float64).to(points)
    return points.sub_(middle).div_(spread)


_COLUMNS = {
    "mean": _mean,
    "moments": _moments,
    "estimate": _estimate,
    "evidence": _evidence,
    "trajectory": _trajectory,
    "draws": _draws,
}
