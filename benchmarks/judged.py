# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What the judge has kept of its long runs, for candidates to be held against in seconds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from benchmarks import datasets, scoring
from benchmarks.cells import FOLDER

JUDGE = FOLDER / "judge"
NETS = {"one": (50,), "two": (50, 50)}
SPLITS = 2


def path_of(name: str, net: str, seed: int) -> Path:
    """Name a cell's file."""
    return JUDGE / f"{name}_{net}_{seed}.safetensors"


def scores(arrays: dict[str, np.ndarray], split: datasets.Split) -> dict[str, float]:
    """Score the kept draws of all chains as a mixture."""
    function, noise = (torch.tensor(arrays[key]).flatten(0, 1) for key in ("function", "noise"))
    return scoring.score(function, noise, split)


def read(name: str, net: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Read a cell's arrays and figures, if it is there."""
    path = path_of(name, net, seed)
    if not path.exists():
        return None
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return load_file(path), json.loads(header["__metadata__"]["judge"])
