# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Can a net of tens of millions of weights share its posterior, on two cores?

Synthetic posteriors in the shape of ResNet-50 (25.6 million weights) and ViT-B/16 (86.6 million):
means as wide as initialisation makes them, with heavy tails; standard deviations log-normal, about
a tenth of that. Of each a codebook is made (16 entries a tensor, one weight in a hundred between
two entries, one in a thousand an outlier), merged down to 8 entries a tensor, written to a file and
read again, and its moments are compared with those before. Seconds on the clock, the most memory of
the whole process in GiB, and bits a weight of the file.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import timing
from pyro_groupprior import Layout
from pyro_groupprior.comparison import WeightMoments
from pyro_groupprior.sharing import load_codebook, make_codebook, merge_codebook, save_codebook

Shapes = list[tuple[str, torch.Size]]


def resnet50() -> Shapes:
    """List the tensors of ResNet-50."""

    def tensors() -> Iterator[tuple[str, tuple[int, ...]]]:
        def conv(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
            yield f"{name}.conv.weight", shape
            yield f"{name}.norm.weight", shape[:1]
            yield f"{name}.norm.bias", shape[:1]

        yield from conv("stem", 64, 3, 7, 7)
        inputs = 64
        for stage, (number, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)]):
            for block in range(number):
                name = f"stage{stage}.{block}"
                yield from conv(f"{name}.1", width, inputs, 1, 1)
                yield from conv(f"{name}.2", width, width, 3, 3)
                yield from conv(f"{name}.3", 4 * width, width, 1, 1)
                if block == 0:
                    yield from conv(f"{name}.skip", 4 * width, inputs, 1, 1)
                inputs = 4 * width
        yield "head.weight", (1000, 2048)
        yield "head.bias", (1000,)

    return [(name, torch.Size(shape)) for name, shape in tensors()]


def vit_b() -> Shapes:
    """List the tensors of ViT-B/16."""
    size = 768
    found: dict[str, tuple[int, ...]] = {
        "patch.weight": (size, 3, 16, 16),
        "patch.bias": (size,),
        "class": (1, 1, size),
        "position": (1, 197, size),
    }
    for block in range(12):
        layers = {"qkv": (3 * size, size), "out": (size, size), "up": (4 * size, size)}
        for name, shape in (layers | {"down": (size, 4 * size)}).items():
            found |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
        for norm in ("norm1", "norm2"):
            found |= {f"{block}.{norm}.weight": (size,), f"{block}.{norm}.bias": (size,)}
    found |= {"norm.weight": (size,), "norm.bias": (size,)}
    found |= {"head.weight": (1000, size), "head.bias": (1000,)}
    return [(name, torch.Size(shape)) for name, shape in found.items()]


NETS = {"25m": resnet50, "86m": vit_b}


def posterior(layout: Layout) -> WeightMoments:
    """Draw means and standard deviations."""
    generator = torch.Generator().manual_seed(0)
    mean, sd = torch.empty(layout.num_weights), torch.empty(layout.num_weights)
    for entry in layout:
        fan_in = entry.shape[1:].numel() or 1
        own = torch.randn(entry.size, generator=generator)
        own *= 1 + own.square() / 6  # heavier tails than a normal distribution's
        mean[entry.slice] = own * fan_in**-0.5
        width = 0.5 * torch.randn(entry.size, generator=generator) - 2.3
        sd[entry.slice] = width.exp() * fan_in**-0.5
    return WeightMoments(mean, sd)


def run(kind: str) -> dict[str, float]:
    """Measure one net."""
    layout = Layout(NETS[kind]())
    moments = posterior(layout)
    seconds = {}
    start = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal start
        seconds[name] = time.perf_counter() - start
        start = time.perf_counter()

    codebook = make_codebook(layout, moments, 16, blend=0.01, outliers=0.001)
    lap("make")
    merged = merge_codebook(codebook, num_entries=8)
    lap("merge")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "posterior"
        save_codebook(path, merged)
        lap("save")
        again, _ = load_codebook(path)
        lap("load")
        bits = 8 * path.stat().st_size / layout.num_weights
    same = all(torch.equal(a, b) for a, b in zip(again.moments(), merged.moments(), strict=True))
    if not same:
        raise AssertionError("the file gives back other moments")
    error = (merged.moments()[0] - moments.mean).square().mean() / moments.mean.square().mean()
    rows = [[name, f"{value:.1f}"] for name, value in seconds.items()]
    title = f"{kind}: {layout.num_weights:,} weights, relative squared error {float(error):.3f}"
    timing.print_table(title, ["what", "s"], rows)
    return {
        "seconds": sum(seconds.values()),
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "bits": bits,
    }


def main() -> None:
    """Run the benchmark; each net in a process of its own, whose memory is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within two minutes")
    parser.add_argument("--only", choices=NETS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        timing.print_json(run(args.only))
        return
    figures: dict[str, float] = {}
    for kind in list(NETS)[: 1 if args.quick else None]:
        command = [sys.executable, "-m", "benchmarks.sharing_scale", "--only", kind]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        if done.returncode:
            raise RuntimeError(done.stderr)
        table, _, found = done.stdout.strip().rpartition("\n")
        print(table)
        figures |= {f"{k}_{kind}": v for k, v in json.loads(found).items()}
    if "seconds_86m" in figures:
        figures["growth_86m_over_25m"] = figures["seconds_86m"] / figures["seconds_25m"]
    timing.print_json(figures)


if __name__ == "__main__":
    main()
