# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The documentation's code runs when pasted, and every public name has its place in it."""

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pyro_groupprior as pgp

# Pages train for as long as a reader is willing to wait.
pytestmark = pytest.mark.filterwarnings("ignore::pyro_groupprior.svi.ConvergenceWarning")

DOCS = Path(__file__).parents[2] / "docs"
PUBLIC = {name: getattr(pgp, name) for name in pgp.__all__}


def run(page: str) -> dict[str, Any]:
    """The names that are there when the page's code has run, one block after the other."""
    names: dict[str, Any] = {"__name__": "page"}
    text = (DOCS / page).read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    return names


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_first_page() -> None:
    names = run("index.md")
    assert (
        pgp.metrics.rmse(pgp.predict(names["model"], names["guide"], names["x"]), names["y"]) < 0.4
    )


def test_getting_started(tmp_path: Path) -> None:
    names = run("start.md")
    assert pgp.metrics.rmse(names["again"], names["y"]) < 0.3  # of 0.7 without a model
    assert names["prediction"].mean.shape == names["y"].shape
    assert pgp.metrics.rmse(names["prediction"], names["y"]) < 0.3
    assert len(names["history"].phases) == 3
    assert pgp.adjusted_rand_index(names["groups"].assignment, names["truth"]) > 0.9
    assert (tmp_path / "groups.png").exists()


def test_for_developers(capsys: pytest.CaptureFixture[str]) -> None:
    names = run("developing.md")
    assert names["svi"].should_stop
    assert "churn" in capsys.readouterr().out


def test_all_code_is_run() -> None:
    pages = {page.name for page in DOCS.glob("*.md") if "```python" in page.read_text("utf-8")}
    assert pages == {"index.md", "start.md", "developing.md"}


def test_every_module_has_a_page() -> None:
    index = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    modules = {name for name, value in PUBLIC.items() if isinstance(value, ModuleType)}
    # That of a name at the top level is named after the file or folder that it is in.
    modules |= {
        value.__module__.split(".")[1]
        for value in PUBLIC.values()
        if not isinstance(value, ModuleType)
    }
    listed = set(re.findall(r"^(\w+)$", index, re.MULTILINE))
    pages = {page.stem for page in (DOCS / "api").glob("*.rst")}
    assert listed == pages
    # The page of assignments has both.
    assert modules - {"assignment_buffer"} <= pages


@pytest.mark.parametrize("page", sorted((DOCS / "api").glob("*.rst")), ids=lambda page: page.stem)
def test_pages_name_what_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for kind, path in re.findall(r"^\.\. auto(\w+):: ([\w.]+)$", text, re.MULTILINE):
        if kind == "module":
            importlib.import_module(path)
        else:
            module, _, name = path.rpartition(".")
            assert hasattr(importlib.import_module(module), name)
