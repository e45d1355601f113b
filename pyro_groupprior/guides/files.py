# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Guides in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..storage import read_file, write_file
from .base import SiteGuide

KIND = "guide"
_SQUARE = "correlations."  # matrices of which only what is below the diagonal is used


def save_guide(path: str | Path, guide: SiteGuide) -> None:
    """
    Save a guide's parameters, each number that is used once.

    Example::

        >>> import tempfile
        >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal())
        >>> guide, again = AutoFullRank(model), AutoFullRank(model)
        >>> x, y = torch.zeros(3, 2), torch.zeros(3, 1)
        >>> guide.setup(x, y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_guide(folder + "/posterior.safetensors", guide)
        ...     load_guide(folder + "/posterior.safetensors", again, x, y)
        >>> torch.equal(again.moments("weights")[0], guide.moments("weights")[0])
        True

    :param path: the file, which is replaced as a whole.
    :param SiteGuide guide: of this package.
    :raises TypeError: if it is none of this package's.
    :raises RuntimeError: if it is not set up.
    """
    if not isinstance(guide, SiteGuide):
        raise TypeError(f"guide: expected one of this package, got {type(guide).__name__}")
    numbers = guide.num_numbers  # refuses one that is not set up
    tensors = {
        name: _below(value) if name.startswith(_SQUARE) else value
        for name, value in guide.state_dict().items()
    }
    notes = {"class": type(guide).__name__, "numbers": numbers, "structure": guide.structure}
    write_file(path, KIND, tensors, notes)


def load_guide(path: str | Path, guide: SiteGuide, *args: Any, **kwargs: Any) -> None:
    """
    Give a guide the parameters that :func:`save_guide` has saved.

    :param path: the file.
    :param SiteGuide guide: of the same class, made in the same way for the same model. It may have
        other groups now: the guide takes those of the file, and the model is to be given its
        assignment, which is not in the file.
    :param args: the model's, for a guide that is not set up yet.
    :raises ValueError: if the file is damaged, or of another guide; no parameter has changed then.
    """
    tensors, notes = read_file(path, KIND)
    if notes["class"] != type(guide).__name__:
        raise ValueError(f"path: {path} holds {notes['class']}, expected {type(guide).__name__}")
    if not guide.is_set_up:
        guide.setup(*args, **kwargs)
    state, own = {}, guide.state_dict()
    group_parameters = guide.group_parameters()
    if tensors.keys() != own.keys():
        odd = sorted(tensors.keys() ^ own.keys())[0]
        raise ValueError(f"path: {path} is of another guide: {odd!r} is in one of both only")
    for name, value in tensors.items():
        expected = _below(own[name]) if name.startswith(_SQUARE) else own[name]
        resized = name in group_parameters and value.shape[1:] == expected.shape[1:]
        if value.shape != expected.shape and not resized:
            raise ValueError(
                f"path: {path} is of another guide: expected shape {tuple(expected.shape)} of "
                f"{name!r}, got {tuple(value.shape)}"
            )
        if not bool(value.isfinite().all()):
            raise ValueError(f"path: {path} has NaN or inf in {name!r}")
        state[name] = _square(value, own[name]) if name.startswith(_SQUARE) else value
    if notes["structure"] != guide.structure:
        raise ValueError(
            f"path: {path} is of another guide: its weights, or their blocks, are others"
        )
    guide.load_state_dict(state)


def _below(matrices: Tensor) -> Tensor:
    """What is below the diagonals, ``[..., n (n - 1) / 2]``."""
    rows, columns = _places(matrices)
    return matrices[..., rows, columns]


def _square(below: Tensor, like: Tensor) -> Tensor:
    rows, columns = _places(like)
    whole = torch.zeros_like(like)
    whole[..., rows, columns] = below.to(like)
    return whole


def _places(matrices: Tensor) -> tuple[Tensor, Tensor]:
    size = matrices.shape[-1]
    rows, columns = torch.tril_indices(size, size, offset=-1, device=matrices.device)
    return rows, columns
