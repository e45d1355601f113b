# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Local reparametrisation and flipout: noise on outputs instead of noise on weights."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from torch import Tensor, nn

from ..layout import Layout

# Key under which a guide's sample site hands the moments of its Normal to the replayed model.
LOCAL_MOMENTS = "local_moments"

_CONV = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}


class PosteriorReader(Messenger):
    """
    Read the moments that a guide with local reparametrisation has attached to a site. Replaying a
    guide's trace hands its ``infer`` dict to the model, which is the channel used here.

    :param str site: the weights' site.
    """

    def __init__(self, site: str) -> None:
        super().__init__()
        self.site = site
        self.moments: tuple[Tensor, Tensor] | None = None

    def _pyro_post_sample(self, msg: Message) -> None:
        if msg["name"] == self.site and msg["infer"]:
            self.moments = msg["infer"].get(LOCAL_MOMENTS)


def local_modules(net: nn.Module, layout: Layout) -> dict[str, nn.Module]:
    """
    The modules that can have noise of their own for every row of data, by path: linear layers and
    convolutions all of whose parameters are Bayesian and not tied to others.

    :param Module net: the net.
    :param Layout layout: which of its tensors are packed.
    """
    free = {entry.name for entry in layout if not entry.aliases}
    return {
        path: module
        for path, module in net.named_modules()
        if type(module) in (nn.Linear, *_CONV)
        and getattr(module, "padding_mode", "zeros") == "zeros"
        # Norms of weights (torch.nn.utils.spectral_norm) replace "weight" by something else.
        and {"weight"} <= {name for name, _ in module.named_parameters()} <= {"weight", "bias"}
        and all(f"{path}.{name}".lstrip(".") in free for name, _ in module.named_parameters())
    }


class LocalNoise:
    """
    While active, the modules of :func:`local_modules` compute with the posterior mean and add
    noise of the right distribution to their outputs, independently for every row of data, which
    lowers the variance of the ELBO's gradient:

    - a linear layer on ``[N, in]`` samples its outputs, whose mean and variance are exact (local
      reparametrisation, Kingma, Salimans, Welling 2015, eq. 6);
    - layers that use a weight at many positions of a row (convolutions, linear layers on
      sequences) flip the signs of one shared perturbation for each row (flipout, Wen et al. 2018,
      eq. 4), which stays exact where independent noise at each position would not be;
    - where the first dimension of a layer's input does not count the rows of data, as inside a
      transformer with ``batch_first=False``, the noise is that of the sampled weights.

    All other modules compute with the sampled weights.

    :param modules: the modules, by path; hooks are set on them while the context is active.
    :param Layout layout: the net's packed tensors.
    :param Tensor loc: posterior means, shape ``[W]``.
    :param Tensor scale: posterior standard deviations, shape ``[W]``.
    :param int num_rows: number of rows of data.
    :raises RuntimeError: if such a module runs twice in one pass: both runs would need the same
        weights, so that independent noise would be wrong.
    """

    def __init__(
        self,
        modules: dict[str, nn.Module],
        layout: Layout,
        loc: Tensor,
        scale: Tensor,
        num_rows: int,
    ) -> None:
        self._modules, self._layout, self._num_rows = modules, layout, num_rows
        self._loc, self._scale = layout.unpack(loc), layout.unpack(scale)
        self._handles: list[Any] = []
        self._seen: set[str] = set()

    def tensors(self, weights: Tensor) -> dict[str, Tensor]:
        """The net's tensors: means for the modules with noise of their own, samples for others."""
        self._sampled = self._layout.unpack(weights)
        tensors = self._layout.unpack(weights, aliases=True)
        for path, module in self._modules.items():
            for name, _ in module.named_parameters():
                key = f"{path}.{name}".lstrip(".")
                tensors[key] = self._loc[key]
        return tensors

    def __enter__(self) -> LocalNoise:
        for path, module in self._modules.items():
            self._handles.append(module.register_forward_hook(self._hook(path), with_kwargs=True))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, path: str) -> Any:
        def add_noise(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
        ) -> Tensor:
            if path in self._seen:
                raise RuntimeError(
                    f"local_reparam: module {path!r} runs more than once in a pass, and both runs "
                    "need the same weights; use a guide with local_reparam=False"
                )
            self._seen.add(path)
            x = args[0] if args else kwargs["input"]
            return output + self._noise(path, module, x, output)

        return add_noise

    def _noise(self, path: str, module: Any, x: Tensor, output: Tensor) -> Tensor:
        prefix = f"{path}." if path else ""
        weight, bias = f"{prefix}weight", f"{prefix}bias"
        is_linear = isinstance(module, nn.Linear)
        by_rows = x.shape[0] == self._num_rows and (is_linear or x.dim() == module.weight.dim())
        if is_linear and by_rows and x.dim() == 2:
            bias_variance = self._scale[bias].square() if bias in self._scale else None
            variance = F.linear(x.square(), self._scale[weight].square(), bias_variance)
            return _safe_sqrt(variance) * torch.randn_like(output)
        perturbation = self._sampled[weight] - self._loc[weight]
        if not by_rows:
            shift = self._sampled[bias] - self._loc[bias] if bias in self._loc else None
            return _apply(module, x, perturbation, shift)
        unit_dim = x.dim() - 1 if is_linear else 1
        noise = _apply(module, x * _signs(x, unit_dim), perturbation, None)
        noise = noise * _signs(output, unit_dim)
        if bias in self._scale:
            view = [1] * output.dim()
            view[unit_dim] = -1
            shape = _rows_and_units(output, unit_dim)
            random = torch.randn(shape, dtype=output.dtype, device=output.device)
            noise = noise + self._scale[bias].view(view) * random
        return noise


def _apply(module: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the module does, with other weights."""
    if isinstance(module, nn.Linear):
        return F.linear(x, weight, bias)
    settings = (module.stride, module.padding, module.dilation, module.groups)
    return _CONV[type(module)](x, weight, bias, *settings)


def _rows_and_units(like: Tensor, unit_dim: int) -> list[int]:
    """The shape of something that is the same at all positions."""
    shape = [1] * like.dim()
    shape[0], shape[unit_dim] = like.shape[0], like.shape[unit_dim]
    return shape


def _signs(like: Tensor, unit_dim: int) -> Tensor:
    """Random signs, one for each row and unit."""
    shape = _rows_and_units(like, unit_dim)
    return torch.randint(0, 2, shape, device=like.device).to(like.dtype).mul_(2).sub_(1)


def _safe_sqrt(variance: Tensor) -> Tensor:
    """The root, with a finite gradient where an input row is all zeros and there is no bias."""
    return (variance + torch.finfo(variance.dtype).tiny ** 0.5).sqrt()
