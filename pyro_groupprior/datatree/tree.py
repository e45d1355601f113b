# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A posterior, and all that belongs to it, as a tree of labelled arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from ..guides import SiteGuide
from ..nn import BayesianModule
from ..svi import History, PhasedSVI
from .arrays import SAMPLE_DIMS, Variables, as_array, chained, dataset
from .blocks import Draws
from .net import NetReader
from .plain import ModelReader
from .training import training_groups


def to_datatree(
    model: Callable[..., Any],
    posterior: Any,
    x: Any = None,
    y: Tensor | None = None,
    num_draws: int = 500,
    *,
    new_x: Any = None,
    num_chains: int = 1,
    prior: bool = False,
    include: Sequence[str] | None = None,
    training: PhasedSVI | History | None = None,
) -> xr.DataTree:
    """
    Everything that ArviZ wants to know of a posterior, as a tree of labelled arrays.

    - ``posterior``: one variable for each packed tensor under its own name, such as ``0.weight``
      with dims ``chain, draw, 0.unit, 0.input``; the groups' ``{site}_loc`` and ``{site}_scale``
      with dim ``group``, in units of the base scale; ``noise`` and other latents.
    - ``constant_data``, all in packing order: ``assignment`` (and ``responsibilities``, if soft),
      ``base_scale``, ``parameter`` (which tensor, by CF's ``flag_meanings``); group parameters
      that have no posterior; inputs that are one tensor.
    - ``sample_stats``: of chains ``diverging``, ``energy`` and so on, where these are known; of the
      package's guides, with ``x`` and ``y``, the log-density of each draw in the model, ``lp``, and
      in the guide, ``log_q``: their difference is what Pareto-smoothed importance sampling takes
      (``psislw``; Yao et al. 2018, "Yes, but did it work?").
    - with ``x``: ``posterior_predictive``, without a dimension for outputs where there is one only;
      with ``y`` too: ``log_likelihood``, one value a row, and ``observed_data``; with ``new_x``:
      ``predictions`` there.
    - on request ``prior`` and ``prior_predictive``, as many draws as of the posterior; and of a run
      of training ``epochs``, ``phases`` and ``collapse`` (see :func:`history_of`).

    The same draws are used in all groups. ArviZ 1.x takes the tree as it is, ArviZ 0.23 through
    ``arviz.from_datatree``; ``tree.to_netcdf(path, engine="h5netcdf")`` writes a file that
    ``arviz.from_netcdf`` opens. A ``/`` in a parameter's name, which netCDF forbids, becomes
    ``_``. For nets whose draws do not fit into memory there is :func:`write_datatree`.

    Example::

        >>> model = BayesianModule(nn.Sequential(nn.Linear(3, 2)), likelihoods.Normal())
        >>> x, y = torch.randn(10, 3), torch.randn(10, 1).expand(10, 2)
        >>> guide = AutoMeanField(model)
        >>> guide.setup(x, y)
        >>> tree = to_datatree(model, guide, x, y, num_draws=20)
        >>> sorted(tree.children)
        ['constant_data', 'log_likelihood', 'observed_data', 'posterior', 'posterior_predictive',
         'sample_stats']
        >>> tree["posterior"]["0.weight"].dims
        ('chain', 'draw', '0.unit', '0.input')

    :param callable model: a :class:`~pyro_groupprior.BayesianModule`; or any other Pyro model,
        which is called as ``model(*x, y)``, and as ``model(*x)`` to predict. Its variables have the
        names of its sites, dimensions those of its plates.
    :param posterior: a guide; draws by site, such as ``mcmc.get_samples()`` gives; or what has run
        chains, such as :func:`~pyro_groupprior.mcmc.run_mcmc` gives, which knows their number.
    :param x: inputs of the training data, ``N`` rows.
    :param Tensor y: their observations.
    :param int num_draws: how many draws from a guide; draws that are given are all used.
    :param new_x: inputs of further rows.
    :param int num_chains: how many chains the draws come from, one after the other.
    :param bool prior: whether to have draws of the prior too.
    :param include: names or patterns, such as ``"0.*"``, of the variables whose draws are wanted;
        default: all.
    :param training: the engine, or its history.
    :raises TypeError: if ``model`` is not callable, or inputs are given to a net without a
        likelihood.
    :raises ValueError: if ``y`` comes without ``x``, a pattern fits nothing, or the draws do not
        fit the model or make chains of equal length.
    """
    source = TreeSource(
        model, posterior, x, y, num_draws, new_x, num_chains, prior, include, training
    )
    parts: dict[str, Any] = {}
    for first, groups in source.blocks():
        for name, variables in groups.items():
            _put(parts.setdefault(name, {}), variables, first, source.draws.length)
    found = {name: dataset(variables) for name, variables in parts.items()}
    return xr.DataTree.from_dict(found | source.constants())


def _put(whole: Variables, block: Variables, first: int, length: int) -> None:
    """Write a block of draws into arrays of all of them."""
    for name, (dims, values) in block.items():
        if values.shape[1] == length:
            whole[name] = (dims, values)
            continue
        if name not in whole:
            shape = (len(values), length, *values.shape[2:])
            whole[name] = (dims, np.empty(shape, values.dtype))
        whole[name][1][:, first : first + values.shape[1]] = values


class TreeSource:
    """What :func:`to_datatree` and :func:`write_datatree` have in common; arguments as there."""

    def __init__(
        self,
        model: Callable[..., Any],
        posterior: Any,
        x: Any,
        y: Tensor | None,
        num_draws: int,
        new_x: Any,
        num_chains: int,
        prior: bool,
        include: Sequence[str] | None,
        training: PhasedSVI | History | None,
    ) -> None:
        if not callable(model):
            kind = type(model).__name__
            raise TypeError(f"model: expected a BayesianModule or another Pyro model, got {kind}")
        if y is not None and x is None:
            raise ValueError("y: expected with x, the inputs of the same rows")
        if isinstance(include, str):
            raise TypeError(f"include: expected several names or patterns, got {include!r}")
        self.x, self.y, self.new_x, self.prior = x, y, new_x, prior
        self.training = {} if training is None else training_groups(training)
        patterns = None if include is None else tuple(include)
        self.reader: NetReader | ModelReader
        if isinstance(model, BayesianModule):
            self.reader = NetReader(model, x, y, new_x, patterns)
        else:
            self.reader = ModelReader(model, x, y, new_x, patterns)
        self.draws = Draws(
            posterior, num_draws, num_chains, self.reader.args, self.reader.num_numbers
        )
        self.patterns = patterns
        self._latent: tuple[str, ...] = ()

    def blocks(self, at_once: int | None = None) -> Iterator[tuple[int, dict[str, Variables]]]:
        """The number of the first draw of a block, and variables with draws, by group."""
        reader, chains = self.reader, self.draws.num_chains
        for first, draws in self.draws.blocks(at_once):
            count = len(next(iter(draws.values())))
            groups = {"posterior": reader.latents(draws, chains)}
            if not first:
                self._latent = tuple(draws)
                self._check_include(groups["posterior"])
            stop = first + count // chains
            stats: Variables = {
                name: (SAMPLE_DIMS, as_array(value[:, first:stop]))
                for name, value in self.draws.stats.items()
            }
            if self.x is not None:
                groups |= reader.fitted(draws, chains)
            if "log_likelihood" in groups and isinstance(self.draws.guide, SiteGuide):
                log_q = self.draws.guide.log_prob(draws).double()
                log_joint = reader.log_joint(draws, groups["log_likelihood"])
                stats |= {
                    "lp": (SAMPLE_DIMS, chained(log_joint, chains)),
                    "log_q": (SAMPLE_DIMS, chained(log_q, chains)),
                }
            if stats:
                groups["sample_stats"] = stats
            if self.new_x is not None:
                groups["predictions"] = reader.predicted(draws, chains, new=True)
            if self.prior:
                own = reader.prior_draws(count)
                groups["prior"] = reader.latents(own, chains)
                if self.x is not None:
                    groups["prior_predictive"] = reader.predicted(own, chains, new=False)
            yield first, groups

    def constants(self) -> dict[str, xr.Dataset]:
        """Datasets without draws, by group; known after the blocks."""
        variables, attrs = self.reader.constants(self._latent)
        found = {"constant_data": dataset(variables, **attrs)} if variables else {}
        if self.y is not None:
            found["observed_data"] = dataset(self.reader.observed())
        if self.new_x is not None and (new := self.reader.new_constants()):
            found["predictions_constant_data"] = dataset(new)
        return found | self.training

    def _check_include(self, found: Variables) -> None:
        for pattern in self.patterns or ():
            if not any(fnmatchcase(name, pattern) for name in found):
                raise ValueError(f"include: nothing is called {pattern!r}")
