# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Saving a run, and taking it up again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro.infer.autoguide import AutoContinuous, AutoGuide
from torch import Tensor, nn

from ..assignment_buffer import AssignmentBuffer
from ..storage import read_file, write_file
from .history import History
from .monitor import Monitor
from .random_state import get_random_state, set_random_state
from .regroup_step import check_guide_can_follow, remake_guide
from .warmup import WarmUp

if TYPE_CHECKING:
    from .phased import PhasedSVI

KIND = "checkpoint"


def save_checkpoint(svi: PhasedSVI, path: str | Path) -> None:
    """
    Save all that a run needs to go on exactly: states of model, guide, optimizer and scheduler,
    learned points in Pyro's ParamStore, assignments, counters, history, the position within the
    epoch, snapshots of monitors, and the random states of torch (CPU and GPUs), numpy and Python.

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
    for name, buffer in _loose_buffers(svi).items():
        tensors |= {f"groups.{name}.{key}": value for key, value in buffer.state_dict().items()}
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
    random_tensors, random_numbers = get_random_state()
    tensors |= random_tensors
    tensors |= {f"batches.{name}": value for name, value in svi.batches.state().items()}
    for number, monitor in enumerate(_monitors(svi)):
        state = monitor.state_dict()
        tensors |= {f"monitor{number}.{name}": value for name, value in state.items()}
    scheduler = svi.scheduler
    metadata = {
        "label": svi.label,
        "step": svi.step_count,
        "epoch": svi.epoch,
        "phase": svi.phase,
        "position": svi.batches.position,
        "epoch_loss": list(svi.epoch_loss),
        "warmup": [svi.warm_up.steps, svi.warm_up.start],
        "convergence": svi.convergence.state(),
        "history": svi.history.to_dict(),
        "parameters": list(svi.parameters),
        "num_groups": _num_groups(svi),
        "kinds": _kinds(svi),
        "structure": getattr(svi.guide, "structure", None),
        "optimizer": {"groups": optimizer["param_groups"], "numbers": numbers},
        "scheduler": None if scheduler is None else scheduler.state_dict(),
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
    before = _num_groups(svi)
    if isinstance(svi.model, nn.Module):
        svi.model.load_state_dict(_part(tensors, "model"))
    for name, buffer in _loose_buffers(svi).items():
        buffer.load_state_dict(_part(tensors, f"groups.{name}"))
    _load_store(svi, _part(tensors, "store"))
    if isinstance(svi.guide, AutoGuide) and metadata["num_groups"] != before:
        remake_guide(svi)  # for the grouping that has just been loaded
    if isinstance(svi.guide, nn.Module):
        svi.guide.load_state_dict(_part(tensors, "guide"))
    svi.make_optimizer()
    _load_optimizer(svi, tensors, metadata)
    if svi.scheduler is not None:
        svi.scheduler.load_state_dict(_like(svi.scheduler.state_dict(), metadata["scheduler"]))
    svi.step_count, svi.epoch = metadata["step"], metadata["epoch"]
    svi.phase, svi.history = metadata["phase"], History.from_dict(metadata["history"])
    svi.epoch_loss = tuple(metadata["epoch_loss"])
    svi.warm_up = WarmUp(*metadata["warmup"])
    svi.convergence.load_state(metadata["convergence"])
    svi.batches.load_state(metadata["position"], _part(tensors, "batches"))
    for number, monitor in enumerate(_monitors(svi)):
        monitor.load_state_dict(_part(tensors, f"monitor{number}"))
    set_random_state(tensors, metadata["random"])


def _monitors(svi: PhasedSVI) -> list[Monitor]:
    return [callback for callback in svi.callbacks if isinstance(callback, Monitor)]


def _loose_buffers(svi: PhasedSVI) -> dict[str, AssignmentBuffer]:
    """Groupings that are no part of the model's own state, as when the model is a function."""
    modules = svi.model.modules() if isinstance(svi.model, nn.Module) else ()
    own = {id(module) for module in modules}
    return {
        name: site.source
        for name, site in svi.groups.items()
        if isinstance(site.source, AssignmentBuffer) and id(site.source) not in own
    }


def _num_groups(svi: PhasedSVI) -> dict[str, int]:
    return {name: site.assignment.num_groups for name, site in svi.groups.items()}


def _kinds(svi: PhasedSVI) -> dict[str, str]:
    parts = {"guide": svi.guide, "optimizer": svi.optimizer, "scheduler": svi.scheduler}
    return {part: type(value).__name__ for part, value in parts.items()}


def _part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    prefix = f"{part}."
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def _check(svi: PhasedSVI, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Find out all that could go wrong before anything is changed."""
    if metadata["label"] != svi.label:
        raise ValueError(
            f"path: the file is that of another run: expected {svi.label!r}, got "
            f"{metadata['label']!r}"
        )
    for part, kind in _kinds(svi).items():
        saved = metadata["kinds"][part]
        if kind != saved:
            raise ValueError(f"path: the file is of another {part}: {saved} there, {kind} here")
    own_groups, saved_groups = _num_groups(svi), metadata["num_groups"]
    if set(own_groups) != set(saved_groups):
        raise ValueError(
            f"path: the file has the group priors {sorted(saved_groups)}, this run "
            f"{sorted(own_groups)}"
        )
    for part, name, own in _states(svi):
        path = f"{part}.{name}"
        if path not in tensors or not _fits(svi, part, name, own, tensors[path], saved_groups):
            there = tuple(tensors[path].shape) if path in tensors else "missing"
            raise ValueError(
                f"path: the file is of another {_PARTS[part]}: {name} is {there} there, "
                f"{tuple(own.shape)} here"
            )
    known = {f"{part}.{name}" for part, name, _ in _states(svi)}
    odd = [n for n in tensors if n.partition(".")[0] in _PARTS and n not in known]
    if odd:
        part = _PARTS[odd[0].partition(".")[0]]
        raise ValueError(f"path: the file is of another {part}: it has {odd[:5]}")
    structure = getattr(svi.guide, "structure", None)
    if metadata.get("structure", structure) != structure:
        raise ValueError("path: the file is of another guide, whose numbers mean something else")
    if metadata["parameters"] != list(svi.parameters):
        differing = sorted(set(metadata["parameters"]) ^ set(svi.parameters))
        raise ValueError(f"path: the file has other trainable parameters: {differing}")
    assert svi.optimizer is not None
    saved_options = [set(group) for group in metadata["optimizer"]["groups"]]
    if [set(group) for group in svi.optimizer.param_groups] != saved_options:
        raise ValueError("path: the file was saved with another kind of optimizer")
    if own_groups != saved_groups and isinstance(svi.guide, AutoGuide):
        for name in svi.groups:
            check_guide_can_follow(svi, name)


_PARTS = {
    "model": "model",
    "guide": "guide",
    "groups": "grouping",
    "store": "set of learned points",
}


def _states(svi: PhasedSVI) -> Iterator[tuple[str, str, Tensor]]:
    """Part, name and present value of all tensors that a checkpoint of this run has to hold."""
    for part in ("model", "guide"):
        module = getattr(svi, part)
        if isinstance(module, nn.Module):
            for name, value in module.state_dict().items():
                yield part, name, value
    for name, buffer in _loose_buffers(svi).items():
        for key, value in buffer.state_dict().items():
            yield "groups", f"{name}.{key}", value
    for name, value in svi.parameters.items():
        if name.startswith("store."):
            yield "store", name.removeprefix("store."), value


def _fits(
    svi: PhasedSVI, part: str, name: str, own: Tensor, saved: Tensor, num_groups: dict[str, int]
) -> bool:
    """Whether a saved tensor can be loaded: the number of groups may differ, all else may not."""
    if part in ("model", "groups"):
        owner, _, local = name.rpartition(".")
        model: Any = svi.model
        buffers = part == "groups" or isinstance(model.get_submodule(owner), AssignmentBuffer)
        if buffers and local in ("index", "responsibilities"):  # hard or soft, of the same weights
            return local == "responsibilities" or own.shape[:1] == saved.shape[:1]
        return own.shape == saved.shape
    expected = list(own.shape)
    if part == "guide" and isinstance(svi.guide, AutoContinuous):
        present, latents = _num_groups(svi), dict(svi.guide.prototype_trace.iter_stochastic_nodes())
        more = sum(
            num_groups[group] - present[group]
            for group in present
            for site in (f"{group}_loc", f"{group}_scale")
            if site in latents
        )
        square = name.startswith("scale_tril")
        expected = [n + more if d == 0 or square else n for d, n in enumerate(expected)]
    else:
        group = _group_of(num_groups, name)
        if group is not None and expected:
            expected[0] = num_groups[group]
    return list(saved.shape) == expected


def _group_of(num_groups: dict[str, int], name: str) -> str | None:
    """The group prior whose location or scale a parameter of guide or ParamStore is for."""
    path = "." + name.removesuffix("_unconstrained").replace("/", ".")
    for group in num_groups:
        if path.endswith((f".{group}_loc", f".{group}_scale")):
            return group
    return None


@torch.no_grad()
def _load_store(svi: PhasedSVI, saved: dict[str, Tensor]) -> None:
    store = pyro.get_param_store()
    for name, value in saved.items():
        own = svi.parameters[f"store.{name}"]
        if own.shape != value.shape:
            # Learned group parameters, real or positive: one is either. The value itself follows.
            store[name] = own.new_ones(value.shape)
            own = store[name].unconstrained()
        own.copy_(value)


def _like(own: Any, saved: Any) -> Any:
    """What JSON cannot say: dictionaries with integer keys, as the milestones of MultiStepLR."""
    if isinstance(own, dict) and isinstance(saved, dict):
        numbers = bool(own) and all(isinstance(key, int) for key in own)
        names = {int(key) if numbers else key: value for key, value in saved.items()}
        return type(own)({key: _like(own.get(key), value) for key, value in names.items()})
    if isinstance(own, (list, tuple)) and isinstance(saved, list) and len(own) == len(saved):
        return type(own)(_like(a, b) for a, b in zip(own, saved))
    return saved


def _load_optimizer(svi: PhasedSVI, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    assert svi.optimizer is not None
    state: dict[int, dict[str, Any]] = {}
    for path, value in [
        *_part(tensors, "optimizer").items(),
        *metadata["optimizer"]["numbers"].items(),
    ]:
        index, _, key = path.partition(".")
        state.setdefault(int(index), {})[key] = value
    groups = _like(svi.optimizer.state_dict()["param_groups"], metadata["optimizer"]["groups"])
    svi.optimizer.load_state_dict({"state": state, "param_groups": groups})
