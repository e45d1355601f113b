# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Ways to a posterior by other people's packages and published methods, all scored alike.

Each takes a split and hidden widths, as those of ``benchmarks/candidates.py`` do. For regression
it gives draws of the function at the new rows, shape ``[S, N]``, and of the noise, shape ``[S]``,
both in units of the standardised target; for classification logits, shape ``[S, N, C]``, and None.
"""

import copy
import dataclasses
import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from bayesian_torch.models.dnn_to_bnn import dnn_to_bnn
from ivon import IVON
from laplace import Laplace
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR

from benchmarks.datasets import Split
from benchmarks.moments import MomentNet
from benchmarks.nets import BAYESIAN_TORCH, relu_net
from benchmarks.rows import RowNet
from tutorials.demo_fit import batches

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # of tensordict, at the package's classes
    from posteriors.sgmcmc import baoa

Draws = tuple[Tensor, Tensor | None]
Loss = Callable[[Tensor, Tensor], Tensor]
NUM_DRAWS, STEPS, LR, MEMBERS = 1000, 4000, 0.01, 5
BATCH, WHOLE = 256, 4000  # rows in a batch, and so many at most are one batch
WEIGHT_DECAY, LEFT_OUT, CHECK = 1e-4, 0.1, 20  # of point fits; a share of rows, and steps
MOST_TO_CHOOSE = 500  # rows by which Laplace's prior is chosen for classes


def _net(split: Split, hidden: tuple[int, ...]) -> nn.Sequential:
    return relu_net(split.x.shape[1], hidden, split.num_classes or 1)


def _log_noise() -> nn.Parameter:
    return nn.Parameter(torch.tensor(-1.0))


def _nll(output: Tensor, y: Tensor, log_noise: Tensor) -> Tensor:
    """Find the mean negative log-likelihood; classes have no noise."""
    if not y.is_floating_point():
        return F.cross_entropy(output, y)
    return -Normal(output, log_noise.exp(), validate_args=False).log_prob(y).mean()


def _steps(split: Split, num_steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    loader = batches(split.x, split.y, BATCH if len(split.y) > WHOLE else None)
    return itertools.islice(itertools.chain.from_iterable(itertools.repeat(loader)), num_steps)


def _train(
    split: Split, loss: Loss, parameters: Iterable[Any], num_steps: int = STEPS
) -> Iterator[int]:
    """Minimise a loss of ``(x, y)``, a step whenever asked for the next number."""
    optimizer = torch.optim.Adam(parameters, lr=LR)
    schedule = CosineAnnealingLR(optimizer, T_max=num_steps, eta_min=LR / 100)
    for number, (x, y) in enumerate(_steps(split, num_steps)):
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()
        schedule.step()
        yield number


def _left_out(split: Split) -> tuple[Tensor, Tensor]:
    """Choose rows to leave out, a tenth; and all others."""
    left_out, rows = torch.randperm(len(split.y)).tensor_split([round(LEFT_OUT * len(split.y))])
    return left_out, rows


def _point(
    split: Split,
    net: nn.Module,
    num_steps: int = STEPS,
    parts: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Fit one net by maximum likelihood with weight decay; return the log of its noise.

    That step is kept after which a tenth of the rows, left out, is predicted best: in the end the
    other rows are interpolated, and the noise is next to nothing.
    """
    log_noise = _log_noise()
    left_out, rows = _left_out(split) if parts is None else parts
    train = dataclasses.replace(split, x=split.x[rows], y=split.y[rows])
    groups = [{"params": net.parameters(), "weight_decay": WEIGHT_DECAY}, {"params": [log_noise]}]
    best, kept = math.inf, (net.state_dict(), log_noise)
    for number in _train(train, lambda x, y: _nll(net(x), y, log_noise), groups, num_steps):
        if number % CHECK == 0:
            net.eval()
            with torch.no_grad():
                nll = _nll(net(split.x[left_out]), split.y[left_out], log_noise).item()
            net.train()
            if nll < best:
                best, kept = nll, copy.deepcopy((net.state_dict(), log_noise))
    net.load_state_dict(kept[0])
    return kept[1].detach()


def _pair(outputs: Tensor, log_noise: Tensor, split: Split) -> Draws:
    """Shape outputs ``[S, N, C]``, and one noise or ``S``, as they are scored."""
    if split.num_classes:
        return outputs, None
    return outputs[..., 0], log_noise.detach().exp().expand(len(outputs))


@torch.no_grad()
def _run(net: nn.Module, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Run the net with draws of its weights."""
    call = torch.vmap(functools.partial(functional_call, net), in_dims=(0, None), chunk_size=50)
    return call(weights, (x,))


@torch.no_grad()
def _repeat(net: nn.Module, x: Tensor) -> Tensor:
    """Run a net that draws anew at every call."""
    return torch.stack([net(x) for _ in range(NUM_DRAWS)])


def ensemble(split: Split, hidden: tuple[int, ...]) -> Draws:
    """Train a deep ensemble of 5 with a noise of its own each (Lakshminarayanan et al. 2017)."""
    nets = [_net(split, hidden) for _ in range(MEMBERS)]
    log_noise = torch.stack([_point(split, net) for net in nets])
    with torch.no_grad():
        return _pair(torch.stack([net(split.new_x) for net in nets]), log_noise, split)


def dropout(split: Split, hidden: tuple[int, ...], *, rate: float = 0.05) -> Draws:
    """Train and predict with MC dropout before every layer but the first (Gal 2016)."""
    layers: list[nn.Module] = []
    for layer in _net(split, hidden):
        layers += [layer, nn.Dropout(rate)] if isinstance(layer, nn.ReLU) else [layer]
    net = nn.Sequential(*layers)
    log_noise = _point(split, net)
    return _pair(_repeat(net, split.new_x), log_noise, split)


def laplace(split: Split, hidden: tuple[int, ...], *, hessian: str = "kron") -> Draws:
    """Linearise round a trained net, by laplace-torch (Daxberger et al. 2021).

    Its draws are right row by row, not jointly.

    :param str hessian: ``"kron"`` or ``"full"``.
    """
    fitted = _laplace(split, hidden, hessian)
    # The Jacobians of all rows at once could fill the memory.
    chunks = split.new_x.to(_precision(split)).split(64)
    outputs = [fitted.functional_samples(x, n_samples=NUM_DRAWS).float() for x in chunks]
    return _pair(torch.cat(outputs, 1), fitted.sigma_noise.log().float(), split)


def _precision(split: Split) -> torch.dtype:
    """Take double precision where there is evidence, for its determinants."""
    return torch.float32 if split.num_classes else torch.float64


def _laplace(split: Split, hidden: tuple[int, ...], hessian: str) -> Any:
    """Fit round a trained net.

    As the package's examples do: for regression the evidence chooses the prior of each tensor and
    the noise; for classes, of which the evidence would make predictions far too cautious, the rows
    that were left out choose one prior for all, from a grid.
    """
    net, parts = _net(split, hidden), _left_out(split)
    _point(split, net, parts=parts)
    if split.num_classes:
        return _laplace_of_classes(split, net, hessian, *parts)
    y = split.y.double()
    log_precision = torch.zeros(len([*net.parameters()]), dtype=y.dtype, requires_grad=True)
    log_noise = torch.zeros(1, dtype=y.dtype, requires_grad=True)
    fitted = Laplace(net.double(), "regression", "all", hessian)
    fitted.fit(batches(split.x.double(), y, BATCH if len(y) > WHOLE else len(y)))
    optimizer = torch.optim.Adam([log_precision, log_noise], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        (-fitted.log_marginal_likelihood(log_precision.exp(), log_noise.exp())).backward()
        optimizer.step()
    fitted.prior_precision = log_precision.detach().exp()
    fitted.sigma_noise = log_noise.detach().exp()
    return fitted


def _laplace_of_classes(
    split: Split, net: nn.Module, hessian: str, left_out: Tensor, rows: Tensor
) -> Any:
    fitted = Laplace(net, "classification", "all", hessian)
    fitted.fit(batches(split.x[rows], split.y[rows], BATCH))
    some = left_out[:MOST_TO_CHOOSE]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # to link as predictions will, as it does
        fitted.optimize_prior_precision(
            method="gridsearch", pred_type="glm", link_approx="mc", grid_size=9,
            log_prior_prec_min=-1, log_prior_prec_max=3,
            val_loader=batches(split.x[some], split.y[some], 64),
        )  # fmt: skip
    return fitted


def bayes_torch(split: Split, hidden: tuple[int, ...]) -> Draws:
    """Train mean-field layers by bayesian-torch with the settings of its README."""
    net, log_noise = _net(split, hidden), _log_noise()
    dnn_to_bnn(net, dict(BAYESIAN_TORCH))
    named = dict(net.named_parameters())
    pairs = [
        (mu, named[name.replace("mu_", "rho_")]) for name, mu in named.items() if "mu_" in name
    ]

    def loss(x: Tensor, y: Tensor) -> Tensor:
        # The package's own KL takes means over tensors, where the ELBO has sums.
        kls = [kl_divergence(Normal(m, F.softplus(r)), Normal(0.0, 1.0)).sum() for m, r in pairs]
        return _nll(net(x), y, log_noise) + torch.stack(kls).sum() / len(split.y)

    for _ in _train(split, loss, [*named.values(), log_noise]):
        pass
    return _pair(_repeat(net, split.new_x), log_noise, split)


def ivon(split: Split, hidden: tuple[int, ...]) -> Draws:
    """Train a mean-field posterior by IVON (Shen et al. 2024) under the prior N(0, 1 / fan-in)."""
    net, log_noise = _net(split, hidden), _log_noise()
    groups = [
        {"params": layer.parameters(), "weight_decay": layer.in_features / len(split.y)}
        for layer in net
        if isinstance(layer, nn.Linear)
    ]
    weights = IVON(groups, lr=0.1, ess=len(split.y))
    noise = torch.optim.Adam([log_noise], lr=LR)
    schedules = [CosineAnnealingLR(optimizer, T_max=STEPS) for optimizer in (weights, noise)]
    for x, y in _steps(split, STEPS):
        weights.zero_grad()
        noise.zero_grad()
        with weights.sampled_params(train=True):
            _nll(net(x), y, log_noise).backward()
        weights.step()
        noise.step()
        for schedule in schedules:
            schedule.step()
    outputs = []
    for _ in range(NUM_DRAWS // 5):
        with torch.no_grad(), weights.sampled_params():
            outputs.append(net(split.new_x))
    return _pair(torch.stack(outputs), log_noise, split)


def posteriors_baoa(
    split: Split,
    hidden: tuple[int, ...],
    *,
    lr: float = 0.02,
    alpha: float = 0.2,
    num_steps: int = 10_000,
) -> Draws:
    """Run four Langevin chains by posteriors under the prior N(0, 1 / fan-in).

    They start from trained nets, and their first halves are left out. The integrator is BAOA
    (Leimkuhler and Matthews 2015).

    :param float lr: Step size.
    :param float alpha: Friction.
    """
    nets = [_net(split, hidden) for _ in range(4)]
    log_noise = torch.stack([_point(split, net, STEPS // 4) for net in nets])
    weights = {name: value.detach() for name, value in stack_module_state(nets)[0].items()}
    priors = {"log_noise": Normal(-1.0, 1.0, validate_args=False)}
    for name, module in nets[0].named_modules():
        if isinstance(module, nn.Linear):
            prior = Normal(0.0, module.in_features**-0.5, validate_args=False)
            priors |= {f"{name}.weight": prior, f"{name}.bias": prior}

    def log_posterior(state: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        log_prior = torch.stack([priors[k].log_prob(v).sum() for k, v in state.items()]).sum()
        output = functional_call(nets[0], {k: state[k] for k in weights}, (x,))
        return log_prior / len(split.y) - _nll(output, y, state["log_noise"])

    def all_chains(states: dict[str, Tensor], batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        each = torch.vmap(log_posterior, in_dims=(0, None, None))(states, *batch)
        return each.sum(), each

    # Log-posterior and temperature are those of one row; momenta of N(0, 1), the package's
    # default, would be far too hot.
    chains = baoa.build(all_chains, lr, alpha, temperature=1 / len(split.y), momenta=0.0)
    state, draws = chains.init(weights | {"log_noise": log_noise}), []
    for number, batch in enumerate(_steps(split, num_steps)):
        state, _ = chains.update(state, batch)
        if number >= num_steps // 2 and number % (2 * num_steps // NUM_DRAWS) == 0:
            draws.append(state.params)
    kept = {name: torch.cat([draw[name] for draw in draws]) for name in priors}
    log_noise = kept.pop("log_noise")
    return _pair(_run(nets[0], kept, split.new_x), log_noise, split)


def moments(split: Split, hidden: tuple[int, ...]) -> Draws:
    """Train by moment propagation (``benchmarks/moments.py``), the KL warmed up over a third.

    :raises ValueError: For classification.
    """
    net = _net(split, hidden)
    posterior = MomentNet(net)

    def squares(x: Tensor, y: Tensor) -> Tensor:
        mean, variance = posterior(x)
        return ((y - mean).square() + variance).mean()

    log_noise = _train_variational(split, posterior, squares)
    with torch.no_grad():
        return _pair(_run(net, posterior.draws(NUM_DRAWS), split.new_x), log_noise, split)


def row_covariance(split: Split, hidden: tuple[int, ...]) -> Draws:
    """Train with a covariance for each unit's incoming weights (``benchmarks/rows.py``).

    :raises ValueError: For classification.
    """
    posterior = RowNet(_net(split, hidden))

    def squares(x: Tensor, y: Tensor) -> Tensor:
        return (y - posterior(x)).square().mean()

    log_noise = _train_variational(split, posterior, squares)
    with torch.no_grad():
        noise = log_noise.exp().expand(NUM_DRAWS)
        return posterior.run(split.new_x, NUM_DRAWS), noise


def _train_variational(split: Split, posterior: MomentNet | RowNet, squares: Loss) -> Tensor:
    """Maximise the ELBO given the mean expected squared error, and find the noise's logarithm."""
    if split.num_classes:
        raise ValueError("expected regression, got classes")
    log_noise = _log_noise()
    warmup = itertools.chain(torch.linspace(0, 1, STEPS // 3), itertools.repeat(1.0))

    def loss(x: Tensor, y: Tensor) -> Tensor:
        nll = log_noise + 0.5 * squares(x, y) * torch.exp(-2 * log_noise)  # but for a constant
        return nll + next(warmup) * posterior.kl() / len(split.y)

    for _ in _train(split, loss, [*posterior.parameters(), log_noise]):
        pass
    return log_noise.detach()
