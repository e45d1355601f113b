# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Approximate posteriors."""

from .base import ParameterMove, SiteGuide
from .block import AutoBlockNormal
from .files import load_guide, save_guide
from .full_rank import AutoFullRank
from .initialization import init_to_weights
from .low_rank import AutoLowRank
from .mean_field import AutoMeanField
from .pyro_autoguides import (
    posterior_draws,
    posterior_medians,
    posterior_moments,
    posterior_quantiles,
)

__all__ = [
    "AutoBlockNormal",
    "AutoFullRank",
    "AutoLowRank",
    "AutoMeanField",
    "ParameterMove",
    "SiteGuide",
    "init_to_weights",
    "load_guide",
    "posterior_draws",
    "posterior_medians",
    "posterior_moments",
    "posterior_quantiles",
    "save_guide",
]
