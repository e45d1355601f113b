# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A few numbers that predict as many draws do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from .batch import check_batch, count_rows, device_of, move_batch, take_rows
from .guides import SiteGuide
from .likelihoods import Categorical
from .mcmc.frame import check_counts, undisturbed
from .nn import BayesianModule, evaluation_mode, map_draws
from .packed import packed_weights
from .predictive import Prediction, likelihood_latents


def distill(
    guide: SiteGuide,
    prediction: Prediction,
    inputs: Any,
    *,
    num_steps: int = 2000,
    num_particles: int = 16,
    batch_size: int = 256,
    lr: float = 0.05,
    seed: int = 0,
    progress: bool = True,
) -> Tensor:
    """
    Train a guide to predict as given draws do, such as those of HMC. A normal distribution with the
    moments of a net's draws (:meth:`~pyro_groupprior.guides.SiteGuide.fit_draws`) knows where each
    weight is, but little of how weights go together, and so predicts with far more noise than the
    draws; from there a short training brings it near them. Minimised is the mean, over inputs, of
    ``KL(prediction of the draws || prediction of the guide)``; no labels are used (Balan, Rathod,
    Murphy and Welling 2015, "Bayesian dark knowledge", with a posterior as the student).

    Example, where the best normal distribution is known: that with the draws' moments::

        >>> from pyro_groupprior import distill
        >>> model = BayesianModule(nn.Linear(1, 1, bias=False), likelihoods.Normal(noise=1.0))
        >>> x, weights = torch.ones(50, 1), torch.tensor([[1.0], [3.0]])
        >>> guide = AutoMeanField(model)
        >>> guide.setup(x, x)
        >>> prediction = predict(model, {"weights": weights}, x)
        >>> losses = distill(guide, prediction, x, num_steps=800, lr=0.1, progress=False)
        >>> mean, sd = guide.moments("weights")
        >>> abs(mean.item() - 2.0) < 0.2, abs(sd.item() - 1.0) < 0.2
        (True, True)

    :param SiteGuide guide: of this package, set up, for the net's weights; best with the moments of
        aligned draws. The sites that predictions do not need, such as groups' parameters, stay.
    :param Prediction prediction: of the draws, at the inputs.
    :param inputs: ``N`` rows, such as those trained on; labels are not needed.
    :param int num_steps: how many steps, at a learning rate that falls to 0.
    :param int num_particles: draws of the guide in each.
    :param int batch_size: rows in each.
    :param float lr: first learning rate, in standard deviations of the weights.
    :param int seed: the same seed gives the same result.
    :param bool progress: show a progress bar.
    :return: the losses, in nats a row, ``[num_steps]``: cross-entropies, which need not go to 0.
    :raises TypeError: if the guide is none of this package's, or of a model that is no net, or the
        prediction is none.
    :raises RuntimeError: if it is not set up.
    :raises ValueError: if a number is out of range, inputs are not finite, or have other rows than
        the prediction, or that is of another likelihood or has outputs of another shape.
    :raises FloatingPointError: if the loss becomes NaN or infinite; the guide is then as before.
    """
    if not isinstance(guide, SiteGuide):
        raise TypeError(f"guide: expected one of this package, got {type(guide).__name__}")
    model = guide.model
    if not isinstance(model, BayesianModule) or model.likelihood is None:
        raise TypeError("guide: expected one of a BayesianModule with a likelihood")
    if not guide.is_set_up:
        raise RuntimeError("guide: expected one that is set up, as by fit_draws")
    check_counts(1, num_steps=num_steps, num_particles=num_particles, batch_size=batch_size)
    if not lr > 0:
        raise ValueError(f"lr: expected a positive number, got {lr}")
    check_batch(inputs, "inputs")
    inputs = move_batch(inputs, device_of(model))
    number = count_rows(inputs, "inputs")
    _check_prediction(prediction, model, inputs)
    if prediction.outputs.shape[1] != number:
        raise ValueError(
            f"inputs: expected the {prediction.outputs.shape[1]} rows of the prediction, got "
            f"{number}"
        )
    losses = torch.zeros(num_steps)
    parameters = _Standardized(guide)
    with undisturbed(model, seed), parameters.kept_on_success():
        target = prediction.mean if prediction.is_categorical else prediction.sample()
        target = target.to(device_of(model))
        optimizer = torch.optim.Adam(parameters.moves, lr=lr)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, num_steps)
        for step in tqdm(range(num_steps), disable=not progress, unit="step"):
            rows = torch.randperm(number)[:batch_size]
            with torch.enable_grad():
                draws = {s.name: guide.factor(s, (num_particles,)).rsample() for s in guide.sites}
                loss = _cross_entropy(model, draws, take_rows(inputs, rows), target, rows)
                gradients = torch.autograd.grad(loss, parameters.parameters, allow_unused=True)
            if not bool(loss.isfinite()):
                raise FloatingPointError(f"loss: expected a finite number, got {float(loss)}")
            losses[step] = loss.detach()
            parameters.step(optimizer, gradients)
            schedule.step()
        if not all(bool(parameter.isfinite().all()) for parameter in parameters.parameters):
            raise FloatingPointError("loss: its gradient became NaN or infinite in the last step")
    return losses


def _check_prediction(prediction: Any, model: BayesianModule, inputs: Any) -> None:
    """Refuse what is no prediction, or one of another kind of model."""
    if not isinstance(prediction, Prediction):
        raise TypeError(
            f"prediction: expected what predict returns, got {type(prediction).__name__}"
        )
    theirs, own = type(prediction.model.likelihood), type(model.likelihood)
    if theirs is not own:
        raise ValueError(
            f"prediction: expected one of a {own.__name__} likelihood, got {theirs.__name__}"
        )
    with evaluation_mode(model), torch.no_grad():
        output = model.call_net(model.initial_weights(), take_rows(inputs, torch.arange(1)))
    if prediction.outputs.shape[2:] != output.shape[1:]:
        raise ValueError(
            f"prediction: expected outputs of shape {tuple(output.shape[1:])} for a row, got "
            f"{tuple(prediction.outputs.shape[2:])}"
        )


def _cross_entropy(
    model: BayesianModule, draws: dict[str, Tensor], inputs: Any, target: Tensor, rows: Tensor
) -> Tensor:
    """
    In nats a row, of a mixture over draws.

    :param Tensor target: probabilities of labels, ``[N, ..., K]``; or observations that the other
        posterior expects, one for each of its draws and each row, ``[S, N, ...]``.
    """
    assert model.likelihood is not None
    weights = packed_weights(model, draws)
    outputs = map_draws(lambda one: model.call_net(one, inputs), weights)
    distribution = model.likelihood.distribution(outputs, likelihood_latents(model, draws, outputs))
    if isinstance(model.likelihood, Categorical):
        log_probs = distribution.logits.log_softmax(-1).logsumexp(0) - math.log(len(outputs))
        probs = target[rows.to(target.device)]
        return -(probs * log_probs).sum(-1).mean()
    which = torch.randint(len(target), rows.shape)
    observed = target[which.to(target.device), rows.to(target.device)]
    each = distribution.log_prob(observed)
    each = each.flatten(2).sum(2) if each.dim() > 2 else each
    return math.log(len(outputs)) - each.logsumexp(0).mean()


class _Standardized:
    """
    A guide's parameters as starts and moves in units of what matters to the posterior: so that one
    learning rate suits nets of all sizes.
    """

    def __init__(self, guide: SiteGuide) -> None:
        units: dict[int, Tensor] = {}
        for site in guide.sites:
            sd = F.softplus(guide.unconstrained_scales[site.key]).detach()
            units[id(guide.locs[site.key])] = sd
            # By one unit the standard deviation changes by itself.
            slope = guide.unconstrained_scales[site.key].detach().sigmoid()
            units[id(guide.unconstrained_scales[site.key])] = sd / slope
        self.parameters = list(guide.parameters())
        self.starts = [parameter.detach().clone() for parameter in self.parameters]
        for parameter in self.parameters:
            if id(parameter) not in units:  # correlations: so many of them make up one weight
                units[id(parameter)] = parameter.new_tensor(parameter.shape[-1] ** -0.5)
        self.units = [units[id(parameter)] for parameter in self.parameters]
        self.moves = [torch.zeros_like(start) for start in self.starts]

    @contextmanager
    def kept_on_success(self) -> Iterator[None]:
        """Afterwards the parameters are where they have moved to; after a failure as before."""
        try:
            yield
        except BaseException:
            with torch.no_grad():
                for parameter, start in zip(self.parameters, self.starts, strict=True):
                    parameter.copy_(start)
            raise

    def step(self, optimizer: torch.optim.Optimizer, gradients: Sequence[Tensor | None]) -> None:
        """Move by the gradients of the parameters; those that have none stay."""
        for move, unit, gradient in zip(self.moves, self.units, gradients, strict=True):
            move.grad = None if gradient is None else unit * gradient
        optimizer.step()
        for n, parameter in enumerate(self.parameters):
            if gradients[n] is not None:
                parameter.copy_(self.starts[n] + self.units[n] * self.moves[n])
