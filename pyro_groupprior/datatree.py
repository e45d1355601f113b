# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Posteriors as an ``xarray.DataTree``, with names and shapes back in place, for ArviZ."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from torch import Tensor, nn

from .guides import posterior_draws
from .hyperpriors import Learned
from .layout import Entry
from .mcmc.draws import sample_stats
from .nn import BayesianModule
from .packed import packed_weights
from .predictive import Prediction, predict

_UNIT_SECOND = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_TABLES = (nn.Embedding, nn.EmbeddingBag)


def to_datatree(
    model: BayesianModule,
    posterior: Any,
    x: Any = None,
    y: Tensor | None = None,
    num_draws: int = 500,
    *,
    new_x: Any = None,
    num_chains: int = 1,
) -> xr.DataTree:
    """
    Everything that ArviZ wants to know of a posterior, as a tree of labelled arrays.

    - ``posterior``: one variable for each packed tensor under its own name, such as ``0.weight``
      with dims ``chain, draw, 0.unit, 0.input``; the groups' ``{site}_loc`` and ``{site}_scale``
      with dim ``group``, in units of the base scale; ``noise`` and other latents.
    - ``constant_data``, all in packing order: ``assignment`` (and ``responsibilities``, if soft),
      ``base_scale``, ``parameter`` (which tensor, by CF's ``flag_meanings``); group parameters
      that have no posterior.
    - of chains: ``sample_stats``, such as ``diverging`` and ``energy``, where these are known.
    - with ``x``: ``posterior_predictive``; with ``y`` too: ``log_likelihood``, one value a row, and
      ``observed_data``; with ``new_x``: ``predictions`` there.

    The same draws are used in all groups. ArviZ 1.x takes the tree as it is, ArviZ 0.23 through
    ``arviz.from_datatree``; ``tree.to_netcdf(path, engine="h5netcdf")`` writes a file that
    ``arviz.from_netcdf`` opens. A ``/`` in a parameter's name, which netCDF forbids, becomes
    ``_``.

    Example::

        >>> model = BayesianModule(nn.Sequential(nn.Linear(3, 2)), likelihoods.Normal())
        >>> x, y = torch.randn(10, 3), torch.randn(10, 1).expand(10, 2)
        >>> guide = AutoMeanField(model)
        >>> guide.setup(x, y)
        >>> tree = to_datatree(model, guide, x, y, num_draws=20)
        >>> sorted(tree.children)
        ['constant_data', 'log_likelihood', 'observed_data', 'posterior', 'posterior_predictive']
        >>> tree["posterior"]["0.weight"].dims
        ('chain', 'draw', '0.unit', '0.input')

    :param BayesianModule model: the model.
    :param posterior: a guide; draws by site, such as ``mcmc.get_samples()`` gives; or what has run
        chains, such as :func:`~pyro_groupprior.mcmc.run_mcmc` gives, which knows their number.
    :param x: inputs of the training data, ``N`` rows.
    :param Tensor y: their observations.
    :param int num_draws: how many draws from a guide; draws that are given are all used.
    :param new_x: inputs of further rows.
    :param int num_chains: how many chains the draws come from, one after the other.
    :raises TypeError: if ``model`` is no :class:`~pyro_groupprior.BayesianModule`, or inputs are
        given to one without a likelihood.
    :raises ValueError: if ``y`` comes without ``x``, or the draws do not fit the model or make
        chains of equal length.
    """
    if not isinstance(model, BayesianModule):
        raise TypeError(f"model: expected a BayesianModule, got {type(model).__name__}")
    if y is not None and x is None:
        raise ValueError("y: expected with x, the inputs of the same rows")
    stats: dict[str, Tensor] = {}
    if hasattr(posterior, "get_samples"):  # of chains, in memory or in files
        stats, posterior = sample_stats(posterior), posterior.get_samples(group_by_chain=True)
        num_chains = len(next(iter(posterior.values())))
        posterior = {name: value.flatten(0, 1) for name, value in posterior.items()}
    if not isinstance(posterior, Mapping):
        given = () if x is None else (x,)
        posterior = posterior_draws(posterior, num_draws, *given)
    draws = {name: value.detach() for name, value in posterior.items()}
    num_draws = len(next(iter(draws.values()), ()))
    if num_chains < 1 or num_draws % num_chains or not num_draws:
        raise ValueError(f"num_chains: {num_draws} draws do not make {num_chains} equal chains")
    groups = {
        "posterior": _posterior(model, draws, num_chains),
        "constant_data": _constant_data(model, draws),
    }
    if stats:
        dims = ("chain", "draw")
        groups["sample_stats"] = _dataset({k: (dims, _array(v)) for k, v in stats.items()})
    if x is not None:
        prediction = predict(model, draws, x)
        groups["posterior_predictive"] = _observations(prediction, num_chains)
        if y is not None:
            assert model.likelihood is not None
            y = model.likelihood.check(prediction.outputs[0], y)
            groups["log_likelihood"] = _log_likelihood(prediction, y, num_chains)
            groups["observed_data"] = _dataset({"obs": (_row_dims(y), _array(y))})
    if new_x is not None:
        groups["predictions"] = _observations(predict(model, draws, new_x), num_chains)
    return xr.DataTree.from_dict(groups)


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


def _posterior(model: BayesianModule, draws: Mapping[str, Tensor], num_chains: int) -> xr.Dataset:
    variables = {}
    named = model.layout.unpack(packed_weights(model, draws))
    taken: dict[str, int] = {}
    for entry in model.layout:
        dims = _dims(model, entry, taken)
        variables[_name(entry.name)] = (dims, _chained(named[entry.name], num_chains))
    for name, value in draws.items():
        if name == model.site:
            continue
        if name in (f"{model.site}_loc", f"{model.site}_scale"):
            value = value.reshape(len(value), model.assignment.num_groups)
            dims = ("group",)
        else:
            dims = tuple(f"{name}_dim_{number}" for number in range(value.dim() - 1))
        variables[_name(name)] = (dims, _chained(value, num_chains))
    return _dataset(
        {name: (("chain", "draw", *dims), value) for name, (dims, value) in variables.items()}
    )


def _constant_data(model: BayesianModule, draws: Mapping[str, Tensor]) -> xr.Dataset:
    assignment, entries = model.assignment, model.layout.entries
    slots = ("weight", "slot") if assignment.is_soft else ("weight",)
    parameter = np.repeat(np.arange(len(entries), dtype=np.int32), [e.size for e in entries])
    meanings = {
        "flag_values": np.arange(len(entries), dtype=np.int32),
        "flag_meanings": " ".join(_name(entry.name) for entry in entries),
    }
    variables: dict[str, Any] = {
        "assignment": (slots, _array(assignment.index)),
        "base_scale": (("weight",), _array(model.base_scale)),
        "parameter": (("weight",), parameter, meanings),
        "group_size": (("group",), _array(assignment.sizes())),
    }
    if assignment.responsibilities is not None:
        variables["responsibilities"] = (slots, _array(assignment.responsibilities))
    for name, value in fixed_group_parameters(model).items():
        if name not in draws:
            variables[name] = (("group",), _array(value))
    return _dataset(variables)


def _observations(prediction: Prediction, num_chains: int) -> xr.Dataset:
    values = prediction.sample()
    dims = ("chain", "draw", *_row_dims(values[0]))
    return _dataset({"obs": (dims, _chained(values, num_chains))})


def _log_likelihood(prediction: Prediction, y: Tensor, num_chains: int) -> xr.Dataset:
    each = prediction.distribution.log_prob(y)
    rows = each.flatten(2).sum(2) if each.dim() > 2 else each
    # ArviZ adds up exponentials over draws and rows: in single precision loo gets noisy.
    values = _chained(rows.double(), num_chains)
    return _dataset({"obs": (("chain", "draw", "row"), values)})


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
        dim = _name(f"{layer}.{kind}".lstrip("."))
        if taken.setdefault(dim, size) != size:
            dim = _name(f"{entry.name}.{kind}")
        dims.append(dim)
    return tuple(dims)


def _row_dims(value: Tensor) -> tuple[str, ...]:
    """Dimensions of observations: rows, then whatever an observation consists of."""
    behind = value.dim() - 1
    outputs = ("output",) if behind == 1 else tuple(f"output_{i}" for i in range(behind))
    return ("row", *outputs)


def _name(name: str) -> str:
    return name.replace("/", "_")


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()


def _chained(value: Tensor, num_chains: int) -> np.ndarray:
    return _array(value.unflatten(0, (num_chains, -1)))


def _dataset(variables: Mapping[str, Any]) -> xr.Dataset:
    """With a counting coordinate for every dimension, which ArviZ labels its rows by."""
    dataset = xr.Dataset(
        dict(variables),
        attrs={
            "inference_library": "pyro",
            "inference_library_version": pyro.__version__,
            "creation_library": "pyro_groupprior",
            "creation_library_version": version("pyro_groupprior"),
        },
    )
    return dataset.assign_coords({dim: np.arange(size) for dim, size in dataset.sizes.items()})
