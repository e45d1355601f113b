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
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_value
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, CosineAnnealingWarmRestarts

import pyro_groupprior as pgp
from benchmarks.datasets import Split

Draws = tuple[Tensor, Tensor]
NUM_DRAWS, STEPS, LR, MEMBERS = 1000, 8000, 0.01, 5


def relu_net(num_inputs: int, hidden: tuple[int, ...], num_outputs: int = 1) -> nn.Sequential:
    """Build a net of linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(num_inputs, width), nn.ReLU()]
        num_inputs = width
    return nn.Sequential(*layers, nn.Linear(num_inputs, num_outputs))


def bayesian(split: Split, hidden: tuple[int, ...], **prior: Any) -> pgp.BayesianModule:
    """Build the model; with no ``prior`` it is the judge's, a group for each layer."""
    net = relu_net(split.x.shape[1], hidden)
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
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]

    def model(x: Tensor, y: Tensor | None = None) -> Tensor:
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 1.0))
        for number, layer in enumerate(layers):
            loc = pyro.sample(f"loc{number}", dist.Normal(0.0, 1.0))
            scale = pyro.sample(f"scale{number}", dist.LogNormal(0.0, 1.0))
            base = layer.in_features**-0.5
            prior = dist.Normal(base * loc, base * scale)
            weight = pyro.sample(f"w{number}", prior.expand(layer.weight.shape).to_event(2))
            bias = pyro.sample(f"b{number}", prior.expand(layer.bias.shape).to_event(1))
            x = x @ weight.T + bias
            x = x.relu() if number + 1 < len(layers) else x
        with pyro.plate("rows", len(x)):
            pyro.sample("obs", dist.Normal(x[:, 0], noise), obs=y)
        return pyro.deterministic("function", x[:, 0])

    options: dict[str, Any] = {}
    if careful:
        values = {f"w{n}": layer.weight.detach() for n, layer in enumerate(layers)}
        values |= {f"b{n}": layer.bias.detach() for n, layer in enumerate(layers)}
        options = {"init_loc_fn": init_to_value(values=values), "init_scale": 0.01}
    guide = AutoNormal(model, **options)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": LR}), Trace_ELBO())
    for _ in range(STEPS // 2):
        svi.step(split.x, split.y[:, 0])
    sites = ("function", "noise")
    found = Predictive(model, guide=guide, num_samples=NUM_DRAWS, return_sites=sites)(split.new_x)
    return found["function"].reshape(NUM_DRAWS, -1).detach(), found["noise"].reshape(-1).detach()


def guided(
    split: Split,
    hidden: tuple[int, ...],
    *,
    guide: Callable[..., Any],
    steps: int = STEPS,
    draws: int = 1,
    regroup: pgp.Regroup | None = None,
    **prior: Any,
) -> Draws:
    """Train one of the package's guides."""
    model = bayesian(split, hidden, **prior)
    schedule: Any = functools.partial(CosineAnnealingLR, T_max=steps, eta_min=LR / 100)
    if regroup is not None:
        schedule = functools.partial(
            CosineAnnealingWarmRestarts, T_0=regroup.epochs, eta_min=LR / 100
        )
    svi = pgp.PhasedSVI(
        model,
        guide(model),
        functools.partial(torch.optim.Adam, lr=LR),
        loss=pgp.MeanFieldELBO(draws),
        regroup=regroup,
        scheduler=schedule,
    )
    svi.run([(split.x, split.y)], steps, progress=False)
    with torch.no_grad():
        return from_samples(model, svi.guide.draws(NUM_DRAWS), split)


def mixture(split: Split, hidden: tuple[int, ...], **options: Any) -> Draws:
    """Put several posteriors from different starts side by side."""
    parts = [guided(split, hidden, **options) for _ in range(MEMBERS)]
    function, noise = (torch.cat(values) for values in zip(*parts, strict=True))
    return function[::MEMBERS], noise[::MEMBERS]


def regrouped(split: Split, hidden: tuple[int, ...], *, strategy: Any, **options: Any) -> Draws:
    """Train a guide under groups that are drawn anew eight times."""
    phase = STEPS // 10
    schedule = pgp.Regroup(strategy(), epochs=phase, start=2 * phase, stop=STEPS - phase)
    return guided(split, hidden, regroup=schedule, **options)


def hmc(split: Split, hidden: tuple[int, ...], *, moves: int = 150, **prior: Any) -> Draws:
    """Run eight chains of HMC side by side."""
    model = bayesian(split, hidden, **prior)
    result = pgp.mcmc.run_hmc(
        model,
        split.x,
        split.y,
        num_samples=moves,
        warmup_steps=moves,
        num_steps=40,
        progress=False,
        seed=int(torch.randint(2**31, ())),
    )
    return from_samples(model, result.get_samples(), split)


def ensemble(split: Split, hidden: tuple[int, ...]) -> Draws:
    """Train a deep ensemble of 5 with a noise of its own each (Lakshminarayanan et al. 2017)."""
    parts = [_point(split, relu_net(split.x.shape[1], hidden)) for _ in range(MEMBERS)]
    with torch.no_grad():
        function = torch.stack([net(split.new_x)[:, 0] for net, _ in parts])
    return function, torch.stack([noise for _, noise in parts])


def dropout(split: Split, hidden: tuple[int, ...], *, rate: float = 0.05) -> Draws:
    """Train and predict with MC dropout before every layer but the first (Gal 2016)."""
    layers: list[nn.Module] = []
    for layer in relu_net(split.x.shape[1], hidden):
        layers += [layer, nn.Dropout(rate)] if isinstance(layer, nn.ReLU) else [layer]
    net, noise = _point(split, nn.Sequential(*layers))
    with torch.no_grad():
        function = torch.stack([net(split.new_x)[:, 0] for _ in range(NUM_DRAWS)])
    return function, noise.expand(NUM_DRAWS)


def _point(split: Split, net: nn.Module) -> tuple[nn.Module, Tensor]:
    """Fit one net and its noise by maximum likelihood with weight decay."""
    log_noise = nn.Parameter(torch.tensor(-1.0))
    parameters = [{"params": net.parameters(), "weight_decay": 1e-4}, {"params": [log_noise]}]
    optimizer = torch.optim.Adam(parameters, lr=LR)
    schedule = CosineAnnealingLR(optimizer, T_max=STEPS // 2, eta_min=LR / 100)
    for _ in range(STEPS // 2):
        optimizer.zero_grad()
        normal = dist.Normal(net(split.x), log_noise.exp(), validate_args=False)
        (-normal.log_prob(split.y).mean()).backward()
        optimizer.step()
        schedule.step()
    return net, log_noise.detach().exp()


_LOCAL = functools.partial(pgp.AutoMeanField, local_reparam=True)

#: By name; the first is what the distance to NUTS is measured from.
CANDIDATES: dict[str, Callable[[Split, tuple[int, ...]], Draws]] = {
    "pyro": functools.partial(plain_pyro, careful=True),
    "pyro_default_start": functools.partial(plain_pyro, careful=False),
    "mean_field_no_local": functools.partial(guided, guide=pgp.AutoMeanField),
    "mean_field": functools.partial(guided, guide=_LOCAL),
    "mean_field_4_draws": functools.partial(guided, guide=_LOCAL, draws=4),
    "mean_field_fixed": functools.partial(guided, guide=_LOCAL, loc=0.0, scale=1.0),
    "mean_field_row": functools.partial(guided, guide=_LOCAL, grouping="row"),
    "mean_field_column": functools.partial(guided, guide=_LOCAL, grouping="column"),
    "mean_field_regrouped": functools.partial(
        regrouped, guide=_LOCAL, strategy=functools.partial(pgp.DeconvolvedMixture, 8)
    ),
    "mean_field_naive": functools.partial(
        regrouped, guide=_LOCAL, strategy=functools.partial(pgp.Naive, 4)
    ),
    "low_rank": functools.partial(guided, guide=pgp.AutoLowRank),
    "full_rank": functools.partial(guided, guide=pgp.AutoFullRank),
    "mixture": functools.partial(mixture, guide=_LOCAL),
    "mixture_column": functools.partial(mixture, guide=_LOCAL, grouping="column"),
    "hmc": hmc,
    "hmc_column": functools.partial(hmc, grouping="column"),
    "ensemble": ensemble,
    "dropout": dropout,
}
