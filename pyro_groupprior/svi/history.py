# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What happened during training, as tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class EpochRecord:
    """
    One epoch: ``loss`` is the mean negative ELBO of its steps, with the divergence at ``kl_weight``
    (its weight at the end of the epoch), so that it may rise during a KL warm-up.
    """

    epoch: int
    step: int
    phase: int
    loss: float
    learning_rate: float
    kl_weight: float


@dataclass(frozen=True)
class PhaseRecord:
    """
    One regroup: ``churn`` is the share of the weights that changed group, after matching;
    ``rand_index`` the adjusted Rand index between the groups before and after; ``cost`` what it
    costs to state the new groups, in nats (:func:`~pyro_groupprior.assignment_cost`); ``accepted``
    whether the proposal was taken, else the groups stayed; ``gain`` by how much it raises the ELBO
    less the cost, where that was asked for. ``sizes``, ``locs`` and ``scales`` are those of the
    groups of the new phase at its start, the latter two in units of the base scale (posterior
    medians). ``sources`` is, for each new group, the old one that it continues, or -1; ``flows``
    how many weights went from which old group to which new one
    (:func:`~pyro_groupprior.regrouping.flows`).
    """

    name: str
    phase: int
    epoch: int
    step: int
    churn: float
    num_groups: int
    sizes: tuple[float, ...]
    locs: tuple[float, ...]
    scales: tuple[float, ...]
    rand_index: float = float("nan")
    cost: float = float("nan")
    accepted: bool = True
    gain: float | None = None
    sources: tuple[int, ...] = ()
    flows: tuple[tuple[int, int, float], ...] = ()


@dataclass
class History:
    """
    Losses by epoch and groups by phase.

    Example::

        >>> history = History()
        >>> history.epochs.append(EpochRecord(1, 10, 0, 3.5, 0.01, 1.0))
        >>> history.to_frame().loc[0, "loss"]
        np.float64(3.5)
    """

    epochs: list[EpochRecord] = field(default_factory=list)
    phases: list[PhaseRecord] = field(default_factory=list)

    def to_frame(self, which: str = "epochs") -> pd.DataFrame:
        """
        The records as a table, without the flows.

        :param str which: ``"epochs"`` or ``"phases"``.
        :raises ValueError: if it is neither.
        """
        import pandas as pd  # slow to import, and needed here only

        if which not in ("epochs", "phases"):
            raise ValueError(f'which: expected "epochs" or "phases", got {which!r}')
        kind = EpochRecord if which == "epochs" else PhaseRecord
        columns = [column.name for column in fields(kind) if column.name != "flows"]
        return pd.DataFrame([asdict(record) for record in getattr(self, which)], columns=columns)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for a file."""
        # Not by asdict, which copies each number: a long run is saved many times.
        return {
            "epochs": [dict(vars(record)) for record in self.epochs],
            "phases": [asdict(record) for record in self.phases],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> History:
        """The inverse of :meth:`to_dict`."""
        epochs = [EpochRecord(**record) for record in data["epochs"]]
        phases = []
        for record in data["phases"]:
            several = ("sizes", "locs", "scales", "sources")  # files of before have no sources
            values: dict[str, Any] = {key: tuple(record.get(key, ())) for key in several}
            values["flows"] = tuple(tuple(flow) for flow in record.get("flows", ()))
            phases.append(PhaseRecord(**{**record, **values}))
        return cls(epochs, phases)
