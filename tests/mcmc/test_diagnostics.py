# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

import arviz
import numpy as np
import pytest
import torch

from pyro_groupprior.mcmc.diagnostics import diagnose


def test_the_worst_element_by_arviz() -> None:
    draws = torch.randn(4, 50, 3, 2, dtype=torch.double)
    draws[2, :, 1, 0] += 2  # one chain is elsewhere
    found = diagnose({"a": draws, "b": draws[..., 0, 0]})
    elements = [draws[:, :, i, j].numpy() for i in range(3) for j in range(2)]
    assert found.loc["a", "rhat"] == pytest.approx(max(map(arviz.rhat, elements)))
    assert found.loc["a", "rhat"] > 1.2
    for kind in ("bulk", "tail"):
        least = min(arviz.ess(element, method=kind) for element in elements)
        assert found.loc["a", f"ess_{kind}"] == pytest.approx(least)
    assert found.loc["b", "rhat"] == pytest.approx(arviz.rhat(elements[0]))


def test_one_chain_is_judged_by_its_halves() -> None:
    drifting = torch.linspace(0, 5, 101) + torch.randn(101)
    assert diagnose({"z": drifting[None]}).loc["z", "rhat"] > 1.3


def test_what_never_changes_is_left_out() -> None:
    draws = torch.randn(2, 20, 2)
    draws[..., 1] = 3.0
    found = diagnose({"z": draws, "constant": torch.ones(2, 20)})
    assert np.isfinite(found.loc["z"]).all()
    assert np.isnan(found.loc["constant"]).all()


def test_too_few() -> None:
    draws = torch.randn(2, 20, 3)
    draws[1, 4, 2] = torch.nan
    with pytest.raises(ValueError, match="draws: expected finite numbers of 'z', got NaN or inf"):
        diagnose({"z": draws})
    with pytest.raises(ValueError, match="draws: expected at least 8 a chain, got 7"):
        diagnose({"z": torch.randn(2, 7)})
