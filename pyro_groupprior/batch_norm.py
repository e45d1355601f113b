# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Statistics of batch norm under a posterior of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import swa_utils

from .guides import posterior_draws
from .nn import BayesianModule, evaluation_mode
from .packed import packed_weights


@torch.no_grad()
def update_bn(model: BayesianModule, posterior: Any, loader: Iterable[Any]) -> None:
    """
    Estimate the statistics of a net's batch norm layers anew, by one pass over data, as
    :func:`torch.optim.swa_utils.update_bn` does: after weights were pruned, shared or replaced by
    draws, the statistics from training are those of other weights. Every batch is passed through
    the net with a draw of its own.

    Example::

        >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        >>> model = BayesianModule(net, likelihoods.Normal())
        >>> guide = AutoMeanField(model)
        >>> x, y = torch.randn(64, 2), torch.randn(64, 1)
        >>> guide.setup(x, y)
        >>> update_bn(model, guide, [(x, y)])
        >>> int(model.net[1].num_batches_tracked)
        1

    :param BayesianModule model: the net; only these statistics change. Nothing does if it has no
        such layers.
    :param posterior: a guide that is set up, or draws by site, of which each batch takes one.
    :param loader: batches, of which the first part, if there are several, is the net's input.
    :raises TypeError: if the model is no :class:`~pyro_groupprior.BayesianModule`.
    :raises ValueError: if draws are missing or do not fit. After an error all is as it was.
    """
    if not isinstance(model, BayesianModule):
        raise TypeError(f"model: expected a BayesianModule, got {type(model).__name__}")
    given = packed_weights(model, posterior) if isinstance(posterior, Mapping) else None
    layers = [layer for layer in model.modules() if hasattr(layer, "running_mean")]
    before = [
        (layer.momentum, {n: v.clone() for n, v in layer.named_buffers(recurse=False)})
        for layer in layers
    ]
    try:
        with evaluation_mode(model):  # each part gets back its own mode
            swa_utils.update_bn(loader, _Drawn(model, posterior, given), model.base_scale.device)
    except BaseException:
        for layer, (momentum, buffers) in zip(layers, before, strict=True):
            layer.momentum = momentum
            for name, value in buffers.items():
                layer.get_buffer(name).copy_(value)
        raise


class _Drawn(nn.Module):
    """The net with another draw of its weights at every call."""

    def __init__(self, model: BayesianModule, posterior: Any, given: Tensor | None) -> None:
        super().__init__()
        self.net, self._call = model.net, model.call_net
        self._weights = lambda inputs: (
            given[int(torch.randint(len(given), ()))]
            if given is not None
            else packed_weights(model, posterior_draws(posterior, 1, inputs))[0]
        )

    def forward(self, inputs: Any) -> Any:
        return self._call(self._weights(inputs), inputs)
