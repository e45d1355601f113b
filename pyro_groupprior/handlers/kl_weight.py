# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The handler that weighs the prior's pull during KL warm-up."""

from __future__ import annotations

from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message


class KLWeightMessenger(Messenger):
    """
    Multiply the log-density of every latent site by a factor, in model and guide alike, and leave
    the likelihood as it is: the ELBO becomes ``E[log p(data | z)] - factor * KL(q || p)``
    (KL warm-up: Sonderby et al. 2016, "Ladder variational autoencoders").

    Example::

        >>> def model():
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(0.0))
        >>> with KLWeightMessenger(0.1):
        ...     trace = pyro.poutine.trace(model).get_trace()
        >>> trace.nodes["z"]["scale"], trace.nodes["x"]["scale"]
        (0.1, 1.0)

    :param float factor: the weight of the divergence, positive.
    :raises ValueError: if it is not positive.
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        if not factor > 0:
            raise ValueError(f"factor: expected a positive number, got {factor}")
        self.factor = factor

    def _pyro_sample(self, msg: Message) -> None:
        if not msg["is_observed"]:
            msg["scale"] = msg["scale"] * self.factor
