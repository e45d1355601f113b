# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The training engine."""

from .callbacks import Callback, Checkpoint, Progress
from .history import EpochRecord, History, PhaseRecord
from .monitor import Monitor
from .phased import PhasedSVI
from .posteriors import weight_posteriors

__all__ = [
    "Callback",
    "Checkpoint",
    "EpochRecord",
    "History",
    "Monitor",
    "PhaseRecord",
    "PhasedSVI",
    "Progress",
    "weight_posteriors",
]
