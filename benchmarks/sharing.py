# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""In how few bytes does LeNet-5 keep its accuracy, and its uncertainty?

LeNet-5 as Caffe has it (431,080 weights) on Fashion-MNIST, 55,000 images to train on, 5,000 to
choose by, 10,000 to score on. Every net is written to a file, read again, and scored as it was
read: the plain net in single precision; in eight bits; shared by k-means, 16 values a tensor;
Deep Compression: pruned to one share after the other and trained after each, then shared by k-means
and trained further; the same of a net pruned in many small steps ("gradual"); and a shared
posterior: of a net pruned in many small steps, given standard deviations by SVI, shared and
trained on. Masks and indices of all of these are coded alike. "posterior" is neither pruned nor
shared. Of each kind the smallest file counts that loses at most half a point on the images to
choose by.
"""

import functools
import hashlib
import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import pyro_groupprior as pgp
from benchmarks import deep_compression as plain
from benchmarks import images, shared_nets, timing
from benchmarks.cells import Cells
from benchmarks.shared_nets import Recipe, Sharing

FOLDER = Path.home() / ".cache" / "pyro_groupprior" / "sharing"
SEEDS, EPOCHS, RATE, FINE, AFTER, CLUSTERS = 3, 15, 1e-3, 6, 2, 16
PRUNING, RECOVERY = 8, 10  # epochs, of gradual pruning
DROP = 0.005
SCORES = ("accuracy", "nll", "ece")
DEEP = (0.3, 0.1, 0.05, 0.03)  # shares of the weights that stay, one after the other
GRADUAL = (0.05, 0.03, 0.02, 0.015, 0.01)
MIDDLE = 0.02  # of the ablation
RECIPE = Recipe(temperature=0.02, epochs=3, rate=5e-4, width=0.05)
SHARING = Sharing()
ABLATION: dict[str, Sharing | Recipe] = {
    "not trained on": replace(SHARING, epochs=0),
    "bits not counted": replace(SHARING, bits=0.0),
    "8 entries, bits not counted": replace(SHARING, entries=8, bits=0.0),
    "32 merged to 16": replace(SHARING, entries=32, merged=16),
    "outliers": replace(SHARING, outliers=0.02),
    "blend": replace(SHARING, blend=0.05),
    "fixed prior": replace(RECIPE, prior="fixed"),
}


class Study:
    """All nets of one seed; those that take long are kept in files."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.train, self.chosen_by, self.test = images.fashion()

    @property
    def loader(self) -> images.Loader:
        """Pass over the images to train on: each stage from the beginning, that it can be cut."""
        return images.Loader(self.train, self.seed)

    def plain(self) -> nn.Module:
        """Train the plain net."""

        def make() -> nn.Module:
            torch.manual_seed(self.seed)
            net = images.lenet()
            plain.train(net, self.loader, EPOCHS, RATE)
            return net

        return self._kept("plain", None, make)

    def pruned(self, share: float) -> nn.Module:
        """Prune the plain net to one share after the other, by magnitude."""
        before = [larger for larger in DEEP if larger > share]

        def make() -> nn.Module:
            net = self.pruned(before[-1]) if before else self.plain()
            return plain.prune(net, [share], self.loader, FINE, RATE)

        return self._kept(f"pruned {share:g}", [FINE, DEEP], make)

    def gradual(self, share: float) -> nn.Module:
        """Prune the plain net in many steps."""

        def make() -> nn.Module:
            return plain.prune_gradually(self.plain(), share, self.loader, PRUNING, RECOVERY, RATE)

        return self._kept(f"gradual {share:g}", [PRUNING, RECOVERY, plain.EVERY], make)

    def posterior(
        self, share: float, recipe: Recipe = RECIPE
    ) -> tuple[pgp.BayesianModule, pgp.AutoMeanField]:
        """Train a posterior."""
        net = self.gradual(share) if share < 1 else self.plain()
        model, guide = shared_nets.untrained(net, self.loader, recipe)
        both = nn.ModuleDict({"model": model, "guide": guide})

        def make() -> nn.Module:
            shared_nets.train_posterior(model, guide, self.loader, recipe)
            return both

        settings = [PRUNING, RECOVERY, plain.EVERY, astuple(recipe), shared_nets.FAST]
        self._kept(f"posterior {share:g}", settings, make, both)
        return model, guide

    def _kept(
        self, name: str, settings: Any, make: Callable[[], nn.Module], into: Any = None
    ) -> nn.Module:
        """Load what was made with the same settings, into a new LeNet-5 as a rule."""
        text = repr([name, EPOCHS, RATE, settings, self.seed])
        path = FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            state = {k: v.contiguous() for k, v in make().state_dict().items()}
            save_file(state, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
        net = images.lenet().eval() if into is None else into
        net.load_state_dict(load_file(path))
        return net


def run(study: Callable[[], Study], what: str) -> dict[str, Any]:
    """Make, write, read and score one net."""
    own = study()
    path = FOLDER / f"lenet {what} {own.seed}"
    kind, _, rest = what.partition(" ")
    draws = None
    found: dict[str, Any] = {}
    if kind == "fp32":
        save_file(own.plain().state_dict(), path)
        net: Any = images.lenet()
        net.load_state_dict(load_file(path))
    elif kind == "int8":
        plain.save_int8(path, own.plain())
        net = plain.load_int8(path, images.lenet())
    elif kind in ("kmeans", "deep", "gradual"):
        makers = {"deep": own.pruned, "gradual": own.gradual}
        net = makers[kind](float(rest)) if rest else own.plain()
        net = plain.quantise(net, CLUSTERS, own.loader, AFTER, RATE / 10)
        found["parts"] = plain.save_values(path, net)
        net = plain.load_values(path, images.lenet())
    elif kind == "posterior":
        model, guide = own.posterior(1.0)
        pgp.save_guide(path, guide)
        found["numbers"] = guide.num_numbers
        net, draws = functools.partial(_drawn, model, guide), shared_nets.DRAWS
    else:
        how = ABLATION.get(rest.partition(" ")[2], SHARING)
        recipe, sharing = (how, SHARING) if isinstance(how, Recipe) else (RECIPE, how)
        model, guide = own.posterior(float(rest.partition(" ")[0]), recipe)
        drawn = functools.partial(_drawn, model, guide)
        torch.manual_seed(own.seed)
        before = shared_nets.log_probs(drawn, own.test[0], shared_nets.DRAWS)
        found["before"] = shared_nets.scores(before, own.test[1])
        _, shared = shared_nets.share(model, guide, own.loader, sharing)
        found["parts"], net = shared_nets.from_file(path, shared, images.lenet())
        found["numbers"], draws = shared.num_numbers, shared_nets.DRAWS
    torch.manual_seed(own.seed)
    for name, (x, y) in (("chosen_by", own.chosen_by), ("test", own.test)):
        found[name] = shared_nets.scores(shared_nets.log_probs(net, x, draws), y)
    return {"bytes": path.stat().st_size, **found}


def miniature() -> dict[str, Any]:
    """Go all the way in seconds: few images, few epochs."""
    study = Study(0)
    loader = images.Loader(tuple(part[:5000] for part in study.train), 0)
    torch.manual_seed(0)
    net = images.lenet()
    plain.train(net, loader, 3, RATE)
    net = plain.prune_gradually(net, MIDDLE, loader, 3, 2, RATE)
    model, guide = shared_nets.untrained(net, loader, RECIPE)
    shared_nets.train_posterior(model, guide, loader, replace(RECIPE, epochs=1))
    _, shared = shared_nets.share(model, guide, loader, replace(SHARING, epochs=1))
    with tempfile.TemporaryDirectory() as folder:
        parts, net = shared_nets.from_file(Path(folder) / "net", shared, images.lenet())
    x, y = (part[:2000] for part in study.test)
    found = shared_nets.scores(shared_nets.log_probs(net, x, shared_nets.DRAWS), y)
    return {"bytes": sum(parts.values()), **found}


def _drawn(model: pgp.BayesianModule, guide: Any, x: Tensor, num_draws: int) -> Tensor:
    return pgp.predict(model, guide, x, num_draws=num_draws).outputs


def names() -> list[str]:
    """List what is made for each seed."""
    return [
        "fp32",
        "int8",
        "kmeans",
        *(f"deep {share:g}" for share in DEEP[1:]),
        *(f"gradual {share:g}" for share in GRADUAL),
        "posterior",
        *(f"shared {share:g}" for share in GRADUAL),
        *(f"shared {MIDDLE:g} {name}" for name in ABLATION),
    ]


def settings() -> dict[str, Any]:
    """List all that results depend on, by kind."""
    first = [EPOCHS, RATE]
    shared = [*first, AFTER, CLUSTERS]
    gradual = [*first, PRUNING, RECOVERY, plain.EVERY]
    ours = [*gradual, astuple(RECIPE), shared_nets.FAST, shared_nets.DRAWS]
    return {
        "fp32": first,
        "int8": first,
        "kmeans": shared,
        "deep": [*shared, FINE, DEEP],
        "gradual": [*gradual, *shared],
        "posterior": ours,
        "shared": [*ours, astuple(SHARING), [astuple(how) for how in ABLATION.values()]],
    }


def summary(cells: Mapping[str, dict[str, Any]]) -> dict[str, float]:
    """Print the table, means over seeds, and give the figures of the bars."""
    rows, means = [], {}
    seeds = [seed for seed in range(SEEDS) if f"shared {MIDDLE:g} {seed}" in cells]
    for name in names():
        runs = [cells[key] for seed in seeds if (key := f"{name} {seed}") in cells]
        if len(runs) < len(seeds) or not runs:
            continue  # means are over the same seeds
        mean = {key: statistics.fmean(run["test"][key] for run in runs) for key in SCORES}
        mean |= {
            "bytes": statistics.fmean(run["bytes"] for run in runs),
            "numbers": statistics.fmean(run.get("numbers", 0) for run in runs),
            "chosen_by": statistics.fmean(run["chosen_by"]["accuracy"] for run in runs),
        }
        means[name] = mean
        shown = [f"{mean[key]:.4f}" for key in SCORES]
        rows.append([name, str(len(runs)), f"{mean['bytes']:,.0f}", *shown])
    timing.print_table("test images, means", ["net", "seeds", "bytes", *SCORES], rows)
    if "fp32" not in means:
        return {}
    first = means["fp32"]
    best = {
        kind: _smallest(
            {n: m for n, m in means.items() if n.startswith(kind) and n.count(" ") == 1},
            first["chosen_by"],
        )
        for kind in ("shared", "deep", "gradual")
    }
    ours = best["shared"]
    if ours is None:
        return {}
    print(f"\nchosen: {best}")
    figures = {
        "accuracy_drop": 100 * (first["accuracy"] - means[ours]["accuracy"]),
        "bytes": means[ours]["bytes"],
        "nll_minus_fp32": means[ours]["nll"] - first["nll"],
        "ece_minus_fp32": means[ours]["ece"] - first["ece"],
    }
    for kind, name in (("deep", "deep_compression"), ("gradual", "gradual")):
        if (theirs := best[kind]) is not None:
            figures[f"bytes_over_{name}"] = means[ours]["bytes"] / means[theirs]["bytes"]
    if "posterior" in means:
        figures["numbers_ratio"] = means["posterior"]["numbers"] / means[ours]["numbers"]
    return figures


def _smallest(means: Mapping[str, Mapping[str, float]], plain_accuracy: float) -> str | None:
    """Name the smallest file of those that lose little on the images to choose by."""
    good = [n for n, mean in means.items() if mean["chosen_by"] >= plain_accuracy - DROP]
    return min(good, key=lambda name: means[name]["bytes"], default=None)


def main() -> None:
    """Run the benchmark."""
    args = timing.parse_args(__doc__)
    cells = Cells("sharing", settings())
    if args.quick:
        print("run now, 5,000 images:", {k: round(v, 3) for k, v in miniature().items()})
    for seed in range(0 if args.quick else SEEDS):
        study = functools.cache(functools.partial(Study, seed))
        for name in names():
            cells.get(f"{name} {seed}", functools.partial(run, study, name))
    print(f"\nall cells, by commit {cells.commits}")
    timing.print_json(summary(cells.cells))


if __name__ == "__main__":
    main()
