# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Guides with shared weights in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

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
    :param dtype: of the shared numbers, see :func:`save_codebook`.
    :return: the bytes of the parts.
    :raises RuntimeError: if the guide is not set up.
    """
    if not guide.is_set_up:
        raise RuntimeError("guide: expected one that is set up, as by a call")
    net = cast(BayesianModule, guide.model).net
    codebook = guide.codebook()
    shared = {name for entry in codebook.layout for name in (entry.name, *entry.aliases)}
    dense = {NET + k: v for k, v in net.state_dict().items() if k not in shared}
    for name, value in guide.state_dict().items():
        if name.rpartition(".")[2] != guide.site(guide.weights).key:
            dense[GUIDE + name] = value
    return save_codebook(path, codebook, dense, dtype)


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
    parts: dict[str, dict[str, Any]] = {
        prefix: {k.removeprefix(prefix): v for k, v in dense.items() if k.startswith(prefix)}
        for prefix in (NET, GUIDE)
    }
    key = guide.site(guide.weights).key
    shared = {name for entry in codebook.layout for name in (entry.name, *entry.aliases)}
    own = {
        NET: {k: v for k, v in model.net.state_dict().items() if k not in shared},
        GUIDE: {k: v for k, v in guide.state_dict().items() if k.rpartition(".")[2] != key},
    }
    for prefix, found in parts.items():
        shapes, expected = ({k: tuple(v.shape) for k, v in d.items()} for d in (found, own[prefix]))
        if shapes != expected:
            raise ValueError(
                f"path: {path} is of another model: expected {expected} in its {prefix[:-1]}, "
                f"got {shapes}"
            )
    guide.load_state_dict(parts[GUIDE], strict=False)
    model.net.load_state_dict(parts[NET], strict=False)
    return guide
