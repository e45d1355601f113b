# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""
Group priors on real data: a regression (Concrete) and a classification (digits), each with a net
under a fixed prior, a learned prior per layer, one per column (a unit's outgoing weights), and
groups that are found while training. Run as ``python -m tutorials.demo``.

It prints scores on rows not trained on, the groups and how they came about, and writes pictures
and, for ArviZ, a NetCDF file for each data set.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

from pyro_groupprior.datatree import to_datatree

from . import demo_pictures, demo_tables
from .demo_data import LOADERS
from .demo_fit import PRIORS, fit

NUM_SAVED_DRAWS = 500


def run(name: str, position: int, part: str, folder: Path) -> str:
    """
    Everything for one data set.

    :param str name: one of :data:`~tutorials.demo_data.LOADERS`.
    :param int position: line of its progress bar.
    :param str part: rows to score on, ``"test"`` or ``"validation"``.
    :param Path folder: where the files go.
    :return: the tables, and the names of the files.
    """
    torch.set_num_threads(1)  # each data set has a core of its own
    data = LOADERS[name](part)
    fits = {prior: fit(data, prior, position) for prior in PRIORS}
    text = demo_tables.report(data, fits)
    paths = demo_pictures.save_all(data, fits, folder)
    best = fits["dynamic"]
    tree = to_datatree(best.model, best.guide, data.x, data.y, NUM_SAVED_DRAWS, new_x=data.new_x)
    paths.append(folder / f"{name}.nc")
    tree.to_netcdf(paths[-1], engine="h5netcdf")
    return "\n".join([text, "", "Written: " + " ".join(str(path) for path in paths), ""])


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder to fill")
    parser.add_argument(
        "--validate",
        action="store_true",
        help="leave the test rows out and score on a fifth of the others: to choose settings",
    )
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    part = "validation" if args.validate else "test"
    start = time.perf_counter()
    # New processes, not copies of this one: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        len(LOADERS), context, initializer=tqdm.set_lock, initargs=(context.RLock(),)
    ) as pool:
        jobs = [
            pool.submit(run, name, position, part, args.output)
            for position, name in enumerate(LOADERS)
        ]
        for job in jobs:
            print(job.result())
    print(
        "NLL: negative log predictive density; after ± a standard error over the rows scored. "
        f"Coverage: of {demo_tables.LEVEL:.0%} intervals.\nECE: expected calibration error. "
        "Seconds: wall time of the training, one data set a core.\n"
        "The dynamic prior reads its groups off the rows it is trained on, so that its loss is no "
        "bound on the evidence:\ncompare priors by the rows they were not trained on.\n"
        f"All of it took {time.perf_counter() - start:.0f} seconds."
    )


if __name__ == "__main__":
    main()
