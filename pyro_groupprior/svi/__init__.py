# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The training engine."""

from .callbacks import Callback, Checkpoint, Progress
from .history import EpochRecord, History, PhaseRecord
from .phased import PhasedSVI

__all__ = [
    "Callback",
    "Checkpoint",
    "EpochRecord",
    "History",
    "PhaseRecord",
    "PhasedSVI",
    "Progress",
]
