# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""From a plain trained net to a shared posterior in a file, and what each step gives."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import pyro_groupprior as pgp
from benchmarks.images import Loader
from pyro_groupprior.metrics import calibration_error
from pyro_groupprior.sharing import (
    AutoShared,
    MergeEntries,
    load_module,
    save_shared,
    share_posterior,
    with_pruned_group,
)

DRAWS, AT_ONCE = 20, 1000
FAST = 10  # times the rate: deviations start far from where they belong, in their logarithm


@dataclass(frozen=True)
class Recipe:
    """How a pruned plain net is given standard deviations.

    :param float temperature: Of the posterior: each row counts for ``1 / temperature`` of them.
    :param int epochs: Of training.
    :param float rate: Learning rate at first; it falls to zero.
    :param float width: First standard deviations, in units of the weights' base scale.
    :param prior: ``"layer"`` for a learned prior by layer, ``"fixed"``.
    :param bool local_reparam: As in :class:`pyro_groupprior.AutoMeanField`; without it a step takes
        half the time.
    """

    temperature: float
    epochs: int
    rate: float
    width: float
    prior: str = "layer"
    local_reparam: bool = True


def untrained(
    net: nn.Module, loader: Loader, recipe: Recipe
) -> tuple[pgp.BayesianModule, pgp.AutoMeanField]:
    """Make a model and a guide that start from a plain net; zeros are pruned, biases are not."""
    pyro.set_rng_seed(0)
    fixed: dict[str, Any] = {"loc": 0.0, "scale": 1.0} if recipe.prior == "fixed" else {}
    model = pgp.BayesianModule(
        net,
        pgp.likelihoods.Categorical(),
        num_data=round(len(loader.data[1]) / recipe.temperature),
        grouping="layer",
        **fixed,
    )
    model.mask = model.initial_weights() != 0
    for entry in model.layout:
        if len(entry.shape) == 1:
            model.mask[entry.slice] = True
    # Pruned weights are to have no say in others' prior.
    model.groups.assignment = with_pruned_group(model.assignment, model.mask)
    guide = pgp.AutoMeanField(model, local_reparam=recipe.local_reparam, init_scale=recipe.width)
    guide.setup(*(part[:2] for part in loader.data))
    return model, guide


def train_posterior(model: pgp.BayesianModule, guide: Any, loader: Loader, recipe: Recipe) -> None:
    """Train a posterior."""
    _train(model, guide, loader, recipe.epochs, recipe.rate, [])


@dataclass(frozen=True)
class Sharing:
    """How a posterior is shared.

    :param int entries: Of each tensor, at first.
    :param int merged: To how many they are merged while the guide is trained.
    :param float outliers: Share of the weights with numbers of their own.
    :param float blend: Share of the weights between two entries.
    :param float bits: Nats of divergence that a nat of the indices' length is worth.
    :param int epochs: Of training in shared form.
    :param float rate: Learning rate at first; it falls to zero.
    :param bool local_reparam: As in :class:`Recipe`.
    """

    entries: int = 16
    merged: int | None = None
    outliers: float = 0.0
    blend: float = 0.0
    bits: float = 10.0
    epochs: int = 2
    rate: float = 3e-4
    local_reparam: bool = True


def share(
    model: pgp.BayesianModule, guide: Any, loader: Loader, how: Sharing
) -> tuple[pgp.BayesianModule, AutoShared]:
    """Share a posterior, and train it on in that form."""
    pyro.set_rng_seed(1)
    model, shared = share_posterior(
        model,
        guide,
        how.entries,
        local_reparam=how.local_reparam,
        outliers=how.outliers,
        blend=how.blend,
        rate=how.bits,
    )
    shared.setup(*(part[:2] for part in loader.data))
    callbacks = [] if how.merged is None else [MergeEntries(num_entries=how.merged)]
    if how.epochs:
        _train(model, shared, loader, how.epochs, how.rate, callbacks)
    return model, shared


def _train(
    model: pgp.BayesianModule,
    guide: Any,
    loader: Loader,
    epochs: int,
    rate: float,
    callbacks: list[Any],
) -> None:
    site = guide.site(model.site).key

    def optim(parameters: list[Tensor]) -> torch.optim.Optimizer:
        locs = guide.locs[site]
        slow = [locs, *model.net.parameters()]  # with batch norm's, which are points
        slow = [parameter for parameter in parameters if any(parameter is own for own in slow)]
        fast = [parameter for parameter in parameters if all(parameter is not own for own in slow)]
        groups = [{"params": slow}, {"params": fast, "lr": FAST * rate}]
        return torch.optim.Adam(groups, lr=rate, fused=True)

    def scheduler(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))

    # The net is trained already: the divergence counts from the start.
    svi = pgp.PhasedSVI(
        model,
        guide,
        optim,
        warmup=0,
        scheduler=scheduler,
        callbacks=callbacks,
    )
    svi.run(loader, epochs=epochs, progress=False)
    pgp.update_bn(model, guide, loader.first())


def from_file(path: Path, guide: AutoShared, net: nn.Module) -> tuple[dict[str, int], nn.Module]:
    """Write a shared posterior, and give the bytes of its parts and the module read from it."""
    sizes = save_shared(path, guide, torch.float16)
    return sizes, load_module(path, net)


@torch.no_grad()
def log_probs(net: Callable[..., Tensor], x: Tensor, draws: int | None = None) -> Tensor:
    """Give log probabilities ``[N, K]``: of a plain net, or the mean over draws of a shared one."""
    found = []
    for rows in x.split(AT_ONCE):
        if draws is None:
            found.append(net(rows).log_softmax(-1))
        else:
            each = net(rows, num_draws=draws).log_softmax(-1)
            found.append(each.logsumexp(0) - torch.tensor(float(draws)).log())
    return torch.cat(found)


def auroc(log_probs: Tensor, elsewhere: Tensor) -> float:
    """Tell inputs from elsewhere by the entropy of predictions: the area under the ROC curve."""
    entropy = torch.cat([-(part.exp() * part).sum(-1) for part in (log_probs, elsewhere)])
    return float(roc_auc_score(torch.arange(len(entropy)) >= len(log_probs), entropy))


def scores(log_probs: Tensor, y: Tensor) -> dict[str, float]:
    """Give accuracy, NLL, and calibration error in 15 bins."""
    return {
        "accuracy": float((log_probs.argmax(-1) == y).float().mean()),
        "nll": float(F.nll_loss(log_probs, y)),
        "ece": calibration_error(log_probs.exp(), y),
    }
