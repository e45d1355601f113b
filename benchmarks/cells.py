# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Results of long studies, kept cell by cell in a small file, so that they can be continued."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


class Cells:
    """Results by the name of their cell, in ``benchmarks/results/NAME.json``.

    Those made with other settings are left out, and the file keeps only what was read or made
    with the present ones. Every cell knows the commit that made it.

    :param str name: Name of the study.
    :param settings: All that the results depend on besides the code, by the cell's first word or
        ``""`` for all; plain values.
    """

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        self.path = FOLDER / f"{name}.json"
        self.settings = json.loads(json.dumps(settings))
        self.cells: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            stored = json.loads(self.path.read_text())
            self.cells = {k: v for k, v in stored.items() if v["settings"] == self._of(k)}

    def get(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Give a cell's result; make and keep it first where there is none."""
        if name not in self.cells:
            made = make()
            self.cells[name] = {"commit": commit(), **made, "settings": self._of(name)}
            self._write({name: self.cells[name]})
            print(name, {k: v for k, v in made.items() if isinstance(v, (int, float))}, flush=True)
        return self.cells[name]

    @property
    def commits(self) -> str:
        """The commits that made the results."""
        return ", ".join(sorted({cell["commit"] for cell in self.cells.values()})) or "none"

    def _of(self, name: str) -> Any:
        return self.settings.get(name.split()[0], self.settings.get(""))

    def _write(self, new: dict[str, Any]) -> None:
        # Read again: another process may have added cells of the same study.
        stored = json.loads(self.path.read_text()) if self.path.exists() else {}
        stored = {k: v for k, v in stored.items() if v["settings"] == self._of(k)} | new
        self.path.parent.mkdir(exist_ok=True)
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(dict(sorted(stored.items())), indent=1) + "\n")
        os.replace(temporary, self.path)


def commit() -> str:
    """Name the present commit, where there is one."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER.parent)
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"
