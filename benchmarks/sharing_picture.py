# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Draw what ``sharing`` and ``sharing_cifar`` have stored: scores against the bytes of files."""

import argparse
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt

from benchmarks import compressed, sharing, sharing_cifar
from benchmarks.cells import Cells
from pyro_groupprior.plots import plot_sizes

KINDS = {
    "deep": "Deep Compression",
    "gradual": "pruned gradually, k-means",
    "shared": "shared posterior",
}
SINGLE = {"kmeans": "k-means", "int8": "8 bits", "fp32": "32 bits"}
SCORES = {"accuracy": "accuracy", "nll": "negative log-likelihood", "ece": "calibration error"}


def draw(title: str, means: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw one row of pictures, one for each score, whose sizes are on a logarithmic scale."""
    figure, axes = plt.subplots(1, len(SCORES), figsize=(12, 3.6), layout="constrained")
    for score, ax in zip(SCORES, axes, strict=True):
        curves = {}
        for kind, label in KINDS.items():
            points = [m for n, m in means.items() if n.split()[0] == kind and n.count(" ") == 1]
            if points:
                curves[label] = [m["bytes"] for m in points], [m[score] for m in points]
        for kind, label in SINGLE.items():
            if kind in means:
                curves[label] = [means[kind]["bytes"]], [means[kind][score]]
        ax.set_xscale("log")
        plot_sizes(curves, SCORES[score], ax)
        if score != "accuracy":
            ax.get_legend().remove()
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Draw both nets' pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    folder = parser.parse_args().folder
    for name, study, title in (
        ("sharing", sharing, "LeNet-5 on Fashion-MNIST, test images"),
        ("sharing_cifar", sharing_cifar, "ResNet-20 on CIFAR-10, test images"),
    ):
        cells = Cells(name, study.PLAN.settings()).cells
        seeds = sorted({int(key.split()[-1]) for key in cells})
        means = compressed.print_means(study.PLAN, cells, seeds)
        if means:
            draw(title, means, folder / f"{name}.png")


if __name__ == "__main__":
    main()
