# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""
Saved posteriors for every ArviZ. ``python -m tests.datatree.saved --python python3.12`` writes
them with this Python, runs ``arviz_check.py`` on them with the ArviZ that is installed here, then
with the newest that pip finds for the other Python, in an environment of its own.
"""

import argparse
import functools
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_diabetes
from torch import nn

import pyro_groupprior as pgp

NAMES = ("chains.nc", "other.nc", "guide.nc")
NEEDED = ("arviz", "matplotlib", "h5netcdf", "h5py")


def write(folder: Path) -> dict[str, torch.Tensor]:
    """Write chains of two models, and draws of a guide; gives the first's draws."""
    torch.manual_seed(0)
    features, target = (torch.tensor(part).float() for part in load_diabetes(return_X_y=True))
    x = ((features - features.mean(0)) / features.std(0))[:120]
    y = ((target - target.mean()) / target.std())[:120, None]
    first: dict[str, torch.Tensor] = {}
    priors: dict[str, dict[str, Any]] = {
        "chains.nc": {"grouping": "layer"},
        "other.nc": {"loc": 0.0, "scale": 1.0},
    }
    options = {"num_chains": 4, "num_samples": 100, "warmup_steps": 200, "num_steps": 10}
    for name, prior in priors.items():
        model = pgp.BayesianModule(nn.Linear(10, 1), pgp.likelihoods.Normal(), **prior)
        draws = pgp.mcmc.run_hmc(model, x, y, progress=False, **options)
        pgp.to_datatree(model, draws, x, y, prior=True).to_netcdf(folder / name, engine="h5netcdf")
        first = first or dict(draws)
    guide = pgp.AutoFullRank(model)
    adam = functools.partial(torch.optim.Adam, lr=0.02)
    svi = pgp.PhasedSVI(model, guide, adam)
    svi.run([(x, y)], epochs=600, progress=False)
    tree = pgp.to_datatree(model, guide, x, y, num_draws=1000, training=svi)
    tree.to_netcdf(folder / "guide.nc", engine="h5netcdf")
    return first


def main() -> int:
    """Run all; 0 if nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default="python3.12", help="another Python, for ArviZ 1.x")
    other = parser.parse_args().python
    check = Path(__file__).with_name("arviz_check.py")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        paths = [str(folder / name) for name in NAMES]
        failed = subprocess.run([sys.executable, check, *paths]).returncode
        subprocess.run([other, "-m", "venv", folder / "venv"], check=True)
        python = folder / "venv" / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", *NEEDED], check=True)
        failed += subprocess.run([python, check, *paths]).returncode
    print("all ran" if not failed else "some FAILED")
    return failed


if __name__ == "__main__":
    sys.exit(main())
