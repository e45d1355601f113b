# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Ways to a posterior for a small regression net, all scored alike.

Each takes a split and hidden widths, and gives draws of the function at the new rows, shape
``[S, N]``, and of the noise, shape ``[S]``, both in units of the standardised target.
"""

import functools
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_value
from torch import Tensor

import pyro_groupprior as pgp
from benchmarks import peers
from benchmarks.datasets import Split
from benchmarks.nets import relu_net
from benchmarks.peers import Draws
from benchmarks.plain import linear_layers, plain_model
from pyro_groupprior.svi import UntilConverged

NUM_DRAWS, PYRO_STEPS, LR, MEMBERS, MAX_STEPS, PHASES = 1000, 4000, 0.01, 5, 30_000, 6


def bayesian(split: Split, hidden: tuple[int, ...], **prior: Any) -> pgp.BayesianModule:
    """Build the model; with no ``prior`` it is the judge's, a group for each layer."""
    net = relu_net(split.x.shape[1], hidden)
    prior = {"grouping": "layer", **prior}
    return pgp.BayesianModule(net, pgp.likelihoods.Normal(), num_data=len(split.y), **prior)


def from_samples(model: pgp.BayesianModule, samples: dict[str, Tensor], split: Split) -> Draws:
    """Run the net at the new rows for given posterior draws."""
    function = [model.call_net(weights, split.new_x)[:, 0] for weights in samples[model.site]]
    return torch.stack(function), samples["noise"].reshape(-1)


def plain_pyro(split: Split, hidden: tuple[int, ...], *, careful: bool) -> Draws:
    """Write the judge's model as most Pyro users would, a site per tensor, under AutoNormal.

    :param bool careful: Start from the net's own initial weights, with narrow posteriors, rather
        than where AutoNormal starts by itself.
    """
    net = relu_net(split.x.shape[1], hidden)
    model, layers = plain_model(net), linear_layers(net)
    options: dict[str, Any] = {}
    if careful:
        values = {f"w{n}": layer.weight.detach() for n, layer in enumerate(layers)}
        values |= {f"b{n}": layer.bias.detach() for n, layer in enumerate(layers)}
        options = {"init_loc_fn": init_to_value(values=values), "init_scale": 0.01}
    guide = AutoNormal(model, **options)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": LR}), Trace_ELBO())
    for _ in range(PYRO_STEPS):
        svi.step(split.x, split.y)
    sites = ("_RETURN", "noise")
    found = Predictive(model, guide=guide, num_samples=NUM_DRAWS, return_sites=sites)(split.new_x)
    return found["_RETURN"].reshape(NUM_DRAWS, -1).detach(), found["noise"].reshape(-1).detach()


def trained(
    split: Split,
    hidden: tuple[int, ...],
    *,
    guide: Callable[..., Any],
    draws: int = 1,
    regroup: pgp.Regroup | None = None,
    **prior: Any,
) -> pgp.PhasedSVI:
    """Train one of the package's guides by its own schedule until it has converged."""
    model = bayesian(split, hidden, **prior)
    svi = pgp.PhasedSVI(
        model,
        guide(model),
        loss=pgp.MeanFieldELBO(draws),
        regroup=regroup,
        convergence=UntilConverged(max_steps=MAX_STEPS),
    )
    svi.run([(split.x, split.y)], progress=False)
    return svi


def guided(split: Split, hidden: tuple[int, ...], **options: Any) -> Draws:
    """Draw from one of the package's guides; options as for :func:`trained`."""
    svi = trained(split, hidden, **options)
    with torch.no_grad():
        return from_samples(svi.model, svi.guide.draws(NUM_DRAWS), split)


def mixture(split: Split, hidden: tuple[int, ...], **options: Any) -> Draws:
    """Put several posteriors from different starts side by side."""
    parts = [guided(split, hidden, **options) for _ in range(MEMBERS)]
    function, noise = (torch.cat(values) for values in zip(*parts, strict=True))
    return function[::MEMBERS], noise[::MEMBERS]


def weights_regrouped(most: int = 8) -> pgp.Regroup:
    """Groups of weights, so many at most, found from the evidence, soft."""
    return pgp.Regroup(pgp.Cluster(pgp.DeconvolvedMixture(most)), phases=PHASES)


def units_regrouped() -> pgp.Regroup:
    """Groups of whole columns, a unit's outgoing weights, that share a scale around zero."""
    mixture = pgp.DeconvolvedMixture(8, zero_mean=True)
    return pgp.Regroup(pgp.Cluster(mixture, unit="column"), phases=PHASES)


def naively_regrouped() -> pgp.Regroup:
    """Groups of weights by k-means on the posterior means, hard."""
    return pgp.Regroup(pgp.Naive(4), phases=PHASES)


def hmc(split: Split, hidden: tuple[int, ...], **prior: Any) -> Draws:
    """Run eight chains of HMC side by side; with ``grouping="column"`` that is the default."""
    model = bayesian(split, hidden, **prior)
    return from_samples(model, sampled(model, split), split)


def sgmcmc(split: Split, hidden: tuple[int, ...]) -> Draws:
    """Run eight chains side by side on batches of 256 rows, as the package does for larger sets."""
    model = bayesian(split, hidden)
    seed = int(torch.randint(2**31, ()))
    result = pgp.mcmc.run_sgmcmc(model, split.x, split.y, seed=seed, progress=False)
    return from_samples(model, result.get_samples(), split)


def hmc_after(split: Split, hidden: tuple[int, ...], **options: Any) -> Draws:
    """Run HMC from draws of a guide, under the groups that were found while training it."""
    svi = trained(split, hidden, **options)
    return from_samples(svi.model, sampled(svi.model, split, svi.guide), split)


def sampled(model: Any, split: Split, start: Any = None) -> dict[str, Tensor]:
    """Run HMC from scratch, or from draws of a guide."""
    options: dict[str, Any] = {} if start is None else {"start": start, "ascent_steps": 0}
    seed = int(torch.randint(2**31, ()))
    result = pgp.mcmc.run_hmc(model, split.x, split.y, progress=False, seed=seed, **options)
    return result.get_samples()


LOCAL = functools.partial(pgp.AutoMeanField, local_reparam=True)

#: By name; the first is what the distance to NUTS is measured from.
CANDIDATES: dict[str, Callable[[Split, tuple[int, ...]], Draws]] = {
    "pyro": functools.partial(plain_pyro, careful=True),
    "pyro_default_start": functools.partial(plain_pyro, careful=False),
    "mean_field_no_local": functools.partial(guided, guide=pgp.AutoMeanField),
    "mean_field": functools.partial(guided, guide=LOCAL),
    "mean_field_4_draws": functools.partial(guided, guide=LOCAL, draws=4),
    "mean_field_fixed": functools.partial(guided, guide=LOCAL, loc=0.0, scale=1.0),
    "mean_field_row": functools.partial(guided, guide=LOCAL, grouping="row"),
    "mean_field_column": functools.partial(guided, guide=LOCAL, grouping="column"),
    "mean_field_weights": lambda *on: guided(*on, guide=LOCAL, regroup=weights_regrouped()),
    "mean_field_units": lambda *on: guided(*on, guide=LOCAL, regroup=units_regrouped()),
    "mean_field_naive": lambda *on: guided(*on, guide=LOCAL, regroup=naively_regrouped()),
    "low_rank": functools.partial(guided, guide=pgp.AutoLowRank),
    "full_rank": functools.partial(guided, guide=pgp.AutoFullRank),
    "mixture_column": functools.partial(mixture, guide=LOCAL, grouping="column"),
    "hmc": hmc,
    "hmc_fixed": functools.partial(hmc, loc=0.0, scale=1.0),
    "hmc_column": functools.partial(hmc, grouping="column"),
    "hmc_from_guide": functools.partial(hmc_after, guide=LOCAL),
    "hmc_weights": lambda *on: hmc_after(*on, guide=LOCAL, regroup=weights_regrouped()),
    "hmc_units": lambda *on: hmc_after(*on, guide=LOCAL, regroup=units_regrouped()),
    "sgmcmc": sgmcmc,
    "row_covariance": peers.row_covariance,
    "moments": peers.moments,
    "ivon": peers.ivon,
    "posteriors": peers.posteriors_baoa,
    "bayesian_torch": peers.bayes_torch,
    "laplace_kron": peers.laplace,
    "laplace_full": functools.partial(peers.laplace, hessian="full"),
    "ensemble": peers.ensemble,
    "dropout": peers.dropout,
}
