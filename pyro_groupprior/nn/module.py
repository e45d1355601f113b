# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Any ``torch.nn.Module`` as a Pyro model with one packed site of weights under group priors."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.func import functional_call

from ..assignment import Assignment
from ..assignment_buffer import AssignmentBuffer
from ..exposure import expose_parameters
from ..families import Family, as_family
from ..hyperpriors import Hyper
from ..layout import Layout
from ..likelihoods import Likelihood, beside
from ..primitives import (
    PREDICTED,
    check_base_scale,
    check_prior,
    sample_weights,
)
from .draws import map_draws
from .grouping import Grouping, fan_in_scale, initial_assignment
from .noise import LocalNoise, PosteriorReader, local_modules
from .selection import Owned, Rule, owned_parameters, repeated_names, select_parameters


class BayesianModule(PyroModule):
    """
    A net whose weights have hierarchical group priors. All Bayesian weights form one packed
    sample site, so that groups can span layers and Pyro's cost does not grow with the number of
    tensors; the rest stay point parameters, learned along with the guide.

    With a likelihood it is a complete model ``model(x, y=None)`` with sites ``weights_loc``,
    ``weights_scale``, ``weights``, those of the likelihood, and ``obs``. Without one, call it
    inside a model of your own.

    Example::

        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> model = BayesianModule(net, likelihoods.Normal(), num_data=100)
        >>> model.assignment.num_groups        # 4 inputs + constant, 8 hidden units + constant
        14
        >>> trace = pyro.poutine.trace(model).get_trace(torch.randn(10, 4), torch.randn(10, 1))
        >>> trace.nodes["obs"]["scale"]        # a batch of 10 stands for 100
        10.0

    :param Module net: the net; it is copied, its own parameters are left alone. Their values are
        where guides start.
    :param Likelihood likelihood: one of :mod:`pyro_groupprior.likelihoods`.
    :param int num_data: number of rows of the whole data set; a minibatch's likelihood is scaled
        up to it. Default: every batch is the whole data set.
    :param bayesian: which parameters are Bayesian: a name pattern, module type, predicate
        ``(name, module, parameter) -> bool``, or a list of these. Default: all but those of norm
        layers and frozen ones.
    :param grouping: the first groups: ``"column"`` for the weights that read the same input, so
        that a prior learns how much each input and unit matters (automatic relevance
        determination; Neal 1996, "Bayesian Learning for Neural Networks"), ``"all"``,
        ``"tensor"``, ``"layer"``, ``"row"``, ``"channel"``, ``"head"``, a callable, indices, or
        an :class:`~pyro_groupprior.Assignment`.
    :param base_scale: ``"fan_in"`` for 1 / sqrt(fan-in), a positive number, or a tensor ``[W]``.
    :param str name: name of the weights' site.
    :param loc: as in :func:`~pyro_groupprior.group_prior`.
    :param scale: likewise.
    :param family: likewise.
    :param centered: likewise.
    :raises TypeError: if an argument is of the wrong kind.
    :raises ValueError: if the net has no parameters, a rule matches nothing, or shapes do not fit.
    """

    def __init__(
        self,
        net: nn.Module,
        likelihood: Likelihood | None = None,
        *,
        num_data: int | None = None,
        bayesian: Rule | Iterable[Rule] | None = None,
        grouping: Grouping = "column",
        base_scale: str | float | Tensor = "fan_in",
        name: str = "weights",
        loc: Hyper = None,
        scale: Hyper = None,
        family: str | Family = "normal",
        centered: bool = True,
    ) -> None:
        if not isinstance(net, nn.Module):
            raise TypeError(f"net: expected a torch.nn.Module, got {type(net).__name__}")
        if likelihood is not None and not isinstance(likelihood, Likelihood):
            raise TypeError(
                f"likelihood: expected a Likelihood such as likelihoods.Normal(), "
                f"got {type(likelihood).__name__}"
            )
        if num_data is not None and num_data < 1:
            raise ValueError(f"num_data: expected a positive number, got {num_data}")
        check_prior(loc, scale, family)
        names = {item.name for item in select_parameters(net, bayesian)}
        super().__init__()
        net = copy.deepcopy(net)
        owned = [item for item in owned_parameters(net) if item.name in names]
        layout = Layout(
            [(item.name, item.parameter.shape) for item in owned],
            {item.name: item.aliases for item in owned},
        )
        assignment = initial_assignment(grouping, net, owned, layout)
        scales = _base_scale(base_scale, net, owned)
        check_base_scale(scales, layout.num_weights)
        device = owned[0].parameter.device
        for item in owned:
            # They only hold the start values: the sampled weights take their place.
            item.parameter.requires_grad_(False)
        self.net = net
        self.groups = AssignmentBuffer(assignment.to(device))
        # Reading a submodule of a PyroModule while it runs enters its parameters in Pyro's
        # global ParamStore; these second references go around that (see expose_parameters).
        self._parts = (self.net, self.groups)
        self._has_points = any(p.requires_grad for p in net.parameters())
        self.likelihood = likelihood
        self.num_data = num_data
        self.layout = layout
        self._repeated = repeated_names(net, layout)
        self.site = name
        self.prior_loc, self.prior_scale = loc, scale
        self.family, self.centered = as_family(family), centered
        self.register_buffer("base_scale", scales.to(device))
        #: Which weights the net reads, booleans ``[W]``, zeros for the rest; None for all.
        self.mask: Tensor | None
        self.register_buffer("mask", None)

    @property
    def assignment(self) -> Assignment:
        """The grouping in the model's buffers."""
        return self.groups.assignment

    def initial_weights(self) -> Tensor:
        """The net's own weights, packed: shape ``[W]``."""
        return self.layout.pack(dict(self._parts[0].named_parameters()))

    def partition(self, grouping: Grouping) -> Assignment:
        """
        The weights by tensor, layer, row and so on, whatever their present groups are.

        Example::

            >>> model = BayesianModule(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)))
            >>> model.partition("layer").sizes().tolist()
            [9.0, 4.0]

        :param grouping: as in the constructor.
        """
        net = self._parts[0]
        owned = {item.name: item for item in owned_parameters(net)}
        return initial_assignment(
            grouping, net, [owned[name] for name in self.layout.names], self.layout
        )

    def sample_weights(self) -> Tensor:
        """State the group prior; returns packed weights, shape ``[W]`` or ``[S, 1, W]``."""
        return sample_weights(
            self.site,
            self._parts[1],
            self.prior_loc,
            self.prior_scale,
            self.base_scale,
            self.family,
            self.centered,
            self.initial_weights,
        )

    def call_net(self, weights: Tensor, inputs: Any) -> Any:
        """
        The net's output for given packed weights.

        :param Tensor weights: shape ``[W]``.
        :param inputs: a tensor; a tuple or list is passed as several arguments, a mapping by
            keyword.
        """
        return self._call(self.layout.unpack(self._read(weights), aliases=True), inputs)

    def _read(self, weights: Tensor) -> Tensor:
        return weights if self.mask is None else torch.where(self.mask, weights, 0.0)

    def _call(self, tensors: dict[str, Tensor], inputs: Any) -> Any:
        args, kwargs = _arguments(inputs)
        for name in self._repeated:
            del tensors[name]
        # Tied tensors are listed under every name already, which spares torch the search.
        return functional_call(self._parts[0], tensors, args, kwargs, tie_weights=False)

    def forward(self, inputs: Any, y: Tensor | None = None) -> Any:
        """
        :param inputs: what the net takes; ``N`` rows.
        :param Tensor y: observations, ``N`` rows; None to predict.
        :return: the net's output.
        """
        if self._has_points:
            expose_parameters(self._parts[0], f"{self.site}.net")
        with PosteriorReader(self.site) as posterior:
            weights = self.sample_weights()
        if posterior.moments is not None:
            if weights.dim() > 1:
                raise ValueError(
                    "local_reparam: it cannot be vectorised over particles; use "
                    "vectorize_particles=False"
                )
            loc, scale = map(self._read, posterior.moments)
            modules = local_modules(self._parts[0], self.layout)
            num_rows = _num_rows(inputs if y is None else y)
            with LocalNoise(modules, self.layout, loc, scale, num_rows) as noise:
                output = self._call(noise.tensors(self._read(weights)), inputs)
        elif weights.dim() == 1:
            output = self.call_net(weights, inputs)
        else:
            # Outer plates, as under vectorised particles: one net call for each draw.
            draws = weights.reshape(-1, weights.shape[-1])
            output = map_draws(lambda draw: self.call_net(draw, inputs), draws)
        if self.likelihood is not None:
            self._observe(output, y, batch_dims=weights.dim() - 1)
        return output

    def _observe(self, output: Any, y: Tensor | None, batch_dims: int) -> None:
        """:param int batch_dims: how many outer plates there are; their draws stand in one row."""
        assert self.likelihood is not None
        draws = min(batch_dims, 1)
        if not isinstance(output, Tensor):
            raise TypeError(
                f"net: a likelihood needs a tensor as output, got {type(output).__name__}; wrap "
                "the net so that it returns one"
            )
        if output.dim() == draws:
            raise ValueError("net: expected an output with one row for each observation")
        latents = self.likelihood.sample_latents(output)
        if draws:
            latents = {
                name: beside(value, value.shape[batch_dims:], output) if value.dim() else value
                for name, value in latents.items()
            }
        fn = self.likelihood.distribution(output, latents)
        fn = fn.to_event(len(fn.batch_shape) - draws - 1)
        if y is not None:
            y = self.likelihood.check(output[0] if draws else output, y)
        num_rows = output.shape[draws]
        factor = 1.0 if self.num_data is None or y is None else self.num_data / num_rows
        with pyro.poutine.scale(scale=factor), pyro.plate("data", num_rows):
            pyro.sample("obs", fn, obs=y, infer={PREDICTED: y is None})


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    return (inputs,), {}


def _num_rows(data: Any) -> int:
    """The number of rows of the first tensor found."""
    args, kwargs = _arguments(data)
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.dim():
            return value.shape[0]
    return -1


def _base_scale(base_scale: str | float | Tensor, net: nn.Module, owned: Sequence[Owned]) -> Tensor:
    fan_in = fan_in_scale(net, owned)
    if isinstance(base_scale, str):
        if base_scale != "fan_in":
            raise ValueError(
                f'base_scale: expected "fan_in", a number or a tensor, got {base_scale!r}'
            )
        return fan_in
    values = torch.as_tensor(base_scale, dtype=fan_in.dtype)
    return values.expand(fan_in.shape).clone() if values.dim() == 0 else values
