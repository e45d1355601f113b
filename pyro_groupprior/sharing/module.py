# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Nets that draw their weights from a shared posterior, by torch alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .codebook import Codebook
from .files import load_codebook

NET = "net."


class SharedModule(nn.Module):
    """
    A net whose outputs are those of draws from a shared posterior of its weights.

    Example::

        >>> from pyro_groupprior.comparison import WeightMoments
        >>> from pyro_groupprior.sharing import SharedModule, make_codebook
        >>> layout = Layout([("weight", torch.Size([1, 3])), ("bias", torch.Size([1]))])
        >>> moments = WeightMoments(torch.tensor([1.0, 2.0, 3.0, 0.0]), torch.full((4,), 0.1))
        >>> module = SharedModule(nn.Linear(3, 1), make_codebook(layout, moments, 4))
        >>> outputs = module(torch.eye(3), num_draws=1000)
        >>> outputs.shape, outputs.mean(0).squeeze().round().tolist()
        (torch.Size([1000, 3, 1]), [1.0, 2.0, 3.0])

    :param nn.Module net: is copied, and set to evaluation.
    :param Codebook codebook: of parameters of the net, by their names.
    :param dense: its other parameters and buffers, by name; default: as they are.
    :raises ValueError: if names or shapes are not the net's.
    """

    def __init__(
        self, net: nn.Module, codebook: Codebook, dense: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__()
        state = net.state_dict()
        shapes = {entry.name: entry.shape for entry in codebook.layout}
        shapes |= {name: value.shape for name, value in (dense or {}).items()}
        for name, shape in shapes.items():
            if name not in state or state[name].shape != shape:
                own = tuple(state[name].shape) if name in state else None
                raise ValueError(f"net: expected {name!r} of shape {tuple(shape)}, got {own}")
        self.net = copy.deepcopy(net).eval()
        self.net.load_state_dict(dict(dense or {}), strict=False)
        self.layout = codebook.layout
        loc, scale = codebook.moments()
        device = next(iter(state.values())).device
        self.loc = nn.Buffer(loc.to(device), persistent=False)
        self.scale = nn.Buffer(scale.to(device), persistent=False)
        self.net.load_state_dict(self.layout.unpack(self.loc, aliases=True), strict=False)
        self.net.requires_grad_(False)

    @torch.no_grad()
    def forward(self, *args: Any, num_draws: int = 1, **kwargs: Any) -> Any:
        """
        The net's outputs for several draws of all its weights.

        :param args: the net's.
        :param int num_draws: how many.
        :return: of a net that gives a tensor ``[N, ...]``: ``[num_draws, N, ...]``; of another, a
            list.
        """
        outputs = []
        for _ in range(num_draws):
            weights = torch.addcmul(self.loc, self.scale, torch.randn_like(self.loc))
            tensors = self.layout.unpack(weights, aliases=True)
            outputs.append(functional_call(self.net, tensors, args, kwargs, tie_weights=False))
        tensors_only = all(isinstance(output, Tensor) for output in outputs)
        return torch.stack(outputs) if tensors_only and outputs else outputs


def load_module(path: str | Path, net: nn.Module) -> SharedModule:
    """
    A net with the posterior that :func:`save_shared` has saved. Neither Pyro nor the model is
    needed.

    :param path: the file.
    :param nn.Module net: of the same architecture; its weights do not matter, and stay.
    :raises ValueError: if the file is damaged, or of another net.
    """
    codebook, dense = load_codebook(path)
    rest = {k.removeprefix(NET): v for k, v in dense.items() if k.startswith(NET)}
    return SharedModule(net, codebook, rest)
