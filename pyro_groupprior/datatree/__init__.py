# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Posteriors as an ``xarray.DataTree``, with names and shapes back in place, for ArviZ."""

from .groups import fixed_group_parameters
from .stored import write_datatree
from .training import collapse_frame_of, history_of
from .tree import to_datatree

__all__ = [
    "collapse_frame_of",
    "fixed_group_parameters",
    "history_of",
    "to_datatree",
    "write_datatree",
]
