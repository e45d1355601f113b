# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Single weights set to zero."""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..assignment import Assignment
from ..layout import Layout
from ..nn import BayesianModule
from ..packed import packed_weights


def keep_mask(scores: Tensor, share: float, within: Assignment | None = None) -> Tensor:
    """
    Which weights stay: those with the highest scores.

    Example::

        >>> from pyro_groupprior.pruning import keep_mask
        >>> keep_mask(torch.tensor([3.0, 1.0, 2.0, 4.0]), 0.5)
        tensor([ True, False, False,  True])

    :param Tensor scores: shape ``[W]``.
    :param float share: of the weights that stay, between 0 and 1.
    :param Assignment within: keep this share in each group by itself, such as
        ``model.partition("layer")``. Default: of all.
    :return: booleans ``[W]``.
    :raises ValueError: if the share is not between 0 and 1, scores are NaN or no vector, or the
        groups are soft or of other weights.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: expected a number between 0 and 1, got {share}")
    if scores.dim() != 1:
        raise ValueError(f"scores: expected shape [W], got {tuple(scores.shape)}")
    if bool(scores.isnan().any()):
        raise ValueError(f"scores: expected numbers, got {int(scores.isnan().sum())} NaN")
    mask = torch.zeros_like(scores, dtype=torch.bool)
    if within is None:
        mask[scores.topk(round(share * len(scores)), sorted=False).indices] = True
        return mask
    if within.is_soft or len(within.index) != len(scores):
        kind = "soft" if within.is_soft else "hard"
        raise ValueError(
            f"within: expected a hard assignment of {len(scores)} weights, got a {kind} one of "
            f"{len(within.index)}"
        )
    index = within.index.long().to(scores.device)
    # By group, and by score within it: a weight's place among its group's decides.
    order = scores.argsort(descending=True, stable=True)
    order = order[index[order].argsort(stable=True)]
    sizes = index.bincount()
    first = sizes.cumsum(0) - sizes
    place = torch.arange(len(index), device=index.device) - first[index[order]]
    # In double: single precision ends at 2^24 weights.
    mask[order] = place < (share * sizes.double()).round()[index[order]]
    return mask


def prune_draws(
    model: BayesianModule, draws: Mapping[str, Tensor], mask: Tensor
) -> dict[str, Tensor]:
    """
    Draws in which only some weights are other than zero.

    Example::

        >>> from pyro_groupprior.pruning import prune_draws
        >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal())
        >>> prune_draws(model, {"weights": torch.ones(1, 3)}, torch.tensor([True, False, True]))
        {'weights': tensor([[1., 0., 1.]])}

    :param BayesianModule model: the net.
    :param draws: by site, such as ``guide.draws(200)`` or of MCMC. Of a model that is not centered
        the weights themselves take the place of the standardised ones.
    :param Tensor mask: the weights that stay, booleans ``[W]``.
    :raises TypeError: if the draws are no mapping or the mask not boolean.
    :raises ValueError: if the mask does not fit, or there are no draws of the weights.
    """
    if not isinstance(draws, Mapping):
        raise TypeError(f"draws: expected tensors by site, got {type(draws).__name__}")
    check_mask(mask, model.layout.num_weights)
    weights = packed_weights(model, draws)
    # There may be chains in front.
    of = draws.get(model.site, draws.get(f"{model.site}_decentered"))
    assert of is not None
    weights = (weights * mask.to(weights)).reshape(*of.shape[:-1], -1)
    rest = {name: v for name, v in draws.items() if name != f"{model.site}_decentered"}
    return {**rest, model.site: weights}


def prune_net(net: nn.Module, layout: Layout, mask: Tensor) -> nn.Module:
    """
    A copy of a plain net in which only some weights are other than zero, and stay so while it is
    trained further: the gradients of the others are zero. It is an ordinary net in all else, and
    can be copied, shrunk, or pruned again. Of a Bayesian model take :func:`prune_model`: one made
    of a pruned net has all its weights.

    Example::

        >>> from pyro_groupprior.pruning import prune_net
        >>> net = nn.Linear(2, 1)
        >>> layout = BayesianModule(net, likelihoods.Normal()).layout
        >>> pruned = prune_net(net, layout, torch.tensor([True, False, True]))
        >>> pruned(torch.ones(1, 2)).sum().backward()
        >>> pruned.weight[0, 1].item(), pruned.weight.grad[0].tolist()
        (0.0, [1.0, 0.0])

    :param Module net: the net.
    :param Layout layout: of its packed weights.
    :param Tensor mask: the weights that stay, booleans ``[W]``.
    :raises TypeError: if the mask is not boolean.
    :raises ValueError: if the mask does not fit.
    """
    check_mask(mask, layout.num_weights)
    net = copy.deepcopy(net)
    masks = WeightMasks(layout.unpack(mask))
    net.register_forward_pre_hook(masks)
    net.register_load_state_dict_post_hook(masks.forget)
    net.weight_masks = masks  # type: ignore[assignment]  # where shrink finds them
    masks(net)
    return net


class WeightMasks:
    """
    Keeps entries of a net's parameters at zero; a copy of the net has one of its own.

    :param masks: by the parameters' names, booleans of their shapes.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.masks = dict(masks)
        self._zeroed: dict[str, weakref.ref[Tensor]] = {}
        self._hooked: dict[str, weakref.ref[Tensor]] = {}

    def __call__(self, net: nn.Module, args: object = None) -> None:
        for name, mask in self.masks.items():
            path, _, own = name.rpartition(".")
            parameter = getattr(net.get_submodule(path), own)
            if not isinstance(parameter, nn.Parameter):
                continue
            known = _alive(self._zeroed.get(name))
            if known is not None and known is not parameter:
                continue  # one that torch.func.functional_call has put in its place for this call
            if known is None:
                with torch.no_grad():
                    parameter.mul_(mask.to(parameter.device))
                self._zeroed[name] = weakref.ref(parameter)
            if parameter.requires_grad and _alive(self._hooked.get(name)) is not parameter:
                parameter.register_hook(functools.partial(_masked, self, name))
                self._hooked[name] = weakref.ref(parameter)

    def forget(self, *args: object) -> None:
        """Set entries to zero anew at the next call, as after other weights have been loaded."""
        self._zeroed = {}

    def __getstate__(self) -> dict[str, object]:
        # Hooks of tensors are not copied.
        return {"masks": self.masks, "_zeroed": {}, "_hooked": {}}


def _masked(masks: WeightMasks, name: str, gradient: Tensor) -> Tensor:
    return gradient * masks.masks[name].to(gradient.device)


def _alive(reference: weakref.ref[Tensor] | None) -> Tensor | None:
    return None if reference is None else reference()


def prune_model(model: BayesianModule, mask: Tensor) -> BayesianModule:
    """
    A copy of a model in which the net reads only some of the weights, and zeros for the rest. It
    can be trained further, under any guide or by MCMC: the data say nothing about weights that are
    not read, so that these follow their prior, and tell nothing to their groups.

    Example::

        >>> from pyro_groupprior.pruning import prune_model
        >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal())
        >>> pruned = prune_model(model, torch.tensor([True, False, True]))
        >>> pruned.call_net(torch.ones(3), torch.eye(2))
        tensor([[2.],
                [1.]])

    :param BayesianModule model: the model.
    :param Tensor mask: the weights that stay, booleans ``[W]``.
    :raises TypeError: if the mask is not boolean.
    :raises ValueError: if the mask does not fit.
    """
    check_mask(mask, model.layout.num_weights)
    model = copy.deepcopy(model)
    model.mask = mask.to(model.base_scale.device, copy=True)
    return model


def check_mask(mask: Tensor, size: int) -> None:
    """
    Refuse what is no mask of so many weights.

    :raises TypeError: if it is not boolean.
    :raises ValueError: if it has another shape.
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask: expected booleans, got {kind}")
    if mask.shape != (size,):
        raise ValueError(f"mask: expected shape [{size}], got {list(mask.shape)}")
