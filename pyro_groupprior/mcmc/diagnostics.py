# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Whether chains agree, by ArviZ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import arviz
import numpy as np
import pandas as pd
from torch import Tensor

_PART = 4096  # elements of a site at a time


def diagnose(samples: Mapping[str, Tensor]) -> pd.DataFrame:
    """
    The worst R-hat and the least effective sample size, bulk and tail, of any element (Vehtari et
    al. 2021, "Rank-normalization, folding, and localization: an improved R-hat"). One chain is
    judged by its two halves, which tells much less; elements that never change are left out.

    Example::

        >>> from pyro_groupprior.mcmc.diagnostics import diagnose
        >>> diagnose({"z": torch.randn(4, 500, 3)})["rhat"].lt(1.05).item()
        True

    :param samples: by name, each ``[chains, draws, ...]``.
    :return: a row for each, with columns ``rhat``, ``ess_bulk`` and ``ess_tail``.
    :raises ValueError: if there are fewer than 8 draws a chain, or one is NaN or infinite.
    """
    rows = {}
    for name, value in samples.items():
        if not bool(value.isfinite().all()):
            raise ValueError(f"draws: expected finite numbers of {name!r}, got NaN or inf")
        if value.shape[1] < 8:
            raise ValueError(f"draws: expected at least 8 a chain, got {value.shape[1]}")
        flat = value.detach().double().cpu().reshape(*value.shape[:2], -1)
        flat = flat[..., (flat != flat[:1, :1]).any(0).any(0)]
        if flat.shape[1] and len(flat) == 1:
            half = flat.shape[1] // 2
            flat = flat[0, : 2 * half].reshape(2, half, -1)
        found = [_of(part.numpy()) for part in flat.split(_PART, dim=-1) if part.shape[-1]]
        worst = np.array(found or [(np.nan, np.nan, np.nan)])
        rows[name] = (worst[:, 0].max(), worst[:, 1].min(), worst[:, 2].min())
    return pd.DataFrame.from_dict(rows, orient="index", columns=["rhat", "ess_bulk", "ess_tail"])


def without_labels(names: Iterable[str]) -> list[str]:
    """
    The sites that mean the same in all draws: where assignments were drawn too, groups may change
    their numbers.

    Example::

        >>> from pyro_groupprior.mcmc.diagnostics import without_labels
        >>> without_labels(["w", "w_loc", "w_scale", "w_assignment", "w_proportions", "noise"])
        ['w', 'noise']

    :param names: of all sites.
    """
    names = list(names)
    drawn = [name.removesuffix("_assignment") for name in names if name.endswith("_assignment")]
    endings = ("_assignment", "_proportions", "_loc", "_scale")
    labelled = {site + ending for site in drawn for ending in endings}
    return [name for name in names if name not in labelled]


def _of(part: np.ndarray) -> tuple[float, float, float]:
    data = arviz.convert_to_dataset({"z": part})
    rhat = float(arviz.rhat(data)["z"].max())
    bulk, tail = (float(arviz.ess(data, method=m)["z"].min()) for m in ("bulk", "tail"))
    return rhat, bulk, tail
