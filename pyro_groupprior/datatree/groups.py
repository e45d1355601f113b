# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What does not vary over draws: which weight is in which group, and parameters that are fixed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from ..assignment import Assignment
from ..families import FAMILIES, Family
from ..hyperpriors import Learned
from ..nn import BayesianModule
from ..svi.groups import find_groups
from .arrays import Variables, as_array, plain_name


def fixed_group_parameters(model: BayesianModule) -> dict[str, Tensor]:
    """
    The groups' locations and scales that are no latent sites: fixed values and learned points.

    Example::

        >>> fixed_group_parameters(BayesianModule(nn.Linear(2, 1), scale=0.5))
        {'weights_scale': tensor([0.5000, 0.5000, 0.5000])}

    :return: by site name, each of shape ``[G]``.
    """
    values = {}
    for name, prior in (("loc", model.prior_loc), ("scale", model.prior_scale)):
        site = f"{model.site}_{name}"
        if isinstance(prior, Learned):
            store = pyro.get_param_store()
            prior = store[site].detach() if site in store else prior.init
        if isinstance(prior, (int, float, Tensor)):
            value = torch.as_tensor(prior).to(model.base_scale)
            values[site] = value.expand(model.assignment.num_groups)
    return values


def net_constants(model: BayesianModule, latent: Collection[str]) -> dict[str, Any]:
    """Variables for the group prior of a net, in packing order."""
    entries = model.layout.entries
    meanings = {
        "flag_values": np.arange(len(entries), dtype=np.int32),
        "flag_meanings": " ".join(plain_name(entry.name) for entry in entries),
    }
    parameter = np.repeat(np.arange(len(entries), dtype=np.int32), [e.size for e in entries])
    found: dict[str, Any] = dict(_of_assignment(model.assignment, ""))
    found |= {
        "base_scale": (("weight",), as_array(model.base_scale)),
        "parameter": (("weight",), parameter, meanings),
    }
    for name, value in fixed_group_parameters(model).items():
        if name not in latent:
            found[name] = (("group",), as_array(value))
    return found


def model_constants(model: Callable[..., Any], args: tuple[Any, ...]) -> dict[str, Any]:
    """Variables for all group priors of any model, each with its site's name before it."""
    found: dict[str, Any] = {}
    with pyro.poutine.block():
        groups = find_groups(model, *args)
    for name, site in groups.items():
        prefix = f"{plain_name(name)}_"
        found |= _of_assignment(site.assignment, prefix)
        base = torch.as_tensor(site.base_scale).expand(site.assignment.num_weights)
        found[f"{prefix}base_scale"] = ((f"{prefix}weight",), as_array(base))
    return found


def family_attrs(family: Family) -> dict[str, Any]:
    """A prior family by name and parameters, as far as it is one of the package's own."""
    names = {kind: name for name, kind in FAMILIES.items()}
    found = {"prior_family": names.get(type(family), type(family).__name__)}
    return found | {f"prior_{key}": value for key, value in vars(family).items()}


def _of_assignment(assignment: Assignment, prefix: str) -> Variables:
    weight, group, slot = f"{prefix}weight", f"{prefix}group", f"{prefix}slot"
    dims = (weight, slot) if assignment.is_soft else (weight,)
    found: Variables = {
        f"{prefix}assignment": (dims, as_array(assignment.index)),
        f"{prefix}group_size": ((group,), as_array(assignment.sizes())),
    }
    if assignment.responsibilities is not None:
        found[f"{prefix}responsibilities"] = (dims, as_array(assignment.responsibilities))
    return found
