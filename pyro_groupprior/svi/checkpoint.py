# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Saving a run, and taking it up again."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn

from ..assignment import AssignmentBuffer
from ..guides import SiteGuide
from ..storage import read_file, write_file
from .history import History
from .regroup_step import check_guide_can_follow, remake_guide

if TYPE_CHECKING:
    from .phased import PhasedSVI

KIND = "checkpoint"


def save_checkpoint(svi: PhasedSVI, path: str | Path) -> None:
    """
    Save all that a run needs to go on exactly: states of model, guide, optimizer and scheduler,
    learned points in Pyro's ParamStore, assignments, counters, history, the position within the
    epoch, and the random states of torch (CPU and GPUs), numpy and Python.

    :raises RuntimeError: if no step was taken yet.
    :raises TypeError: if the scheduler's state cannot be written as JSON.
    """
    if svi.optimizer is None:
        raise RuntimeError("save: nothing to save yet; take a step or call setup() first")
    tensors: dict[str, Tensor] = {}
    for part in ("model", "guide"):
        module = getattr(svi, part)
        if isinstance(module, nn.Module):
            tensors |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
    stored = [name for name in svi.parameters if name.startswith("store.")]
    tensors |= {name: svi.parameters[name] for name in stored}
    optimizer = svi.optimizer.state_dict()
    numbers: dict[str, Any] = {}
    for index, state in optimizer["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                numbers[f"{index}.{key}"] = value
    random_tensors, random_numbers = _random_state()
    tensors |= random_tensors
    if svi.batches.epoch_start is not None:
        tensors["batches.epoch_start"] = svi.batches.epoch_start
    if svi.batches.loader_start is not None:
        tensors["batches.loader_start"] = svi.batches.loader_start
    metadata = {
        "step": svi.step_count,
        "epoch": svi.epoch,
        "phase": svi.phase,
        "position": svi.batches.position,
        "history": svi.history.to_dict(),
        "parameters": list(svi.parameters),
        "optimizer": {"groups": optimizer["param_groups"], "numbers": numbers},
        "scheduler": None if svi.scheduler is None else svi.scheduler.state_dict(),
        "random": random_numbers,
    }
    write_file(path, KIND, tensors, metadata)


def load_checkpoint(svi: PhasedSVI, path: str | Path, *args: Any, **kwargs: Any) -> None:
    """
    Take up a run that :func:`save_checkpoint` has saved; see :meth:`PhasedSVI.load`.

    :raises ValueError: if the file is damaged or of another model, guide or optimizer; nothing of
        the model or guide has changed then.
    """
    tensors, metadata = read_file(path, KIND)
    if svi.optimizer is None:
        if not args and not kwargs:
            raise RuntimeError(
                "load: give one batch along, load(path, x, y): the guide needs it to make its "
                "parameters"
            )
        svi.setup(*args, **kwargs)
    _check(svi, tensors, metadata)
    if isinstance(svi.model, nn.Module):
        svi.model.load_state_dict(_part(tensors, "model"))
    if _differs(svi.guide, _part(tensors, "guide")):
        remake_guide(svi)  # for the grouping that has just been loaded
    if isinstance(svi.guide, nn.Module):
        svi.guide.load_state_dict(_part(tensors, "guide"))
    with torch.no_grad():
        for name, value in _part(tensors, "store").items():
            svi.parameters[f"store.{name}"].copy_(value)
    svi.make_optimizer()
    _load_optimizer(svi, tensors, metadata)
    if svi.scheduler is not None:
        svi.scheduler.load_state_dict(metadata["scheduler"])
    svi.step_count, svi.epoch = metadata["step"], metadata["epoch"]
    svi.phase, svi.history = metadata["phase"], History.from_dict(metadata["history"])
    svi.batches.position = metadata["position"]
    svi.batches.epoch_start = tensors.get("batches.epoch_start")
    svi.batches.loader_start = tensors.get("batches.loader_start")
    _set_random_state(tensors, metadata["random"])


def _part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    prefix = f"{part}."
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def _check(svi: PhasedSVI, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Find out all that could go wrong before anything is changed."""
    for part in ("model", "guide"):
        module = getattr(svi, part)
        own = module.state_dict() if isinstance(module, nn.Module) else {}
        saved = _part(tensors, part)
        if set(own) != set(saved):
            odd = sorted(set(own) ^ set(saved))
            raise ValueError(f"path: the file is of another {part}; they differ in {odd[:5]}")
        for name, value in own.items():
            if not _fits(module, name, value.shape, saved[name].shape):
                raise ValueError(
                    f"path: the file is of another {part}: {name} has shape "
                    f"{tuple(saved[name].shape)} there, {tuple(value.shape)} here"
                )
    if metadata["parameters"] != list(svi.parameters):
        odd = sorted(set(metadata["parameters"]) ^ set(svi.parameters))
        raise ValueError(f"path: the file has other trainable parameters; they differ in {odd[:5]}")
    if (metadata["scheduler"] is None) != (svi.scheduler is None):
        raise ValueError("path: a scheduler is either in the file or in this run, not in both")
    assert svi.optimizer is not None
    own_groups, saved_groups = svi.optimizer.param_groups, metadata["optimizer"]["groups"]
    if [set(group) for group in own_groups] != [set(group) for group in saved_groups]:
        raise ValueError("path: the file was saved with another kind of optimizer")
    if _differs(svi.guide, _part(tensors, "guide")):
        for name in svi.groups:
            check_guide_can_follow(svi, name)


def _fits(module: nn.Module, name: str, own: torch.Size, saved: torch.Size) -> bool:
    """Whether a saved tensor can be loaded: the number of groups may differ, all else may not."""
    if own == saved:
        return True
    owner, _, local = name.rpartition(".")
    if isinstance(module, AutoGuide):
        return len(own) == len(saved)  # made anew for the file's grouping
    if isinstance(module, SiteGuide):
        return name in module.group_parameters() and own[1:] == saved[1:]
    if isinstance(module.get_submodule(owner), AssignmentBuffer):
        return local == "responsibilities" or own[:1] == saved[:1]
    return False


def _differs(guide: Any, saved: dict[str, Tensor]) -> bool:
    if not isinstance(guide, AutoGuide):
        return False
    return any(value.shape != saved[name].shape for name, value in guide.state_dict().items())


def _load_optimizer(svi: PhasedSVI, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    assert svi.optimizer is not None
    state: dict[int, dict[str, Any]] = {}
    for path, value in [
        *_part(tensors, "optimizer").items(),
        *metadata["optimizer"]["numbers"].items(),
    ]:
        index, _, key = path.partition(".")
        state.setdefault(int(index), {})[key] = value
    groups = [dict(group) for group in metadata["optimizer"]["groups"]]
    for group in groups:
        if "betas" in group:
            group["betas"] = tuple(group["betas"])  # JSON knows lists only
    svi.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, gauss_next = random.getstate()
    tensors = {
        "random.torch": torch.get_rng_state(),
        "random.numpy": torch.as_tensor(np.asarray(keys, dtype=np.int64)),
        "random.python": torch.tensor(internal, dtype=torch.int64),
    }
    for number, state in enumerate(torch.cuda.get_rng_state_all()):
        tensors[f"random.cuda.{number}"] = state
    numbers = {
        "numpy": [kind, int(position), int(has_gauss), float(gauss)],
        "python": [version, gauss_next],
    }
    return tensors, numbers


def _set_random_state(tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["random.torch"])
    kind, position, has_gauss, gauss = numbers["numpy"]
    keys = tensors["random.numpy"].numpy().astype(np.uint32)
    np.random.set_state((kind, keys, position, has_gauss, gauss))
    version, gauss_next = numbers["python"]
    random.setstate((version, tuple(tensors["random.python"].tolist()), gauss_next))
    cuda = _part(tensors, "random.cuda")
    for number in range(min(len(cuda), torch.cuda.device_count())):
        torch.cuda.set_rng_state(cuda[str(number)], number)
