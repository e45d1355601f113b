# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Guides with shared weights in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..nn import BayesianModule
from .files import load_codebook, save_codebook
from .guide import AutoShared
from .module import NET

GUIDE = "guide."


def save_shared(
    path: str | Path, guide: AutoShared, dtype: torch.dtype = torch.float32
) -> dict[str, int]:
    """
    Save a guide with shared weights, and with it all of its net that is not in these: the
    statistics of norm layers, and parameters that are points.

    Example::

        >>> import tempfile
        >>> from pyro_groupprior.comparison import weight_moments
        >>> from pyro_groupprior.sharing import load_module, load_shared, make_codebook, save_shared
        >>> model = BayesianModule(nn.Linear(20, 1), likelihoods.Normal())
        >>> x, y = torch.randn(9, 20), torch.randn(9, 1)
        >>> full = AutoMeanField(model)
        >>> full.setup(x, y)
        >>> book = make_codebook(model.layout, weight_moments(model, full), 4)
        >>> guide = AutoShared(model, book)
        >>> guide.setup(x, y)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sizes = save_shared(folder + "/posterior", guide)
        ...     again = load_shared(folder + "/posterior", model, x, y)
        ...     module = load_module(folder + "/posterior", nn.Linear(20, 1))
        >>> torch.equal(again.moments("weights")[0], guide.moments("weights")[0])
        True
        >>> module(x, num_draws=5).shape
        torch.Size([5, 9, 1])

    :param path: the file, which is replaced as a whole.
    :param AutoShared guide: set up.
    :param dtype: of all numbers that are not whole: ``torch.float32`` or ``torch.float16``.
    :return: the bytes of the parts, see :func:`save_codebook`.
    :raises RuntimeError: if the guide is not set up.
    :raises ValueError: if ``dtype`` is another, or a number does not fit in it.
    """
    if not guide.is_set_up:
        raise RuntimeError("guide: expected one that is set up, as by a call")
    rest = {name: _as(dtype, name, value) for name, value in _rest(guide).items()}
    return save_codebook(path, guide.codebook(), rest, dtype)


def load_shared(path: str | Path, model: BayesianModule, *args: Any, **kwargs: Any) -> AutoShared:
    """
    The guide that :func:`save_shared` has saved; an example is there. The model's net gets back
    what of it is not in the posterior, such as the statistics of norm layers.

    :param path: the file.
    :param BayesianModule model: like that of the guide, with as many groups.
    :param args: the model's, such as a batch.
    :raises ValueError: if the file is damaged, or of another model; nothing has changed then.
    """
    codebook, dense = load_codebook(path)
    guide = AutoShared(model, codebook)
    guide.setup(*args, **kwargs)
    got, expected = ({k: tuple(v.shape) for k, v in d.items()} for d in (dense, _rest(guide)))
    if got != expected:
        raise ValueError(f"path: {path} is of another model: expected {expected}, got {got}")
    for prefix, module in ((GUIDE, guide), (NET, model.net)):
        found = {k.removeprefix(prefix): v for k, v in dense.items() if k.startswith(prefix)}
        module.load_state_dict(found, strict=False)
    return guide


def _as(dtype: torch.dtype, name: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    found = value.to(dtype)
    if bool((found.isinf() & ~value.isinf()).any()):
        raise ValueError(f"dtype: {name} has numbers too large for {dtype}")
    return found


def _rest(guide: AutoShared) -> dict[str, Tensor]:
    """What of a guide and its net is not in the codebook, by name."""
    layout, key = guide.codebook().layout, guide.site(guide.weights).key
    shared = {name for entry in layout for name in (entry.name, *entry.aliases)}
    net = cast(BayesianModule, guide.model).net.state_dict()
    own = guide.state_dict()
    return {
        **{NET + name: value for name, value in net.items() if name not in shared},
        **{GUIDE + name: v for name, v in own.items() if name.rpartition(".")[2] != key},
    }
