# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What is drawn of codebooks, not how it looks."""

import numpy as np
import pytest
import torch

from pyro_groupprior import Layout
from pyro_groupprior.comparison import WeightMoments
from pyro_groupprior.plots import plot_bits, plot_codebook, plot_densities, plot_sizes
from pyro_groupprior.sharing import bits_a_weight, make_codebook

LAYOUT = Layout([("a", torch.Size([30, 20])), ("b", torch.Size([30]))])
MOMENTS = WeightMoments(torch.linspace(-1, 1, 630), torch.linspace(0.1, 1, 630))
BOOK = make_codebook(LAYOUT, MOMENTS, 3, keep=torch.arange(630) % 2 > 0, outliers=0.1)


def test_points_entries_and_outliers() -> None:
    ax = plot_codebook(BOOK, MOMENTS)
    points, entries, outliers = (np.asarray(c.get_offsets()) for c in ax.collections)
    own = BOOK.outliers.places
    kept = BOOK.kept.clone()
    kept[own] = False
    assert sorted(points[:, 0]) == pytest.approx(MOMENTS.mean[:600][kept[:600]].tolist())
    assert sorted(outliers[:, 1]) == pytest.approx(MOMENTS.sd[own[own < 600]].tolist())
    loc = BOOK.unit[0] * BOOK.loc[1:4]
    assert sorted(entries[:, 0]) == pytest.approx(sorted(loc.tolist()))
    assert len(ax.get_lines()) == 3
    assert ax.get_title() == "a"
    assert plot_codebook(BOOK, MOMENTS, "b").get_title() == "b"
    with pytest.raises(KeyError, match="no packed tensor named 'c'"):
        plot_codebook(BOOK, MOMENTS, "c")


def test_bits_by_tensor() -> None:
    ax = plot_bits(BOOK)
    bits = bits_a_weight(BOOK)
    assert [bar.get_width() for bar in ax.patches] == pytest.approx(list(bits.values()))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]


@pytest.mark.parametrize("blend", [0.0, 0.2])
def test_densities_are_those_of_any_weight(blend: float) -> None:
    keep = torch.arange(630) % 2 > 0
    book = make_codebook(LAYOUT, MOMENTS, 3, keep=keep, outliers=0.1, blend=blend)
    ax = plot_densities(book, MOMENTS, "a")
    *_, total = ax.get_lines()
    grid, density = (torch.as_tensor(value) for value in total.get_data())
    own = keep[:600]
    loc, scale = (value[:600][own] for value in book.moments())
    expected = torch.distributions.Normal(loc, scale).log_prob(grid[:, None]).exp().mean(1)
    torch.testing.assert_close(density, expected.to(density), rtol=1e-4, atol=1e-6)
    path = ax.collections[0].get_paths()[0].vertices
    before = torch.distributions.Normal(MOMENTS.mean[:600][own], MOMENTS.sd[:600][own])
    height = before.log_prob(grid[:, None]).exp().mean(1).max()
    assert path[:, 1].max() == pytest.approx(float(height), rel=1e-3)
    assert len(ax.get_lines()) == 4


def test_sizes_are_in_order() -> None:
    ax = plot_sizes({"a": ([4000, 1000], [0.9, 0.8]), "b": ([2000], [0.7])}, "ECE")
    first, second = ax.get_lines()
    assert first.get_xydata().tolist() == [[1.0, 0.8], [4.0, 0.9]]
    assert second.get_label() == "b"
    assert ax.get_ylabel() == "ECE"
    with pytest.raises(ValueError, match="curves: expected at least one"):
        plot_sizes({})
