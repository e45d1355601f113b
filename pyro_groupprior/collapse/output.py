# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What of a net's input reaches its output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pyro.poutine import block, condition
from torch import Tensor

from ..guides import posterior_draws, posterior_moments
from ..nn import BayesianModule
from ..svi.parameters import quiet
from .signal import LAYER, Signal

if TYPE_CHECKING:
    from ..svi.phased import PhasedSVI

DRAWS = 16  # outputs of unrelated functions that agree by chance do so within 0.1 or so
AGREEMENT = 0.5


def is_cut_off(svi: PhasedSVI, dead: Sequence[Signal]) -> bool:
    """
    Whether a net's output is the same for all rows of the last batch once its dead layers are set
    to zero; weights that are no net's are cut off if they are all dead together.
    """
    args, kwargs = svi.last_batch
    for name in {part.site for part in dead}:
        layers = [part.part for part in dead if part.site == name and part.kind == LAYER]
        if not layers:
            return True
        layout = svi.groups[name].layout
        assert layout is not None
        with quiet(svi.model):
            weights = posterior_moments(svi.guide, name, *args, **kwargs)[0].clone()
            for layer in layers:
                weights[layout[layer].slice] = 0.0
            outputs = _outputs(svi, name, {name: weights})
        if outputs and all(map(_is_constant, outputs)):
            return True
    return False


def passing_input(svi: PhasedSVI, parts: Iterable[Signal]) -> set[Signal]:
    """
    Those layers that pass on their net's input, little signal as their weights may have: all of
    the input has to go through them, and the outputs that weights drawn from the posterior give for
    the rows of the last batch agree. Means may be small beside the noise of weights whose inputs
    are pruned.
    """
    cut = [part for part in parts if part.kind == LAYER and is_cut_off(svi, [part])]
    agree = {site for site in {part.site for part in cut} if agreement(svi, site) > AGREEMENT}
    return {part for part in cut if part.site in agree}


def agreement(svi: PhasedSVI, name: str) -> float:
    """
    How far the functions of a net drawn from its posterior agree on the last batch: their mean
    covariance over rows over their mean variance. Near 0 for unrelated functions, 1 for the same.
    """
    args, kwargs = svi.last_batch
    total, squares = torch.zeros(()), 0.0
    with quiet(svi.model):
        for _ in range(DRAWS):
            draws = posterior_draws(svi.guide, 1, *args, **kwargs)
            values = {site: value[0] for site, value in draws.items()}
            function = torch.cat([_varying(output) for output in _outputs(svi, name, values)])
            total = total.to(function) + function
            squares += float(function.square().sum())
    covariance = (float(total.square().sum()) - squares) / (DRAWS - 1)
    return covariance / squares if squares > 0 else 0.0


def _outputs(svi: PhasedSVI, name: str, values: Mapping[str, Tensor]) -> list[Any]:
    """What the nets of a site give with some sites' values."""
    args, kwargs = svi.last_batch
    outputs: list[Any] = []

    def note(net: Any, inputs: Any, output: Any) -> None:
        outputs.append(output)

    model: Any = svi.model  # a module: only these have layouts
    modules = [m for m in model.modules() if isinstance(m, BayesianModule)]
    hooks = [m.net.register_forward_hook(note) for m in modules if m.site == name]
    try:
        with block():
            condition(svi.model, dict(values))(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def _varying(output: Any) -> Tensor:
    """Differences between rows; of what is no tensor, nothing."""
    if not isinstance(output, Tensor) or output.dim() == 0:
        return torch.zeros(0)
    return (output - output.mean(0)).reshape(-1)


def _is_constant(output: Any) -> bool:
    """Over rows; what is no tensor is not judged."""
    if not isinstance(output, Tensor) or output.dim() == 0 or len(output) < 2:
        return False
    return torch.allclose(output, output[:1].expand_as(output), rtol=1e-4, atol=1e-6)
