# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What is drawn of codebooks, not how it looks."""

import numpy as np
import pytest
import torch

from pyro_groupprior import Layout
from pyro_groupprior.comparison import WeightMoments
from pyro_groupprior.plots import plot_bits, plot_codebook
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
