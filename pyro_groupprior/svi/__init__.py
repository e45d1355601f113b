# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The training engine."""

from .callbacks import Callback, Checkpoint, Progress
from .convergence import ConvergenceWarning, UntilConverged, loss_fall
from .history import EpochRecord, History, PhaseRecord
from .lockin import LockIn, lock_in_test
from .monitor import Monitor
from .phased import PhasedSVI
from .posteriors import weight_posteriors

__all__ = [
    "Callback",
    "Checkpoint",
    "ConvergenceWarning",
    "EpochRecord",
    "History",
    "LockIn",
    "Monitor",
    "PhaseRecord",
    "PhasedSVI",
    "Progress",
    "UntilConverged",
    "lock_in_test",
    "loss_fall",
    "weight_posteriors",
]
