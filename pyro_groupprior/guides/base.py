# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The common part of the guides: one block of parameters for each latent site."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import biject_to

from ..exposure import expose_parameters
from ..nn.modes import evaluation_mode
from ..primitives import PREDICTED
from .draws import mean_and_sd, unconstrained_draws
from .initialization import init_to_weights
from .latent import (
    LatentSite,
    inverse_softplus,
    is_positive,
    is_real,
    latent_site,
    unconstrained_start,
)


class ParameterMove(NamedTuple):
    """
    How a regroup changed one parameter: row ``g`` of ``new`` came from row ``source[g]`` of
    ``old``, or is fresh where that is -1.
    """

    old: nn.Parameter
    new: nn.Parameter
    source: Tensor


class SiteGuide(nn.Module):
    """
    Base of the guides that give every latent site of a model a factor of its own, with plain
    ``nn.Parameter`` s: no global ParamStore is involved, and a copy is independent. Subclasses
    say how the factor of a site looks.

    The parameters exist once the guide has seen a batch: at its first call or by :meth:`setup`.

    :param callable model: a Pyro model.
    :param init_loc_fn: where to start; any of Pyro's initialisation strategies.
    :param float init_scale: first posterior standard deviation, in units of the base scale for
        weights, in the unconstrained space for all other sites. Small, since a posterior that
        starts wide can collapse onto the prior before it has learned anything.
    :raises TypeError: if the model is not callable.
    :raises ValueError: if ``init_scale`` is not positive.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        init_loc_fn: Callable[..., Any] = init_to_weights,
        init_scale: float = 0.1,
    ) -> None:
        super().__init__()
        if not callable(model):
            raise TypeError(f"model: expected a callable, got {type(model).__name__}")
        if not init_scale > 0:
            raise ValueError(f"init_scale: expected a positive number, got {init_scale}")
        self._model = (model,)  # in a tuple, so that it is no submodule
        self.init_loc_fn = init_loc_fn
        self.init_scale = init_scale
        self._plates: dict[tuple[str, int, int], pyro.plate] = {}
        self.sites: tuple[LatentSite, ...] = ()
        self.locs = nn.ParameterDict()
        self.unconstrained_scales = nn.ParameterDict()
        self.register_load_state_dict_pre_hook(_resize_before_load)

    @property
    def model(self) -> Callable[..., Any]:
        """The model this guide is for."""
        return self._model[0]

    @property
    def is_set_up(self) -> bool:
        """Whether the parameters exist."""
        return bool(self.sites)

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """
        Run the model once to learn its latent sites, and make the parameters. Nothing of the
        model changes: it runs in evaluation mode, so that no batch statistics move.

        :raises ValueError: if there are no latent sites, or a site is discrete or subsampled.
        :raises RuntimeError: if it was done before: the parameters would be new ones.
        """
        if self.sites:
            raise RuntimeError(f"{type(self).__name__}: the guide is set up already")
        with torch.no_grad(), evaluation_mode(self.model), poutine.block():
            first = InitMessenger(self.init_loc_fn)(self.model)
            trace = poutine.trace(first).get_trace(*args, **kwargs)
        nodes = [
            (name, node)
            for name, node in trace.iter_stochastic_nodes()
            if not site_is_subsample(node) and not (node["infer"] or {}).get(PREDICTED)
        ]
        if not nodes:
            raise ValueError("model: expected latent sample sites, found none")
        sites = tuple(latent_site(name, node) for name, node in nodes)
        for site, (_, node) in zip(sites, nodes, strict=True):
            self._add_site(site, node)
        self.sites = sites

    def _add_site(self, site: LatentSite, node: Mapping[str, Any]) -> None:
        """Make the parameters of one site, from its node in the prototype trace."""
        loc = biject_to(site.support).inv(node["value"]).detach().clone()
        unit = (node["infer"] or {}).get("base_scale")
        scale = torch.full_like(loc, self.init_scale)
        if unit is not None:
            scale = scale * unit
        self.locs[site.key] = nn.Parameter(loc)
        self.unconstrained_scales[site.key] = nn.Parameter(inverse_softplus(scale))

    def site(self, name: str) -> LatentSite:
        """
        A latent site by its name.

        :raises KeyError: if there is none of that name.
        """
        for site in self.sites:
            if site.name == name:
                return site
        raise KeyError(f"no latent site named {name!r}; there are {[s.name for s in self.sites]}")

    def loc_scale(self, site: LatentSite) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation in the unconstrained space, of the site's shape."""
        return self.locs[site.key], F.softplus(self.unconstrained_scales[site.key])

    def marginals(self, site: LatentSite) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each element by itself, in the unconstrained space."""
        return self.loc_scale(site)

    def factor(self, site: LatentSite, batch: tuple[int, ...] = ()) -> TorchDistribution:
        """
        The site's factor of the posterior.

        :param batch: outer dimensions to draw in parallel.
        """
        loc, scale = self.loc_scale(site)
        if batch:
            loc, scale = loc.expand(batch + loc.shape), scale.expand(batch + scale.shape)
        # Parameters made of softplus need no check at every step; the engine checks the loss.
        if is_real(site.support):
            return dist.Normal(loc, scale, validate_args=False).to_event(site.event_dim)
        if is_positive(site.support):
            return dist.LogNormal(loc, scale, validate_args=False).to_event(site.event_dim)
        base = dist.Normal(loc, scale).to_event(site.unconstrained_event_dim)
        return dist.TransformedDistribution(base, biject_to(site.support))

    def infer_options(self, site: LatentSite, fn: TorchDistribution) -> dict[str, Any]:
        """The ``infer`` dictionary of the site's sample statement, whose factor is ``fn``."""
        return {}

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """
        Draw every latent site once; arguments are the model's.

        :return: values by site name.
        """
        if not self.sites:
            self.setup(*args, **kwargs)
        expose_parameters(self, type(self).__name__)
        values: dict[str, Tensor] = {}
        position = 0
        while position < len(self.sites):
            plates = self.sites[position].plates
            with ExitStack() as stack:
                for name, dim in plates:
                    stack.enter_context(self._plate(name, self._plate_size(position, dim), dim))
                # Neighbours in the same plates share one entry: a plate costs as much as a site.
                while position < len(self.sites) and self.sites[position].plates == plates:
                    site = self.sites[position]
                    fn = self.factor(site)
                    values[site.name] = pyro.sample(
                        site.name, fn, infer=self.infer_options(site, fn)
                    )
                    position += 1
        return values

    def _plate(self, name: str, size: int, dim: int) -> pyro.plate:
        """Plates are kept between calls: making one costs more than a draw of a small site."""
        key = (name, size, dim)
        if key not in self._plates:
            self._plates[key] = pyro.plate(name, size, dim=dim)
        return self._plates[key]

    def _plate_size(self, position: int, dim: int) -> int:
        # Read off the parameter, so that parameters of a proposed grouping bring their own size.
        site = self.sites[position]
        return self.locs[site.key].shape[dim - site.unconstrained_event_dim]

    @torch.no_grad()
    def draws(self, num_draws: int) -> dict[str, Tensor]:
        """
        Independent posterior draws of all latent sites, each of shape ``[num_draws, *site]``.
        """
        self._require_setup()
        return {site.name: self.factor(site, (num_draws,)).sample() for site in self.sites}

    @torch.no_grad()
    def log_prob(self, draws: Mapping[str, Tensor]) -> Tensor:
        """
        Log-density of the posterior at draws of all latent sites.

        Example::

            >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal())
            >>> guide = AutoMeanField(model)
            >>> guide.setup(torch.randn(5, 2), torch.randn(5, 1))
            >>> guide.log_prob(guide.draws(100)).shape
            torch.Size([100])

        :param draws: by site, each ``[S, ...]``, in the sites' own, constrained space.
        :return: shape ``[S]``.
        :raises ValueError: if draws are missing or do not fit.
        """
        self._require_setup()
        total: Any = 0.0
        for site in self.sites:
            if site.name not in draws:
                raise ValueError(f"draws: {site.name!r} is missing, there are {sorted(draws)}")
            value = draws[site.name]
            fn = self.factor(site, tuple(value.shape[:1]))
            if value.numel() != fn.shape().numel():
                raise ValueError(
                    f"draws[{site.name!r}]: expected shape {tuple(fn.shape())}, "
                    f"got {tuple(value.shape)}"
                )
            each = fn.log_prob(value.to(self.locs[site.key]).reshape(fn.shape()))
            total = total + each.reshape(len(value), -1).sum(1)
        return total

    @torch.no_grad()
    def moments(self, name: str) -> tuple[Tensor, Tensor]:
        """
        Posterior mean and standard deviation of a real-valued site's elements.

        :raises KeyError: if there is no such site.
        """
        self._require_setup()
        fn = self.factor(self.site(name))
        return fn.mean.clone(), fn.variance.sqrt()

    @torch.no_grad()
    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Posterior medians by site name; arguments are ignored, as in Pyro's autoguides."""
        self._require_setup()
        return {
            # A copy: on the real line it would be the parameter itself.
            site.name: biject_to(site.support)(self.loc_scale(site)[0]).detach().clone()
            for site in self.sites
        }

    @torch.no_grad()
    def quantiles(self, quantiles: Sequence[float], *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """
        Marginal posterior quantiles by site name, stacked along a new first dimension; for
        elementwise supports.
        """
        self._require_setup()
        result = {}
        for site in self.sites:
            loc, scale = self.marginals(site)
            levels = torch.as_tensor(quantiles, dtype=loc.dtype, device=loc.device)
            standard = torch.special.ndtri(levels).reshape(-1, *[1] * loc.dim())
            result[site.name] = biject_to(site.support)(loc + scale * standard)
        return result

    @torch.no_grad()
    def fit_draws(self, draws: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> None:
        """
        Become the normal posterior, of the guide's family, that has the moments of given draws, as
        of MCMC, in the unconstrained space: a compact form of them. Correlations are shrunk as far
        as the number of draws asks for. Draws of nets' weights are to be aligned first
        (:func:`~pyro_groupprior.symmetry.align_draws`).

        Example::

            >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal())
            >>> x, y = torch.randn(20, 2), torch.randn(20, 1)
            >>> other, guide = AutoFullRank(model), AutoMeanField(model)
            >>> other.setup(x, y)
            >>> draws = other.draws(100)
            >>> guide.fit_draws(draws, x, y)
            >>> torch.allclose(guide.moments("weights")[0], draws["weights"].mean(0))
            True

        :param draws: of all latent sites by name, each ``[S, ...]``; of the model, as it is now.
        :param args: the model's, for a guide that is not set up yet.
        :raises TypeError: if the draws are no mapping.
        :raises ValueError: if draws are missing, fewer than two, do not fit, or are not finite, or
            their moments are not; no parameter has changed then.
        """
        if not isinstance(draws, Mapping):
            raise TypeError(f"draws: expected tensors by site, got {type(draws).__name__}")
        if not self.sites:
            self.setup(*args, **kwargs)
        free = unconstrained_draws({s: self.loc_scale(s)[0] for s in self.sites}, draws)
        before = [parameter.clone() for parameter in self.parameters()]
        try:
            for site, value in free.items():
                self._fit_site(site, value)
            if not all(bool(parameter.isfinite().all()) for parameter in self.parameters()):
                raise ValueError("draws: their means and deviations are too large for their dtype")
        except BaseException:
            for parameter, old in zip(self.parameters(), before, strict=True):
                parameter.copy_(old)
            raise

    def _fit_site(self, site: LatentSite, draws: Tensor) -> None:
        """Take over the moments of one site's draws in the unconstrained space, ``[S, ...]``."""
        loc, sd = mean_and_sd(draws)
        self.locs[site.key].copy_(loc)
        self.unconstrained_scales[site.key].copy_(inverse_softplus(sd))

    @property
    def num_numbers(self) -> int:
        """How many numbers the posterior is made of."""
        self._require_setup()
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def num_bytes(self) -> int:
        """How much memory these numbers take."""
        self._require_setup()
        return self.num_numbers * next(self.parameters()).element_size()

    @property
    def structure(self) -> str:
        """What its parameters mean, besides their names: that of another guide is another."""
        layout = getattr(self.model, "layout", ())
        return repr([(entry.name, tuple(entry.shape)) for entry in layout])

    @torch.no_grad()
    def regrouped(
        self, name: str, source: Tensor, first: Mapping[str, Tensor]
    ) -> dict[str, tuple[str, Tensor]]:
        """
        The group parameters' blocks for another grouping of the weights ``name``, without
        touching the present ones.

        :param Tensor source: shape ``[G_new]``: the old group that each new one continues, or -1.
        :param first: start values, shape ``[G_new]``, by site name, for the groups that are new.
        :return: new tensors by parameter name, each with the name of its site.
        """
        self._require_setup()
        rows = source.clamp(min=0).to(torch.long)
        result = {}
        for site in self.sites:
            if site.name not in (f"{name}_loc", f"{name}_scale"):
                continue
            start = unconstrained_start(site.support, first[site.name].to(self.locs[site.key]))
            width = inverse_softplus(torch.full_like(start, self.init_scale))
            for block, values in (("locs", start), ("unconstrained_scales", width)):
                old = getattr(self, block)[site.key]
                on = source.to(old.device)
                kept = old.detach()[rows.to(old.device)]
                result[f"{block}.{site.key}"] = (site.name, torch.where(on < 0, values, kept))
        return result

    def regroup(
        self, name: str, source: Tensor, first: Mapping[str, Tensor]
    ) -> list[ParameterMove]:
        """
        Carry the group parameters over to another grouping; arguments as in :meth:`regrouped`.
        Parameters keep their identity where the number of groups stays.

        :return: what moved where, for the optimizer's state to follow.
        """
        moves = []
        for path, (_, values) in self.regrouped(name, source, first).items():
            block, _, key = path.partition(".")
            parameters = getattr(self, block)
            old = new = parameters[key]
            if old.shape == values.shape:
                with torch.no_grad():
                    new.copy_(values)
            else:
                new = parameters[key] = nn.Parameter(values)
            moves.append(ParameterMove(old, new, source))
        return moves

    def group_parameters(self) -> list[str]:
        """Names, as in ``state_dict``, of the parameters with one row for each group."""
        keys = [site.key for site in self.sites if site.is_group_parameter]
        return [f"{block}.{key}" for key in keys for block in ("locs", "unconstrained_scales")]

    def _require_setup(self) -> None:
        if not self.sites:
            raise RuntimeError(
                f"{type(self).__name__}: the guide has no parameters yet; call it, or setup(), "
                "with a batch first"
            )


def _resize_before_load(guide: nn.Module, state: dict[str, Any], prefix: str, *unused: Any) -> None:
    """A saved guide may have been for another number of groups."""
    assert isinstance(guide, SiteGuide)
    for name in guide.group_parameters():
        saved, own = state.get(prefix + name), guide.get_parameter(name)
        if saved is not None and saved.shape[1:] == own.shape[1:] and len(saved) != len(own):
            block, _, key = name.partition(".")
            getattr(guide, block)[key] = nn.Parameter(own.new_empty(saved.shape))
