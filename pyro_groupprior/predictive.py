# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Predictions of a net over many posterior draws at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.distributions import TorchDistribution
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from .batch import check_batch, device_of, move_batch
from .guides import posterior_draws
from .likelihoods import Categorical, beside
from .memory import chunk_sizes, in_chunks
from .nn import BayesianModule, evaluation_mode, map_draws
from .packed import packed_weights, weight_site_names, weight_sites

# torch.quantile refuses more elements than that: one row after the other then.
MOST_AT_ONCE = 2**24
# A draw in the making, of a low-rank guide or a non-centered model, takes as much memory as this
# many vectors of all weights; one that is given and only looked at takes one.
COPIES = 4


@dataclass(frozen=True)
class Prediction:
    """
    The posterior predictive distribution of ``N`` rows, as an equal mixture over ``S`` draws.

    :param Tensor outputs: the net's outputs, shape ``[S, N, *rest]``.
    :param distribution: the likelihood of each draw, batch shape ``[S, N, ...]``.
    :param BayesianModule model: what made it.
    """

    outputs: Tensor
    distribution: TorchDistribution
    model: BayesianModule

    @property
    def is_categorical(self) -> bool:
        """Whether the observations are class labels."""
        return isinstance(self.model.likelihood, Categorical)

    @property
    def mean(self) -> Tensor:
        """Predictive mean, shape ``[N, ...]``; for class labels the probabilities ``[N, K]``."""
        return self._means.mean(0)

    @property
    def epistemic(self) -> Tensor:
        """
        What more data could settle: the variance of the mean over draws, shape ``[N, ...]``; for
        class labels the mutual information of label and weights in nats, shape ``[N]``.
        """
        if self.is_categorical:
            return _entropy(self.mean) - self.aleatoric
        return self._means.var(0, correction=0)

    @property
    def aleatoric(self) -> Tensor:
        """
        The noise of the observations themselves: the mean of the draws' variances, shape
        ``[N, ...]``; for class labels their mean entropy in nats, shape ``[N]``.
        """
        if self.is_categorical:
            return _entropy(self._means).mean(0)
        return self.distribution.variance.mean(0)

    @property
    def sd(self) -> Tensor:
        """
        Predictive standard deviation, shape ``[N, ...]``.

        :raises TypeError: for class labels, which have none.
        """
        if self.is_categorical:
            raise TypeError("sd: class labels have no standard deviation")
        return (self.epistemic + self.aleatoric).sqrt()

    @property
    def _means(self) -> Tensor:
        if self.is_categorical:
            return self.distribution.probs
        return self.distribution.mean

    def sample(self) -> Tensor:
        """One observation of every row from every draw, shape ``[S, N, ...]``."""
        with torch.no_grad():
            return self.distribution.sample()

    def quantiles(self, levels: list[float] | Tensor, num_samples: int = 10) -> Tensor:
        """
        Predictive quantiles, by ``num_samples`` observations from each draw.

        :param levels: between 0 and 1, ``Q`` of them.
        :return: shape ``[Q, N, ...]``.
        :raises TypeError: for class labels.
        """
        if self.is_categorical:
            raise TypeError("quantiles: class labels have none")
        with torch.no_grad():
            values = self.distribution.sample((num_samples,)).flatten(0, 1)
        levels = torch.as_tensor(levels, dtype=values.dtype, device=values.device)
        if values.numel() <= MOST_AT_ONCE:
            return torch.quantile(values, levels, dim=0)
        rows = [torch.quantile(row, levels, dim=0) for row in values.unbind(1)]
        return torch.stack(rows, 1)

    def log_prob(self, y: Tensor) -> Tensor:
        """
        Log predictive density of each row, in nats: the logarithm of the mean over draws.

        :param Tensor y: observations, ``N`` rows.
        :return: shape ``[N]``.
        :raises ValueError: if they do not fit the outputs.
        """
        likelihood = self.model.likelihood
        assert likelihood is not None
        y = likelihood.check(self.outputs[0], y)
        each = self.distribution.log_prob(y)
        each = each.flatten(2).sum(2) if each.dim() > 2 else each
        return each.logsumexp(0) - torch.log(torch.tensor(float(each.shape[0])))


@torch.no_grad()
def predict(
    model: BayesianModule,
    posterior: Any,
    inputs: Any,
    num_draws: int = 200,
    max_memory: float = 1.0,
) -> Prediction:
    """
    Predict with all posterior draws of the weights at once, by :func:`torch.vmap` where the net
    allows it: many times faster than :class:`pyro.infer.Predictive`, which runs the model once
    for each draw. The net is in evaluation mode meanwhile.

    Example::

        >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal())
        >>> guide = AutoMeanField(model)
        >>> x = torch.randn(7, 2)
        >>> prediction = predict(model, guide, x, num_draws=50)
        >>> prediction.mean.shape, prediction.quantiles([0.05, 0.95]).shape
        (torch.Size([7, 1]), torch.Size([2, 7, 1]))

    :param BayesianModule model: a model with a likelihood.
    :param posterior: a guide; draws by site, such as :func:`~pyro_groupprior.load_draws` gives; or
        what has run chains, such as :func:`~pyro_groupprior.mcmc.run_hmc` or
        :class:`pyro.infer.MCMC`; draws that :func:`~pyro_groupprior.mcmc.run_mcmc` has kept in
        files are read one file after the other.
    :param inputs: as for the model, ``N`` rows; they are moved to its device.
    :param int num_draws: how many draws from a guide; draws that are given are all used.
    :param float max_memory: GiB that the draws of the weights and the net's activations may take;
        more draws than fit are made and worked through in chunks. The predictions themselves, and
        draws that are given, are not counted.
    :raises TypeError: if the model has no likelihood.
    :raises ValueError: if the inputs have NaN or inf, or draws are missing or do not fit.
    """
    if not isinstance(model, BayesianModule) or model.likelihood is None:
        raise TypeError("model: expected a BayesianModule with a likelihood")
    if num_draws < 1:
        raise ValueError(f"num_draws: expected a positive number, got {num_draws}")
    check_batch(inputs, "inputs")
    device = device_of(model)
    assert device is not None
    inputs = move_batch(inputs, device)
    if hasattr(posterior, "chunks"):  # in files, of which one is in memory at a time
        parts = posterior.chunks()
    else:
        parts = [posterior.get_samples() if hasattr(posterior, "get_samples") else posterior]
    with evaluation_mode(model):
        found = [_outputs(model, part, inputs, num_draws, max_memory) for part in parts]
    outputs, draws = found[0]
    if len(found) > 1:
        outputs = torch.cat([rows for rows, _ in found])
        draws = {name: torch.cat([small[name] for _, small in found]) for name in draws}
    return Prediction(
        outputs,
        model.likelihood.distribution(outputs, likelihood_latents(model, draws, outputs)),
        model,
    )


def _outputs(
    model: BayesianModule, posterior: Any, inputs: Any, num_draws: int, max_memory: float
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The net's outputs for draws, and these draws of all that the weights are not made of."""
    given = weight_sites(model, posterior) if isinstance(posterior, Mapping) else None
    names, device = weight_site_names(model), device_of(model)
    assert device is not None
    if given is None:
        args = (inputs, *_missing(model, posterior, inputs))
        first = model.initial_weights()
    else:
        num_draws = len(next(iter(given.values())))
        first = packed_weights(model, _rows(given, 0, 1, device))[0]
    copies = COPIES if given is None or model.site not in given else 1
    held, at_once = chunk_sizes(model, first, inputs, max_memory, copies)

    def work(start: int, stop: int) -> tuple[Tensor, dict[str, Tensor]]:
        if given is None:
            draws = posterior_draws(posterior, stop - start, *args)
        else:
            draws = _rows(given, start, stop, device)
        weights = packed_weights(model, draws)
        others = {name: value for name, value in draws.items() if name not in names}
        return map_draws(lambda draw: model.call_net(draw, inputs), weights, at_once), others

    outputs, draws = in_chunks(work, num_draws, held)
    if given is not None:
        return outputs, {name: value for name, value in posterior.items() if name not in names}
    return outputs, draws


def _missing(model: BayesianModule, guide: Any, inputs: Any) -> tuple[Tensor, ...]:
    """
    Some observations for one of Pyro's guides that has not seen any: it takes the model's sites
    for latent that are not observed, and would make parameters for the observations as well.
    """
    if isinstance(guide, AutoGuide) and guide.prototype_trace is None:
        with pyro.poutine.block():
            trace = pyro.poutine.trace(model).get_trace(inputs)
        return (trace.nodes["obs"]["value"],)
    return ()


def _rows(
    draws: Mapping[str, Tensor], start: int, stop: int, device: torch.device
) -> dict[str, Tensor]:
    return {name: value[start:stop].to(device) for name, value in draws.items()}


def likelihood_latents(
    model: BayesianModule, draws: Mapping[str, Tensor], outputs: Tensor
) -> dict[str, Tensor]:
    """
    The likelihood's parameters for each draw; fixed and learned ones are the same for all.

    :param draws: by site, each ``[S, ...]``.
    :param Tensor outputs: the net's, ``[S, N, ...]``.
    :raises ValueError: if draws are missing, or as many are not there.
    """
    assert model.likelihood is not None
    with pyro.poutine.block(), pyro.poutine.trace() as stated:
        latents = model.likelihood.sample_latents(outputs)
    needed = {name for name, _ in stated.trace.iter_stochastic_nodes()}
    for name, value in latents.items():
        if name in draws:
            latents[name] = beside(draws[name].to(outputs.device), value.shape, outputs)
            if len(latents[name]) != len(outputs):
                raise ValueError(
                    f"posterior: expected as many draws of {name!r} as of the weights, "
                    f"{len(outputs)}, got {len(latents[name])}"
                )
        elif name in needed:
            raise ValueError(f"posterior: expected draws of {name!r}, got those of {sorted(draws)}")
    return latents


def _entropy(probs: Tensor) -> Tensor:
    return -torch.xlogy(probs, probs).sum(-1)
