# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Saved posteriors under the ArviZ that is installed; ``saved.py`` does so under another too."""

import warnings

import numpy as np
import pytest

from tests.datatree import arviz_check, saved


@pytest.mark.filterwarnings("ignore")
def test_all_statistics_and_plots_run(tmp_path, capsys):
    draws = saved.write(tmp_path)
    paths = [str(tmp_path / name) for name in saved.NAMES]
    with warnings.catch_warnings():
        assert arviz_check.main(paths) == 0
    printed = capsys.readouterr().out
    assert "FAILED" not in printed and printed.count("ran ") >= 12
    chains, _, guide = arviz_check.open_trees(paths)
    assert np.allclose(chains["posterior"]["noise"].mean(), draws["noise"].double().mean())
    assert np.allclose(
        chains["posterior"]["weight"].mean(("chain", "draw")), draws["weights"][:, :10].mean(0),
        atol=1e-5,
    )  # fmt: skip
    # A linear net's posterior is nearly normal: smoothed importance sampling finds no fault.
    assert arviz_check.pareto_k(guide) < 0.7
