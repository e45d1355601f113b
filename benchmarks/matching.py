# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Are rearranged units found again, and how fast?

The units of nets, newly initialised each time, are rearranged at random (an MLP 784-512-512-10, a
residual convolutional net with three blocks of 64 channels, a transformer of two layers with four
heads), as they are and with noise of a tenth of each tensor's standard deviation added, and then
matched with the net. "found": the share in which every unit is back in its place; "plain": the
descent as git-re-basin publishes it (Ainsworth et al. 2023, algorithm 1), from where the units are,
in our own words; "its similarity": over ours. Last, 1,000 nets 784-512-10 that have nothing in
common are aligned to their mean on two cores, as samples of different modes would be.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks import timing
from benchmarks.nets import ResidualBlock, relu_net
from pyro_groupprior.symmetry import Match, Matcher, Symmetry, align, blocks, find_symmetry

Tensors = dict[str, Tensor]
NOISE = 0.1


def residual() -> nn.Module:
    """Build a residual convolutional net."""
    blocks_of = [ResidualBlock(64, 64, 1) for _ in range(3)]
    stem = nn.Conv2d(3, 64, 3, padding=1)
    return nn.Sequential(stem, *blocks_of, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def transformer() -> nn.Module:
    """Build a small transformer."""
    layers = [
        nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=first)
        for first in (False, True)
    ]
    return nn.Sequential(nn.Linear(16, 64), *layers, nn.Flatten(), nn.Linear(64 * 8, 10))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {  # input; how many
    "mlp": (lambda: relu_net(784, (512, 512), 10), (2, 784), 100),
    "residual": (residual, (2, 3, 8, 8), 50),
    "transformer": (transformer, (2, 8, 16), 50),
}


def moved_and_matched(
    symmetry: Symmetry, weights: Tensors, seed: int, noise: float
) -> tuple[bool, bool, Match, Match]:
    """Rearrange units and match them: found, found by plain descent, and both matches."""
    generator = torch.Generator().manual_seed(seed)
    moved = symmetry.apply(weights, symmetry.random(generator))
    noisy = {
        name: value
        + noise * value.std(correction=0) * torch.randn(value.shape, generator=generator)
        for name, value in moved.items()
    }
    matcher, sample = Matcher(symmetry, blocks(symmetry, weights)), blocks(symmetry, noisy)
    ours = matcher.match(sample, generator=generator)
    plain = matcher.match(sample, generator=generator, anchor=False)
    back = [symmetry.apply(moved, match.permutation) for match in (ours, plain)]
    found = [all(torch.equal(one[name], weights[name]) for name in weights) for one in back]
    return found[0], found[1], ours, plain


def weights_of(make: Callable[[], nn.Module], seed: int) -> Tensors:
    """Initialise a net."""
    torch.manual_seed(seed)
    return {name: value.detach() for name, value in make().named_parameters()}


def recovery(kind: str, number: int | None = None) -> dict[str, float]:
    """Match rearrangements of many nets, without and with noise."""
    make, shape, count = NETS[kind]
    torch.manual_seed(0)
    symmetry = find_symmetry(make().eval(), torch.randn(shape))
    figures, rows = {}, []
    for noise in (0.0, NOISE):
        start = time.perf_counter()
        runs = [
            moved_and_matched(symmetry, weights_of(make, s), s, noise)
            for s in range(number or count)
        ]
        seconds = (time.perf_counter() - start) / len(runs) / 2
        ending = "_noise" if noise else ""
        share = statistics.fmean(found for found, *_ in runs)
        plain = statistics.fmean(found for _, found, *_ in runs)
        ratio = statistics.fmean(two.similarity / one.similarity for *_, one, two in runs)
        figures |= {
            f"recovered_{kind}{ending}": share,
            f"plain_recovered_{kind}{ending}": plain,
            f"plain_similarity_{kind}{ending}": ratio,
        }
        cells = [f"{share:.2f}", f"{plain:.2f}", f"{ratio:.3f}", f"{seconds:.2f}"]
        rows.append([f"{noise:g}", str(len(runs)), *cells])
    header = ["noise", "runs", "found", "plain", "its similarity", "s a match"]
    timing.print_table(f"{kind}: axes {symmetry.axes}", header, rows)
    return figures


def thousand(number: int) -> float:
    """Align wide nets to their mean: seconds."""
    symmetry = find_symmetry(relu_net(784, (512,), 10), torch.randn(2, 784))
    each = [weights_of(lambda: relu_net(784, (512,), 10), seed) for seed in range(number)]
    samples = {name: torch.stack([one[name] for one in each]) for name in each[0]}
    start = time.perf_counter()
    align(samples, symmetry, n_jobs=2)
    return time.perf_counter() - start


def main() -> None:
    """Run the benchmark."""
    args = timing.parse_args(__doc__)
    figures: dict[str, float] = {}
    for kind in NETS:
        figures |= recovery(kind, 3 if args.quick else None)
    number = 50 if args.quick else 1000
    figures[f"seconds_{number}"] = seconds = thousand(number)
    print(f"\n{number} nets 784-512-10 aligned to their mean: {seconds:.1f} s")
    timing.print_json(figures)


if __name__ == "__main__":
    main()
