# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What a run refuses before it starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from ..nn import BayesianModule
from ..regrouping import Regroup
from .convergence import UntilConverged
from .groups import GroupSite


def check_options(
    *,
    model: Any,
    loss: Any,
    regroup: Any,
    warmup: int | None,
    retries: int,
    clip_norm: float | None,
    convergence: Any,
) -> None:
    """
    :raises TypeError: if an argument of PhasedSVI is of the wrong kind.
    :raises ValueError: if a number is out of range.
    """
    if not callable(model):
        raise TypeError(f"model: expected a callable, got {type(model).__name__}")
    if loss is not None and not isinstance(loss, ELBO):
        raise TypeError(f"loss: expected one of Pyro's ELBOs, got {type(loss).__name__}")
    if regroup is not None and not isinstance(regroup, Regroup):
        raise TypeError(f"regroup: expected a Regroup, got {type(regroup).__name__}")
    if convergence is not None and not isinstance(convergence, UntilConverged):
        raise TypeError(
            f"convergence: expected an UntilConverged, got {type(convergence).__name__}"
        )
    if warmup is not None and warmup < 0:
        raise ValueError(f"warmup: expected a number of steps, got {warmup}")
    if retries < 0:
        raise ValueError(f"retries: expected a number of times, got {retries}")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"clip_norm: expected a positive number, got {clip_norm}")


def check_gradients(parameters: Mapping[str, Tensor]) -> None:
    """
    :raises FloatingPointError: if a gradient has NaN or inf, naming the parameter.
    """
    gradients = {n: p.grad for n, p in parameters.items() if p.grad is not None}
    # One sum each and one look at all of them: an overflow of a sum is looked at more closely.
    sums = [gradient.sum() for gradient in gradients.values()]
    if not sums or bool(torch.stack([s.to(sums[0]) for s in sums]).isfinite().all()):
        return
    for name, gradient in gradients.items():
        if not bool(gradient.isfinite().all()):
            raise FloatingPointError(
                f"loss: its gradient with respect to {name} has NaN or inf; the step was not "
                "taken. Try a lower learning rate or standardised data"
            )


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
    for module in _observing(model):
        if module.num_data is None and batches != 1:
            raise ValueError(
                "num_data: the loader gives minibatches, so tell BayesianModule(num_data=...) "
                "how many rows all of them have together; else the prior counts once a batch"
            )


def check_num_rows(model: Any, num_rows: int, batch_size: int) -> None:
    """
    :param int num_rows: of all data.
    :param int batch_size: rows of a batch at most.
    :raises ValueError: if a net does not know that all its data are so many rows.
    """
    for module in _observing(model):
        known = num_rows if module.num_data is None else module.num_data
        if known != num_rows or (module.num_data is None and batch_size < num_rows):
            raise ValueError(
                f"num_data: expected BayesianModule(num_data={num_rows}), as many as args have "
                f"rows, got {module.num_data}"
            )


def _observing(model: Any) -> Iterator[BayesianModule]:
    """Nets with a likelihood."""
    for module in model.modules() if isinstance(model, nn.Module) else ():
        if isinstance(module, BayesianModule) and module.likelihood is not None:
            yield module
