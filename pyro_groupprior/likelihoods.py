# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""
Likelihoods that turn a net's output into a distribution over observations.

Their distributions skip torch's own validation, which takes as long as the distribution itself:
``check`` has seen the observations, and the engine refuses a loss that is not finite.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from .hyperpriors import Hyper, Learned, check_hyper, moved


class Likelihood:
    """
    How observations arise from a net's output. The base class of the ones below; subclass it
    for a likelihood of your own.

    Example, counts with extra zeros::

        >>> class ZeroInflatedPoisson(Likelihood):
        ...     def distribution(self, output, latents):
        ...         log_rate, gate = output.unbind(-1)
        ...         return dist.ZeroInflatedPoisson(log_rate.exp(), gate_logits=gate)
        ...     def check(self, output, y):
        ...         return y
    """

    def sample_latents(self, like: Tensor) -> dict[str, Tensor]:
        """
        State the likelihood's own parameters, shared by all data, as Pyro sites; none by default.

        :param Tensor like: gives dtype and device.
        :return: the parameters by site name: numbers, or of the shape of one row's observation
            (their sites with ``to_event``).
        """
        return {}

    def distribution(self, output: Tensor, latents: Mapping[str, Tensor]) -> TorchDistribution:
        """
        The distribution of the observations, elementwise.

        :param Tensor output: the net's output, shape ``[..., N, *rest]`` where ``...`` may be
            posterior draws.
        :param latents: what :meth:`sample_latents` stated, broadcastable against ``output``.
        :return: a distribution whose batch shape begins with ``[..., N]``.
        """
        raise NotImplementedError

    def check(self, output: Tensor, y: Tensor) -> Tensor:
        """
        The observations in the shape that the distribution expects. Their values are looked at
        while Pyro's validation is enabled, as it is by default.

        :raises ValueError: if ``y`` does not fit ``output`` or has values that cannot occur.
        """
        if output.shape == (*y.shape, 1):
            y = y.unsqueeze(-1)
        if y.shape != output.shape:
            # [N] against [N, K] would broadcast, and train on nonsense.
            raise ValueError(
                f"y: expected the shape of the net's output {tuple(output.shape)}, "
                f"got {tuple(y.shape)}"
            )
        return y


def beside(value: Tensor, shape: torch.Size, output: Tensor) -> Tensor:
    """
    Draws of a likelihood's parameter, of this ``shape`` each, in a form that broadcasts against
    outputs ``[S, N, *rest]``.
    """
    return value.reshape(-1, *[1] * (output.dim() - 1 - len(shape)), *shape)


class _NoisyLikelihood(Likelihood):
    """A location-scale likelihood whose noise scale is one shared parameter, site ``noise``."""

    def __init__(self, noise: Hyper = None) -> None:
        check_hyper("noise", noise, constraints.positive)
        self.noise = noise

    def sample_latents(self, like: Tensor) -> dict[str, Tensor]:
        if self.noise is None:
            prior = dist.LogNormal(like.new_full((), -1.0), like.new_ones(()))
            return {"noise": pyro.sample("noise", prior)}
        if isinstance(self.noise, torch.distributions.Distribution):
            return {"noise": pyro.sample("noise", moved("noise", self.noise, like))}
        learned = isinstance(self.noise, Learned)
        value = self.noise.init if isinstance(self.noise, Learned) else self.noise
        value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
        if learned:
            return {"noise": pyro.param("noise", value, constraint=constraints.positive)}
        return {"noise": pyro.deterministic("noise", value)}


class Normal(_NoisyLikelihood):
    """
    ``y ~ Normal(output, noise)``, with one noise scale for all outputs.

    Example::

        >>> Normal(noise=0.1).distribution(torch.zeros(3), {"noise": torch.tensor(0.1)}).stddev
        tensor([0.1000, 0.1000, 0.1000])

    :param noise: prior of the noise scale: a Pyro distribution, a fixed number, or
        :class:`~pyro_groupprior.Learned`. Default ``LogNormal(-1, 1)``: for targets that were
        standardised.
    :raises ValueError: if the noise cannot be positive.
    """

    def distribution(self, output: Tensor, latents: Mapping[str, Tensor]) -> TorchDistribution:
        return dist.Normal(output, latents["noise"], validate_args=False)


class StudentT(_NoisyLikelihood):
    """
    ``y ~ StudentT(df, output, noise)``: robust against outliers.

    Example::

        >>> StudentT(df=3.0).distribution(torch.zeros(2), {"noise": torch.tensor(1.0)}).df
        tensor([3., 3.])

    :param float df: degrees of freedom, positive; above 2 for a finite variance.
    :param noise: as in :class:`Normal`.
    :raises ValueError: if ``df`` is not positive or the noise cannot be.
    """

    def __init__(self, df: float = 4.0, noise: Hyper = None) -> None:
        if not df > 0:
            raise ValueError(f"df: expected a positive number, got {df}")
        super().__init__(noise)
        self.df = df

    def distribution(self, output: Tensor, latents: Mapping[str, Tensor]) -> TorchDistribution:
        return dist.StudentT(self.df, output, latents["noise"], validate_args=False)


class Categorical(Likelihood):
    """
    ``y ~ Categorical(softmax(output))`` over the output's last dimension.

    Example::

        >>> Categorical().distribution(torch.zeros(5, 3), {}).batch_shape
        torch.Size([5])
    """

    def distribution(self, output: Tensor, latents: Mapping[str, Tensor]) -> TorchDistribution:
        return dist.Categorical(logits=output, validate_args=False)

    def check(self, output: Tensor, y: Tensor) -> Tensor:
        if y.is_floating_point() or y.shape != output.shape[:-1]:
            raise ValueError(
                f"y: expected integer class labels of shape {tuple(output.shape[:-1])}, "
                f"got {y.dtype} of shape {tuple(y.shape)}"
            )
        if is_validation_enabled() and bool(((y < 0) | (y >= output.shape[-1])).any()):
            raise ValueError(
                f"y: expected class labels in [0, {output.shape[-1]}), "
                f"got values from {int(y.min())} to {int(y.max())}"
            )
        return y


class Bernoulli(Likelihood):
    """
    ``y ~ Bernoulli(sigmoid(output))``, elementwise.

    Example::

        >>> Bernoulli().distribution(torch.zeros(2), {}).mean
        tensor([0.5000, 0.5000])
    """

    def distribution(self, output: Tensor, latents: Mapping[str, Tensor]) -> TorchDistribution:
        return dist.Bernoulli(logits=output, validate_args=False)

    def check(self, output: Tensor, y: Tensor) -> Tensor:
        y = super().check(output, y).to(output.dtype)
        if is_validation_enabled() and bool(((y != 0) & (y != 1)).any()):
            raise ValueError("y: expected zeros and ones only")
        return y


class Poisson(Likelihood):
    """
    ``y ~ Poisson(exp(output))``, elementwise.

    Example::

        >>> Poisson().distribution(torch.zeros(2), {}).mean
        tensor([1., 1.])
    """

    def distribution(self, output: Tensor, latents: Mapping[str, Tensor]) -> TorchDistribution:
        return dist.Poisson(output.exp(), validate_args=False)

    def check(self, output: Tensor, y: Tensor) -> Tensor:
        y = super().check(output, y).to(output.dtype)
        counts = (y >= 0) & (y == y.floor()) & y.isfinite()
        if is_validation_enabled() and not bool(counts.all()):
            raise ValueError("y: expected counts: non-negative whole numbers only")
        return y
