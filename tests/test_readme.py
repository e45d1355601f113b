# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The README's code runs when pasted."""

import re
from pathlib import Path
from typing import Any

import pytest

import pyro_groupprior as pgp

README = Path(__file__).parent.parent / "README.md"


def test_code_blocks_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 6
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert len(names["history"].phases) == 3
    assert pgp.metrics.rmse(names["prediction"], names["y"]) < 0.3  # of 0.66 without a model
    assert names["groups"].assignment.num_groups == 5
    shared = names["module"](names["x"], num_draws=20)
    assert float((shared.mean(0) - names["y"]).square().mean().sqrt()) < 0.3
    assert (tmp_path / "posterior.pgp").stat().st_size < 1500
    compact = pgp.predict(names["compact"].model, names["compact"], names["x"])
    assert pgp.metrics.rmse(compact, names["y"]) < 0.3
