# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What pictures of weights and of training are drawn from, out of our objects or of a tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from ..assignment import Assignment
from ..datatree import collapse_frame_of, fixed_group_parameters, history_of
from ..families import FAMILIES, Family
from ..guides import posterior_draws, posterior_medians, posterior_moments
from ..nn import BayesianModule
from ..packed import packed_weights
from ..regrouping.trajectories import Trajectories
from ..svi import History

DRAWS = 200  # from a guide, where a picture needs draws


@dataclass(frozen=True)
class GroupedWeights:
    """
    Weights and group priors in units of the base scale: posterior means and standard deviations
    ``[W]``, medians of the groups' location and scale ``[G]``.
    """

    mean: np.ndarray
    sd: np.ndarray
    loc: np.ndarray
    scale: np.ndarray
    assignment: Assignment
    family: Family


def grouped_weights(model: BayesianModule | xr.DataTree, posterior: Any) -> GroupedWeights:
    """
    The weights of a model under a posterior, or those of a tree.

    :raises TypeError: if the model is neither, a posterior is missing, or given beside a tree.
    :raises ValueError: if the draws do not fit, or the tree lacks what is needed.
    """
    if isinstance(model, xr.DataTree):
        refuse("posterior", posterior)
        return _of_tree(model)
    _check_model(model, posterior)
    draws = _draws_by_site(model, posterior)
    if draws is None:
        medians = posterior_medians(posterior)
        draws = {name: value.unsqueeze(0) for name, value in medians.items()}
        mean, sd = posterior_moments(posterior, model.site)
    else:
        mean, sd = _moments(packed_weights(model, draws))
    names = (f"{model.site}_loc", f"{model.site}_scale")
    groups, fixed = model.assignment.num_groups, fixed_group_parameters(model)
    loc, scale = (
        _median(draws[name].reshape(-1, groups)) if name in draws else _array(fixed[name])
        for name in names
    )
    base = model.base_scale
    return GroupedWeights(
        _array(mean / base), _array(sd / base), loc, scale, model.assignment, model.family
    )


def grouped_draws(
    model: BayesianModule | Assignment | xr.DataTree, posterior: Any
) -> tuple[Tensor, Assignment]:
    """
    Draws of the weights, or snapshots over time, ``[T, W]``, and their groups.

    :raises TypeError: if the model is none of these, a posterior is missing, of the wrong kind, or
        given beside a tree.
    :raises ValueError: if the shapes do not fit, or the tree lacks what is needed.
    """
    if isinstance(model, xr.DataTree):
        refuse("posterior", posterior)
        return tree_draws(model), tree_assignment(model)
    rows = posterior.means if isinstance(posterior, Trajectories) else posterior
    if isinstance(model, Assignment):
        assignment = model
        if not isinstance(rows, Tensor):
            raise TypeError(
                "posterior: expected a tensor [T, W] or Trajectories beside an Assignment, got "
                f"{type(posterior).__name__}"
            )
    else:
        _check_model(model, posterior)
        assignment = model.assignment
        if not isinstance(rows, Tensor):
            draws = _draws_by_site(model, posterior)
            rows = packed_weights(model, draws or posterior_draws(posterior, DRAWS))
    size = assignment.num_weights
    if rows.dim() != 2 or rows.shape[1] != size or len(rows) < 2:
        raise ValueError(
            f"posterior: expected two or more draws or snapshots of {size} weights, shape "
            f"[T, {size}], got {list(rows.shape)}"
        )
    return rows.detach().cpu(), assignment


def tree_draws(tree: xr.DataTree) -> Tensor:
    """All draws of a tree's packed weights, ``[S, W]``, in packing order."""
    posterior, parameter = tree_group(tree, "posterior"), _constant(tree, "parameter")
    parts = []
    for name in parameter.attrs["flag_meanings"].split():
        if name not in posterior:
            raise ValueError(f"tree: its posterior has no draws of {name!r}, but {list(posterior)}")
        values = posterior[name].transpose("chain", "draw", ...).values
        parts.append(torch.as_tensor(values.reshape(values.shape[0] * values.shape[1], -1)))
    return torch.cat(parts, 1)


def tree_assignment(tree: xr.DataTree) -> Assignment:
    """Which weight is in which group."""
    constants, index = tree_group(tree, "constant_data"), _constant(tree, "assignment")
    shares = constants.get("responsibilities")
    return Assignment(
        torch.as_tensor(index.values),
        _constant(tree, "group_size").size,
        None if shares is None else torch.as_tensor(shares.values),
    )


def tree_group(tree: xr.DataTree, name: str) -> xr.Dataset:
    """
    A group of a tree.

    :raises ValueError: if it is not there.
    """
    if name not in tree.children:
        raise ValueError(
            f"tree: expected a group {name!r}, as to_datatree makes it, got {sorted(tree.children)}"
        )
    return tree[name].to_dataset()


def as_history(history: History | xr.DataTree) -> History:
    """
    The history, or that of a tree.

    :raises TypeError: if it is neither.
    :raises ValueError: if the tree has none.
    """
    if isinstance(history, xr.DataTree):
        return history_of(history)
    if not isinstance(history, History):
        raise TypeError(f"history: expected a History or a DataTree, got {type(history).__name__}")
    return history


def as_collapse_frame(source: Any) -> pd.DataFrame:
    """
    A monitor's table of signals, or that of a tree, or the table itself.

    :raises TypeError: if it is none of these.
    :raises ValueError: if there are no checks.
    """
    if isinstance(source, xr.DataTree):
        frame = collapse_frame_of(source)
    elif isinstance(source, pd.DataFrame):
        frame = source
    elif hasattr(source, "to_frame") and hasattr(source, "threshold"):
        frame = source.to_frame()
    else:
        raise TypeError(
            "monitor: expected a CollapseMonitor, its to_frame() or a DataTree, got "
            f"{type(source).__name__}"
        )
    if not len(frame):
        raise ValueError("monitor: expected at least one check, got none")
    return frame


def refuse(argument: str, value: Any) -> None:
    """
    :raises TypeError: if there is a value beside a tree.
    """
    if value is not None:
        raise TypeError(
            f"{argument}: expected none beside a DataTree, which has its own, got "
            f"{type(value).__name__}"
        )


def _of_tree(tree: xr.DataTree) -> GroupedWeights:
    draws, assignment = tree_draws(tree).double(), tree_assignment(tree)
    constants, posterior = tree_group(tree, "constant_data"), tree_group(tree, "posterior")
    site = constants.attrs.get("site", "weights")
    found = {}
    for kind in ("loc", "scale"):
        name = f"{site}_{kind}"
        if name in posterior:
            values = posterior[name].transpose("chain", "draw", "group").values
            found[kind] = _median(torch.as_tensor(values.reshape(-1, assignment.num_groups)))
        else:
            found[kind] = _constant(tree, name).values.astype(np.float64)
    base = torch.as_tensor(constants["base_scale"].values)
    mean, sd = (_array(value / base) for value in _moments(draws))
    return GroupedWeights(mean, sd, found["loc"], found["scale"], assignment, _family(constants))


def _constant(tree: xr.DataTree, name: str) -> xr.DataArray:
    constants = tree_group(tree, "constant_data")
    if name not in constants:
        raise ValueError(
            f"tree: expected that of a BayesianModule, with {name!r} in constant_data, got "
            f"{sorted(map(str, constants))}"
        )
    return constants[name]


def _family(constants: xr.Dataset) -> Family:
    name = constants.attrs.get("prior_family", "normal")
    if name not in FAMILIES:
        raise ValueError(
            f"tree: expected prior_family to be one of {sorted(FAMILIES)}, got {name!r}; give the "
            "model and a posterior in its place"
        )
    parameters = {
        key.removeprefix("prior_"): float(value)
        for key, value in constants.attrs.items()
        if key.startswith("prior_") and key != "prior_family"
    }
    return FAMILIES[name](**parameters)


def _check_model(model: Any, posterior: Any) -> None:
    if not isinstance(model, BayesianModule):
        raise TypeError(
            f"model: expected a BayesianModule or a DataTree, got {type(model).__name__}"
        )
    if posterior is None:
        raise TypeError("posterior: expected a guide or draws by site, got None")


def _draws_by_site(model: BayesianModule, posterior: Any) -> Mapping[str, Tensor] | None:
    """Draws; None of a guide that knows the weights' moments itself."""
    if hasattr(posterior, "get_samples"):
        return posterior.get_samples()
    if isinstance(posterior, Mapping):
        return posterior
    return None if model.centered else posterior_draws(posterior, DRAWS)


def _moments(draws: Tensor) -> tuple[Tensor, Tensor]:
    return draws.mean(0), draws.std(0, correction=min(1, len(draws) - 1))


def _median(draws: Tensor) -> np.ndarray:
    # In NumPy: torch's median is wrong on expanded tensors (seen in 2.13).
    return np.median(draws.detach().double().cpu().numpy(), axis=0)


def _array(value: Tensor) -> np.ndarray:
    return value.detach().double().cpu().numpy()
