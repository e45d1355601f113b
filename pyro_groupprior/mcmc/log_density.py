# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A model's log-density for several values of its latents at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.reparam import LocScaleReparam
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Transform, biject_to

from ..primitives import PREDICTED
from ..svi.groups import find_groups
from ..svi.parameters import quiet

CHAINS = "_chains"  # the plate that the chains run along


@dataclass(frozen=True)
class _Latent:
    """One latent site: where it stands in a flat position, and how it gets there."""

    batch: torch.Size
    event: torch.Size
    free: torch.Size  # shape in the unconstrained space
    place: slice
    transform: Transform


class LogDensity:
    """
    The log-joint of a Pyro model as a function of flat, unconstrained positions, for ``C`` chains
    at once: the model runs once, under an outer plate. Weights under group priors are decentred
    (:class:`~pyro.infer.reparam.LocScaleReparam`), since a group's scale and its members move
    together.

    Example::

        >>> from pyro_groupprior.mcmc.log_density import LogDensity
        >>> def model(y):
        ...     z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(z, 1.0), obs=y)
        >>> density = LogDensity(model, (torch.tensor(2.0),))
        >>> density(torch.zeros(3, density.size)).shape
        torch.Size([3])

    :param callable model: a Pyro model that allows outer plates, such as a
        :class:`~pyro_groupprior.BayesianModule`.
    :param args: what it is run with.
    :raises ValueError: if it has no latent sites, discrete ones, or a net without observations.
    """

    def __init__(self, model: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.original, self.args = model, args
        with quiet(model):
            groups = find_groups(model, *args)
            self.centered = [name for name, site in groups.items() if site.centered]
            #: Of the weights under centred group priors: tensors, or 1.
            self.base_scales = {name: groups[name].base_scale for name in self.centered}
            self.model = self._decentred(model)
            trace = poutine.trace(self.model).get_trace(*args)
        nodes = [node for node in trace.nodes.values() if node["type"] == "sample"]
        plates = [frame for node in nodes for frame in node["cond_indep_stack"] if frame.vectorized]
        self.depth = max((-frame.dim for frame in plates), default=0)
        self.sites: dict[str, _Latent] = {}
        start = 0
        for name, node in latent_nodes(trace).items():
            latent = _latent(node, start)
            self.sites[name], start = latent, latent.place.stop
        if not self.sites:
            raise ValueError("model: expected latent sites, found none")
        self.size = start

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Shapes of the model's own latent sites, group-prior weights among them."""
        own = {f"{name}_decentered": name for name in self.centered}
        return {
            own.get(name, name): latent.batch + latent.event for name, latent in self.sites.items()
        }

    def __call__(self, position: Tensor, *args: Any) -> Tensor:
        """
        :param Tensor position: shape ``[C, size]``.
        :param args: what the model is run with; default: what it was built with.
        :return: log-densities with respect to it, but for a constant: shape ``[C]``.
        """
        values, total = self._values(position)
        for log_prob in self._run(values, args or self.args).log_probs:
            if log_prob.dim() > self.depth:  # others are the same for all chains
                total = total + log_prob.reshape(len(log_prob), -1).sum(1)
        return total

    def check_chains(self, position: Tensor) -> None:
        """
        :param Tensor position: shape ``[C, size]``.
        :raises ValueError: if one chain's log-density depends on the others', as that of a model
            does that sums over all dimensions of its latents.
        """
        with torch.no_grad():
            together = self(position)
            alone = torch.cat([self(one) for one in position.split(1)])
        if not torch.allclose(together, alone, rtol=1e-3, atol=1e-2, equal_nan=True):
            raise ValueError(
                "model: expected one that allows outer plates, got one whose log-density for "
                f"several chains is {together.tolist()} together and {alone.tolist()} one by one; "
                "sum over named dimensions only, such as (x * beta).sum(-1)"
            )

    def constrain(self, position: Tensor) -> dict[str, Tensor]:
        """
        The model's own latent sites, group-prior weights among them, each ``[C, ...]``.

        :param Tensor position: shape ``[C, size]``.
        """
        with torch.no_grad():
            values, _ = self._values(position)
            found_values = self._run(values, self.args).values if self.centered else values
        return {
            name: found_values[name].reshape(len(position), *shape)
            for name, shape in self.shapes.items()
        }

    def unconstrain(self, values: Mapping[str, Tensor]) -> Tensor:
        """
        The position of given values, the inverse of :meth:`constrain`.

        :param values: the model's own latent sites, each ``[C, ...]``.
        :return: shape ``[C, size]``.
        """
        rows = []
        for chain in range(len(next(iter(values.values())))):
            one = {name: value[chain] for name, value in values.items()}
            with quiet(self.original):
                model = self._decentred(poutine.condition(self.original, one))
                nodes = poutine.trace(model).get_trace(*self.args).nodes
            free = [
                latent.transform.inv(nodes[name]["value"]).reshape(-1)
                for name, latent in self.sites.items()
            ]
            rows.append(torch.cat(free))
        return torch.stack(rows)

    def _decentred(self, model: Callable[..., Any]) -> Callable[..., Any]:
        return poutine.reparam(model, config={n: LocScaleReparam(0.0) for n in self.centered})

    def _values(self, position: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Sites' values with the chains outermost, and the log of the Jacobian, ``[C]``."""
        num_chains, values = len(position), {}
        total = position.new_zeros(num_chains)
        for name, latent in self.sites.items():
            free = position[:, latent.place].reshape(num_chains, *latent.free)
            value = latent.transform(free)
            jacobian = latent.transform.log_abs_det_jacobian(free, value)
            total = total + jacobian.reshape(num_chains, -1).sum(1)
            ones = (1,) * (self.depth - len(latent.batch))
            values[name] = value.reshape(num_chains, *ones, *latent.batch, *latent.event)
        return values, total

    def _run(self, values: dict[str, Tensor], args: tuple[Any, ...]) -> _Evaluate:
        num_chains = len(next(iter(values.values())))
        with _Evaluate(values) as evaluate, pyro.plate(CHAINS, num_chains, dim=-self.depth - 1):
            self.model(*args)
        return evaluate


class _Evaluate(Messenger):
    """Sites take given values; their log-densities are kept. A trace would keep a copy of all."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values, self.log_probs = dict(values), list[Tensor]()

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True

    def _pyro_post_sample(self, msg: Message) -> None:
        if site_is_subsample(msg):
            return
        self.values.setdefault(msg["name"], msg["value"])  # weights are made of decentred ones
        log_prob = msg["fn"].log_prob(msg["value"], *msg["args"], **msg["kwargs"])
        self.log_probs.append(scale_and_mask(log_prob, msg["scale"], msg["mask"]))


def latent_nodes(trace: Any) -> dict[str, Message]:
    """The latent sites of a trace, by name."""
    return {
        name: node
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not node["is_observed"] and not site_is_subsample(node)
    }


def _latent(node: Message, start: int) -> _Latent:
    fn, value = node["fn"], node["value"]
    if (node["infer"] or {}).get(PREDICTED):
        raise ValueError(f"args: expected observations too, got none for {node['name']!r}")
    if fn.support.is_discrete:
        raise ValueError(f"model: expected continuous latent sites, got {node['name']!r}")
    transform = biject_to(fn.support)
    free = transform.inv(value).shape
    event = value.shape[value.dim() - fn.event_dim :]
    batch = value.shape[: value.dim() - fn.event_dim]
    return _Latent(batch, event, free, slice(start, start + free.numel()), transform)
