# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Effect handlers, one a file."""

from .kl_weight import KLWeightMessenger
from .regroup import RegroupMessenger, regroup

__all__ = ["KLWeightMessenger", "RegroupMessenger", "regroup"]
