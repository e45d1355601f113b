# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""When a regroup is due."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from pyro_groupprior import Cluster, Regroup


class Nothing:
    def propose(self, posterior):
        raise NotImplementedError


@given(
    every=st.integers(1, 7),
    start=st.integers(0, 12),
    stop=st.none() | st.integers(0, 30),
    by_epochs=st.booleans(),
)
def test_due_at_start_plus_multiples_up_to_stop(every, start, stop, by_epochs):
    schedule = Regroup(
        Nothing(), **{"epochs" if by_epochs else "steps": every}, start=start, stop=stop
    )
    due = [
        now
        for now in range(31)
        if schedule.is_due(
            step=now if not by_epochs else 0, epoch=now if by_epochs else 0, epoch_ended=by_epochs
        )
    ]
    last = 30 if stop is None else min(stop, 30)
    assert due == list(range(start + every, last + 1, every))
    # The other kind of moment never counts, or a step at the end of an epoch would count twice.
    assert not any(schedule.is_due(step=n, epoch=n, epoch_ended=not by_epochs) for n in range(31))


def test_strategies_and_clusterers():
    strategy = Nothing()
    assert Regroup(strategy, epochs=1).strategy is strategy
    wrapped = Regroup(KMeans(3), steps=1).strategy
    assert isinstance(wrapped, Cluster) and wrapped.clusterer.n_clusters == 3


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "exactly one"),
        ({"epochs": 1, "steps": 1}, "exactly one"),
        ({"epochs": 0}, "positive"),
        ({"steps": -1}, "positive"),
        ({"epochs": 1, "hyper": "keep"}, "hyper"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        Regroup(Nothing(), **options)


def test_neither_strategy_nor_clusterer():
    with pytest.raises(TypeError, match="scikit-learn clusterer, got str"):
        Regroup("kmeans", epochs=1)
