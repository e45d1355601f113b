# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Codebooks with fewer entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from ..clustering import merge_components
from .codebook import Blend, Codebook
from .files import content_size

STEPS = 40  # of the search for a distance, at most


def merge_codebook(
    codebook: Codebook, max_distance: float | None = None, num_entries: int | None = None
) -> Codebook:
    """
    Merge entries that are close to each other, the closest first: by the Wasserstein-2 distance,
    ``(m_1 - m_2)^2 + (s_1 - s_2)^2`` squared, and so that a draw of any of their weights keeps its
    mean and variance. Entries of different tables stay apart, as does that of pruned weights.

    Example::

        >>> from pyro_groupprior.sharing import Codebook, merge_codebook
        >>> codebook = Codebook(
        ...     Layout([("w", torch.Size([3]))]), torch.ones(1), torch.tensor([0.0, 1.0, 9.0]),
        ...     torch.ones(3), torch.tensor([0, 1, 2], dtype=torch.int32),
        ... )
        >>> merged = merge_codebook(codebook, max_distance=2.0)
        >>> merged.loc.tolist(), merged.index.tolist()
        ([0.5, 9.0], [0, 0, 1])

    Source: Lin et al., stochastic weight sharing for Bayesian neural networks (2DGBNN).

    :param float max_distance: merge those no further apart, in their tensor's units.
    :param int num_entries: or as long as a table has more.
    :raises ValueError: if neither is given, or one is out of range.
    """
    sizes, device = codebook.sizes().cpu(), codebook.loc.device
    label = torch.arange(codebook.num_entries, dtype=torch.int32)
    loc, scale = codebook.loc.cpu().double(), codebook.scale.cpu().double()
    merged: dict[tuple[int, int], tuple[int, int]] = {}
    spared = codebook.scale.cpu() == 0
    label[spared] = torch.arange(int(spared.sum()), dtype=torch.int32)
    locs, scales, number = [loc[spared]], [scale[spared]], int(spared.sum())
    for table in dict.fromkeys(codebook.tables):
        own = torch.arange(*table)[~spared[slice(*table)]]
        merged[table] = (number, number)
        if len(own):
            weights, means, variances, labels = merge_components(
                sizes[own].clamp(min=1e-9).numpy(),
                loc[own, None].numpy(),
                scale[own, None].square().numpy(),
                max_distance,
                num_entries,
            )
            label[own] = torch.as_tensor(labels, dtype=torch.int32) + number
            locs.append(torch.as_tensor(means).squeeze(1))
            scales.append(torch.as_tensor(variances).squeeze(1).sqrt())
            merged[table] = (number, number + len(weights))
            number += len(weights)
    label = label.to(device)
    index, blend = label[codebook.index], codebook.blend
    second = label[blend.second]
    apart = second != index[blend.places]
    return replace(
        codebook,
        loc=torch.cat(locs).to(codebook.loc),
        scale=torch.cat(scales).to(codebook.scale),
        index=index,
        blend=Blend(blend.places[apart], second[apart], blend.alpha[apart]),
        tables=tuple(merged[table] for table in codebook.tables),
    )


def merge_while(codebook: Codebook, holds: Callable[[Codebook], bool]) -> Codebook:
    """
    Merge entries as far as something still holds, such as the loss on validation rows being small
    enough: the largest distance is searched for by bisection.

    Example::

        >>> from pyro_groupprior.sharing import Codebook, merge_while
        >>> codebook = Codebook(
        ...     Layout([("w", torch.Size([3]))]), torch.ones(1), torch.tensor([0.0, 1.0, 9.0]),
        ...     torch.ones(3), torch.tensor([0, 1, 2], dtype=torch.int32),
        ... )
        >>> merge_while(codebook, lambda merged: merged.num_entries > 1).num_entries
        2

    :param callable holds: is asked whether a codebook will do; what will do with fewer entries
        must do with more.
    :return: the codebook as it was, if no merger will do.
    """
    return _search(codebook, holds)[0]


def merge_to_size(
    codebook: Codebook, num_bytes: int, dtype: torch.dtype = torch.float32
) -> Codebook:
    """
    Merge entries until a file of the codebook (:func:`save_codebook`) has no more than so many
    bytes, and no further.

    Example::

        >>> from pyro_groupprior.comparison import WeightMoments
        >>> from pyro_groupprior.sharing import make_codebook, merge_to_size, save_codebook
        >>> moments = WeightMoments(torch.randn(1000), torch.full((1000,), 0.3))
        >>> codebook = make_codebook(Layout([("w", torch.Size([1000]))]), moments, 16)
        >>> merge_to_size(codebook, 600).num_entries < codebook.num_entries
        True

    :param int num_bytes: without dense tensors, which are saved as they are.
    :param dtype: of the file's numbers, see :func:`save_codebook`.
    :raises ValueError: if a single entry for each table takes more.
    """
    if content_size(codebook, dtype) <= num_bytes:
        return codebook
    merged = _search(codebook, lambda merged: content_size(merged, dtype) > num_bytes)[1]
    least = content_size(merged, dtype)
    if least > num_bytes:
        raise ValueError(f"num_bytes: expected at least {least}, got {num_bytes}")
    return merged


def _search(codebook: Codebook, holds: Callable[[Codebook], bool]) -> tuple[Codebook, Codebook]:
    """The codebook with the fewest entries for which something holds, and the next after that."""
    reach = float(codebook.loc.max() - codebook.loc.min() + codebook.scale.max())
    least, most = 0.0, max(reach, torch.finfo(torch.float).tiny)
    best, beyond = codebook, merge_codebook(codebook, max_distance=most)
    known: dict[int, bool] = {}  # those with as many entries are the same
    for _ in range(STEPS):
        if best.num_entries - beyond.num_entries <= 1:
            break
        middle = (least + most) / 2
        merged = merge_codebook(codebook, max_distance=middle)
        if merged.num_entries not in known:
            known[merged.num_entries] = holds(merged)
        if known[merged.num_entries]:
            best, least = merged, middle
        else:
            beyond, most = merged, middle
    return best, beyond
