# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What a run refuses before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..nn import BayesianModule
from .groups import GroupSite


def check_regroupable(groups: Mapping[str, GroupSite]) -> None:
    """
    :raises ValueError: if the model has no group prior, or one whose grouping cannot be rewritten.
    """
    if not groups:
        raise ValueError("regroup: the model states no group_prior")
    for site in groups.values():
        site.check_regroupable()


def check_num_data(model: Any, batches: int | None) -> None:
    """
    :param batches: how many batches an epoch has, if that is known.
    :raises ValueError: if there are several, and the model does not know the size of all data.
    """
    modules = model.modules() if isinstance(model, nn.Module) else ()
    for module in modules:
        if (
            isinstance(module, BayesianModule)
            and module.likelihood is not None
            and module.num_data is None
            and batches != 1
        ):
            raise ValueError(
                "num_data: the loader gives minibatches, so tell BayesianModule(num_data=...) "
                "how many rows all of them have together; else the prior counts once a batch"
            )
