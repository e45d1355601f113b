# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Variables of any Pyro model, with dimensions named after its plates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro.infer import Predictive
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from .arrays import SAMPLE_DIMS, Variables, as_array, chained, plain_name, selected
from .groups import model_constants


class ModelReader:
    """
    What a tree has of a model that is called as ``model(*x, y)``, or ``model(*x)`` to predict.

    :param callable model: the model.
    :param x: its first argument, or a tuple of them, or None.
    :param y: its next argument, what was observed, or None.
    :param new_x: as ``x``, for predictions, or None.
    :param include: patterns of the variables to have draws of, or None for all.
    :raises ValueError: if the model has no latent sites.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        x: Any,
        y: Any,
        new_x: Any,
        include: tuple[str, ...] | None,
    ) -> None:
        self.model, self.include = model, include
        self.x, self.new_x = _as_args(x), _as_args(new_x)
        self.args = self.x if y is None else (*self.x, y)
        with torch.no_grad(), pyro.poutine.block():
            trace = pyro.poutine.trace(model).get_trace(*self.args)
        nodes = dict(prune_subsample_sites(trace).iter_stochastic_nodes())
        self._latents = {name: node for name, node in nodes.items() if not node["is_observed"]}
        if not self._latents:
            raise ValueError("model: expected latent sample sites, found none")
        self._observed = {name: trace.nodes[name] for name in trace.observation_nodes}
        self._log_joint: Tensor | None = None

    @property
    def num_numbers(self) -> int:
        """About as many numbers as a draw takes."""
        return sum(node["value"].numel() for node in self._latents.values())

    def latents(self, draws: Mapping[str, Tensor], num_chains: int) -> Variables:
        """Draws of the model's latents."""
        found: Variables = {}
        for name, node in self._latents.items():
            label = plain_name(name)
            if name not in draws or not selected(label, self.include):
                continue
            value = draws[name].reshape(-1, *node["value"].shape)
            found[label] = ((*SAMPLE_DIMS, *_dims(name, node)), chained(value, num_chains))
        return found

    def constants(self, latent: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What does not vary over draws, and attributes."""
        return model_constants(self.model, self.args), {}

    def new_constants(self) -> dict[str, Any]:
        """Nothing: a model's arguments have no names."""
        return {}

    def observed(self) -> Variables:
        """The observations, by site."""
        return {
            plain_name(name): (_dims(name, node), as_array(node["value"]))
            for name, node in self._observed.items()
        }

    def fitted(self, draws: Mapping[str, Tensor], num_chains: int) -> dict[str, Variables]:
        """Predictions for ``x``, and log-likelihoods of what was observed there."""
        found = {"posterior_predictive": self.predicted(draws, num_chains, new=False)}
        if self._observed:
            found["log_likelihood"] = self._log_likelihoods(draws, num_chains)
        return {group: variables for group, variables in found.items() if variables}

    def predicted(self, draws: Mapping[str, Tensor], num_chains: int, new: bool) -> Variables:
        """Observations for ``x``, or for ``new_x``, from each draw."""
        args = self.new_x if new else self.x
        with torch.no_grad(), pyro.poutine.block():
            trace = pyro.poutine.trace(self.model).get_trace(*args)
            nodes = {
                name: node
                for name, node in prune_subsample_sites(trace).iter_stochastic_nodes()
                if name not in self._latents
            }
            own = {name: draws[name] for name in self._latents if name in draws}
            found = Predictive(self.model, own, return_sites=tuple(nodes))(*args) if nodes else {}
        return {
            plain_name(name): (
                (*SAMPLE_DIMS, *_dims(name, node)),
                chained(found[name].reshape(-1, *node["value"].shape), num_chains),
            )
            for name, node in nodes.items()
        }

    def prior_draws(self, num_draws: int) -> dict[str, Tensor]:
        """Draws of the latents' prior, by site."""
        with torch.no_grad(), pyro.poutine.block():
            latents = tuple(self._latents)
            found = Predictive(self.model, num_samples=num_draws, return_sites=latents)(*self.args)
        return {name: value.detach() for name, value in found.items()}

    def log_joint(self, draws: Mapping[str, Tensor], log_likelihood: Variables) -> Tensor:
        """Log-density of the latents and of what was observed, ``[S]``."""
        assert self._log_joint is not None
        return self._log_joint

    @torch.no_grad()
    def _log_likelihoods(self, draws: Mapping[str, Tensor], num_chains: int) -> Variables:
        own = {name: draws[name] for name in self._latents if name in draws}
        rows: dict[str, list[Tensor]] = {name: [] for name in self._observed}
        totals = []
        for number in range(len(next(iter(own.values())))):
            values = {
                name: value[number].reshape(self._latents[name]["value"].shape)
                for name, value in own.items()
            }
            with pyro.poutine.block():
                conditioned = pyro.poutine.condition(self.model, data=values)
                trace = pyro.poutine.trace(conditioned).get_trace(*self.args)
            trace.compute_log_prob()
            totals.append(trace.log_prob_sum())
            for name, kept in rows.items():
                node = trace.nodes[name]
                each = node["unscaled_log_prob"]
                kept.append(each if node["mask"] is None else torch.where(node["mask"], each, 0.0))
        self._log_joint = torch.stack(totals).double().cpu()
        return {
            plain_name(name): (
                (*SAMPLE_DIMS, *_dims(name, self._observed[name])[: each[0].dim()]),
                chained(torch.stack(each).double(), num_chains),
            )
            for name, each in rows.items()
        }


def _as_args(x: Any) -> tuple[Any, ...]:
    if x is None:
        return ()
    return x if isinstance(x, tuple) else (x,)


def _dims(name: str, node: Any) -> tuple[str, ...]:
    """Plates by their names, then the event's dimensions."""
    shape = node["value"].shape
    batch = len(shape) - node["fn"].event_dim
    plates = {frame.dim: frame.name for frame in node["cond_indep_stack"] if frame.vectorized}
    dims = [
        plain_name(plates.get(position - batch, f"{name}_dim_{position}"))
        for position in range(batch)
    ]
    return (*dims, *(plain_name(f"{name}_dim_{position}") for position in range(batch, len(shape))))
