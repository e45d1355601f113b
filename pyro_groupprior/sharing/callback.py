# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Entries merged while a guide is trained."""

from __future__ import annotations

from ..svi import Callback, PhasedSVI
from ..svi.optimizer import move_state
from .guide import AutoShared
from .merging import merge_codebook


class MergeEntries(Callback):
    """
    Merge the entries of an :class:`AutoShared` between epochs, as :func:`merge_codebook` does,
    while it is trained: entries that training has brought together become one. What the optimizer
    knows of an entry goes with it.

    Example::

        >>> from pyro_groupprior.comparison import weight_moments
        >>> from pyro_groupprior.sharing import AutoShared, MergeEntries, make_codebook
        >>> model = BayesianModule(nn.Linear(50, 1), likelihoods.Normal())
        >>> x, y = torch.randn(9, 50), torch.randn(9, 1)
        >>> full = AutoMeanField(model)
        >>> full.setup(x, y)
        >>> guide = AutoShared(model, make_codebook(model.layout, weight_moments(model, full), 16))
        >>> svi = PhasedSVI(model, guide, callbacks=[MergeEntries(num_entries=4, epochs=2)])
        >>> history = svi.run([(x, y)], epochs=3, progress=False)
        >>> guide.codebook().num_entries
        5

    :param float max_distance: merge those no further apart, in their tensor's units.
    :param int num_entries: or as long as a table (of a tensor, as a rule) has more.
    :param int epochs: after every so many epochs.
    :raises ValueError: if neither limit is given, or a number is not positive.

    A checkpoint can be loaded into a guide with the codebook that there was when it was saved: save
    the guide too (:func:`save_shared`), and begin with its codebook.
    """

    def __init__(
        self, max_distance: float | None = None, num_entries: int | None = None, epochs: int = 1
    ) -> None:
        limits = {"max_distance": max_distance, "num_entries": num_entries}
        if max_distance is None and num_entries is None:
            raise ValueError("max_distance, num_entries: expected at least one")
        for name, value in (limits | {"epochs": epochs}).items():
            if value is not None and not value > 0:
                raise ValueError(f"{name}: expected a positive number, got {value}")
        self.max_distance, self.num_entries, self.epochs = max_distance, num_entries, epochs

    def on_run_start(self, svi: PhasedSVI, epochs: int, batches: int | None) -> None:
        if not isinstance(svi.guide, AutoShared):
            raise TypeError(f"guide: expected an AutoShared, got {type(svi.guide).__name__}")

    def on_epoch(self, svi: PhasedSVI) -> None:
        guide = svi.guide
        if svi.epoch % self.epochs:
            return
        before = guide.codebook()
        merged = merge_codebook(before, self.max_distance, self.num_entries)
        if merged.num_entries == before.num_entries:
            return
        assert svi.optimizer is not None
        moves = guide.replace_codebook(merged)
        move_state(svi.optimizer, moves)
        svi.rename_parameters(moves)
