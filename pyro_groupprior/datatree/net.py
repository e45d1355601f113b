# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Variables of a net whose weights are one packed site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn

from ..layout import Entry
from ..nn import BayesianModule
from ..packed import packed_weights
from ..predictive import Prediction, predict
from .arrays import SAMPLE_DIMS, Variables, as_array, chained, plain_name, row_dims, selected
from .groups import family_attrs, net_constants

_UNIT_SECOND = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_TABLES = (nn.Embedding, nn.EmbeddingBag)


class NetReader:
    """
    What a tree has of a :class:`~pyro_groupprior.BayesianModule`.

    :param BayesianModule model: the model.
    :param x: inputs, or None.
    :param Tensor y: observations of the same rows, or None.
    :param new_x: inputs of further rows, or None.
    :param include: patterns of the variables to have draws of, or None for all.
    """

    def __init__(
        self,
        model: BayesianModule,
        x: Any,
        y: Tensor | None,
        new_x: Any,
        include: tuple[str, ...] | None,
    ) -> None:
        self.model, self.x, self.y, self.new_x, self.include = model, x, y, new_x, include
        self._observed: Tensor | None = None

    @property
    def args(self) -> tuple[Any, ...]:
        """What a guide is called with."""
        return () if self.x is None else (self.x,)

    @property
    def num_numbers(self) -> int:
        """About as many numbers as a draw takes."""
        return self.model.layout.num_weights

    def latents(self, draws: Mapping[str, Tensor], num_chains: int) -> Variables:
        """Draws under the names of the net's tensors, and of the other latents."""
        model = self.model
        found: Variables = {}
        taken: dict[str, int] = {}
        named = model.layout.unpack(packed_weights(model, draws))
        for entry in model.layout:
            dims = _dims(model, entry, taken)
            if selected(plain_name(entry.name), self.include):
                found[plain_name(entry.name)] = (dims, chained(named[entry.name], num_chains))
        for name, value in draws.items():
            if name == model.site or not selected(plain_name(name), self.include):
                continue
            if name in (f"{model.site}_loc", f"{model.site}_scale"):
                value = value.reshape(len(value), model.assignment.num_groups)
                dims = ("group",)
            else:
                dims = tuple(f"{name}_dim_{number}" for number in range(value.dim() - 1))
            found[plain_name(name)] = (dims, chained(value, num_chains))
        return {name: ((*SAMPLE_DIMS, *dims), value) for name, (dims, value) in found.items()}

    def constants(self, latent: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What does not vary over draws, and attributes."""
        found = net_constants(self.model, latent)
        if isinstance(self.x, Tensor):
            found["x"] = (_input_dims(self.x), as_array(self.x))
        return found, {"site": self.model.site, **family_attrs(self.model.family)}

    def new_constants(self) -> dict[str, Any]:
        """Inputs of the further rows, where they are one tensor."""
        if isinstance(self.new_x, Tensor):
            return {"x": (_input_dims(self.new_x), as_array(self.new_x))}
        return {}

    def observed(self) -> Variables:
        """The observations, once they have been compared with predictions."""
        assert self._observed is not None
        values = _one_output(self._observed, 1)
        return {"obs": (row_dims(values), as_array(values))}

    def fitted(self, draws: Mapping[str, Tensor], num_chains: int) -> dict[str, Variables]:
        """Predictions for ``x``, and with ``y`` their log-likelihood."""
        prediction = predict(self.model, draws, self.x)
        found = {"posterior_predictive": _observations(prediction, num_chains)}
        if self.y is not None:
            assert self.model.likelihood is not None
            self._observed = y = self.model.likelihood.check(prediction.outputs[0], self.y)
            found["log_likelihood"] = _log_likelihood(prediction, y, num_chains)
        return found

    def predicted(self, draws: Mapping[str, Tensor], num_chains: int, new: bool) -> Variables:
        """Observations of ``x``, or of ``new_x``, from each draw."""
        return _observations(predict(self.model, draws, self.new_x if new else self.x), num_chains)

    @torch.no_grad()
    def prior_draws(self, num_draws: int) -> dict[str, Tensor]:
        """Draws of the latents' prior, by site."""
        trace = self._prior_trace(num_draws)
        return {
            name: node["value"].reshape(
                num_draws, *_own_shape(node["value"].shape[1:], node["fn"].event_shape)
            )
            for name, node in trace.iter_stochastic_nodes()
        }

    @torch.no_grad()
    def log_joint(self, draws: Mapping[str, Tensor], log_likelihood: Variables) -> Tensor:
        """Log-density of the latents and of ``y``, up to the rows' weight in training, ``[S]``."""
        num_draws = len(next(iter(draws.values())))
        given = {}
        for name, node in self._prior_trace(num_draws).iter_stochastic_nodes():
            if name in draws:
                given[name] = draws[name].reshape(node["value"].shape)
        trace = self._prior_trace(num_draws, given)
        trace.compute_log_prob()
        total = torch.as_tensor(log_likelihood["obs"][1]).flatten(0, 1).sum(1)
        for name in given:
            total += trace.nodes[name]["log_prob"].reshape(num_draws, -1).sum(1).cpu()
        return total

    def _prior_trace(self, num_draws: int, given: Mapping[str, Tensor] | None = None) -> Any:
        """The prior's statements, once for all draws."""
        model = self.model

        def prior() -> None:
            with pyro.plate("_draws", num_draws, dim=-2):
                model.sample_weights()
                if model.likelihood is not None:
                    model.likelihood.sample_latents(model.base_scale)

        conditioned = pyro.poutine.condition(prior, data=dict(given or {}))
        with pyro.poutine.block():
            return prune_subsample_sites(pyro.poutine.trace(conditioned).get_trace())


def _own_shape(shape: torch.Size, event: torch.Size) -> torch.Size:
    """Without the dimension of size 1 that sites in no plate of their own get."""
    return event if shape == (1, *event) else shape


def _observations(prediction: Prediction, num_chains: int) -> Variables:
    values = _one_output(prediction.sample(), 2)
    return {"obs": ((*SAMPLE_DIMS, *row_dims(values[0])), chained(values, num_chains))}


def _one_output(values: Tensor, leading: int) -> Tensor:
    """Without a dimension for outputs where there is one: ArviZ matches them with the rows."""
    return values.squeeze(-1) if values.dim() == leading + 1 and values.shape[-1] == 1 else values


def _log_likelihood(prediction: Prediction, y: Tensor, num_chains: int) -> Variables:
    each = prediction.distribution.log_prob(y)
    rows = each.flatten(2).sum(2) if each.dim() > 2 else each
    # ArviZ adds up exponentials over draws and rows: in single precision loo gets noisy.
    return {"obs": ((*SAMPLE_DIMS, "row"), chained(rows.double(), num_chains))}


def _input_dims(x: Tensor) -> tuple[str, ...]:
    behind = x.dim() - 1
    return ("row", *(("feature",) if behind == 1 else (f"feature_{i}" for i in range(behind))))


def _dims(model: BayesianModule, entry: Entry, taken: dict[str, int]) -> tuple[str, ...]:
    """Names for a tensor's dimensions, shared within a layer wherever the sizes agree."""
    layer = entry.name.rpartition(".")[0]
    module = model.net.get_submodule(layer)
    if isinstance(module, _TABLES):
        kinds = ["token", "feature"]
    elif isinstance(module, _UNIT_SECOND) and len(entry.shape) > 1:
        kinds = ["input", "unit"]
    else:
        kinds = ["unit", "input"]
    kinds += [f"kernel_{number}" for number in range(len(entry.shape) - 2)]
    dims = []
    for kind, size in zip(kinds, entry.shape, strict=False):
        # A recurrent layer's two matrices, for example, have inputs of different number.
        dim = plain_name(f"{layer}.{kind}".lstrip("."))
        if taken.setdefault(dim, size) != size:
            dim = plain_name(f"{entry.name}.{kind}")
        dims.append(dim)
    return tuple(dims)
