# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""One net in as few bytes as it bears, in several ways, each of which is scored as it was read.

The plain net in single precision; in eight bits; shared by k-means; Deep Compression: pruned to one
share after the other and trained after each, then shared by k-means and trained further; the same
of a net pruned in many small steps ("gradual"); and a shared posterior: of a net pruned in many
small steps, given standard deviations by SVI, shared and trained on. Masks and indices of all of
these are coded alike. "posterior" is neither pruned nor shared.
"""

import functools
import hashlib
import statistics
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import pyro_groupprior as pgp
from benchmarks import deep_compression as plain
from benchmarks import images, shared_nets, timing
from benchmarks.shared_nets import Recipe, Sharing

FOLDER = Path.home() / ".cache" / "pyro_groupprior" / "sharing"
DROP = 0.005
SCORES = ("accuracy", "nll", "ece")


@dataclass(frozen=True)
class Plan:
    """What is compressed, and how.

    :param str name: Of the net.
    :param make: Builds the net.
    :param data: Gives rows to train on, to choose by, and to score on.
    :param elsewhere: Gives inputs of other data, which a net is to be unsure of.
    :param bool augment: Whether images are shifted and mirrored in training.
    :param int epochs: Of the plain net's training, and of each step of Deep Compression (``fine``),
        after sharing by k-means (``after``), of gradual pruning and after it (``recovery``).
    :param training: Of plain nets.
    :param float smoothing: Of the labels, while nets are pruned.
    :param float after_rate: Learning rate of the values that k-means has found, by Adam.
    :param deep: Shares of the weights that stay, one after the other.
    :param gradual: Shares of the weights that stay.
    :param units: Shares of the units that stay, by axis; a mask of whole rows takes fewer bytes.
    """

    name: str
    make: Callable[[], nn.Module]
    data: Callable[[], tuple[images.Rows, images.Rows, images.Rows]]
    epochs: int
    fine: int
    after: int
    pruning: int
    recovery: int
    deep: tuple[float, ...]
    gradual: tuple[float, ...]
    recipe: Recipe
    sharing: Sharing
    training: plain.Training = field(default_factory=plain.Training)
    smoothing: float = 0.0
    after_rate: float = 1e-4
    clusters: int = 16
    units: Mapping[str, float] = field(default_factory=dict)
    draws: int = shared_nets.DRAWS
    elsewhere: Callable[[], Tensor] | None = None
    augment: bool = False
    ablation: Mapping[str, Sharing | Recipe] = field(default_factory=dict)
    ablated: float = 0.0

    def names(self) -> list[str]:
        """List what is made for each seed."""
        return [
            "fp32",
            "int8",
            "kmeans",
            *(f"deep {share:g}" for share in self.deep[1:]),
            *(f"gradual {share:g}" for share in self.gradual),
            "posterior",
            *(f"shared {share:g}" for share in self.gradual),
            *(f"shared {self.ablated:g} {name}" for name in self.ablation),
        ]

    def deeply(self) -> list[Any]:
        """List what nets depend on that Deep Compression has pruned."""
        return [self.fine, self.deep, *filter(None, [self.smoothing])]

    def gradually(self) -> list[Any]:
        """List what nets depend on that were pruned in many steps."""
        smoothing = filter(None, [self.smoothing])
        return [self.pruning, self.recovery, plain.EVERY, *self.units.items(), *smoothing]

    def settings(self) -> dict[str, Any]:
        """List all that results depend on, by kind."""
        first = [self.epochs, astuple(self.training)]
        shared = [*first, self.after, self.after_rate, self.clusters]
        gradual = [*first, *self.gradually()]
        ours = [*gradual, astuple(self.recipe), shared_nets.FAST, self.draws]
        ablation = [astuple(how) for how in self.ablation.values()]
        return {
            "fp32": first,
            "int8": first,
            "kmeans": shared,
            "deep": [*shared, *self.deeply()],
            "gradual": [*gradual, *shared],
            "posterior": ours,
            "shared": [*ours, astuple(self.sharing), ablation],
        }


class Study:
    """All nets of one seed; those that take long are kept in files."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self.plan, self.seed = plan, seed
        self.train, self.chosen_by, self.test = plan.data()

    @property
    def loader(self) -> images.Loader:
        """Pass over the images to train on: each stage from the beginning, that it can be cut."""
        return images.Loader(self.train, self.seed, self.plan.augment)

    def plain(self) -> nn.Module:
        """Train the plain net."""

        def make() -> nn.Module:
            torch.manual_seed(self.seed)
            net = self.plan.make()
            plain.train(net, self.loader, self.plan.epochs, self.plan.training)
            return net

        return self._kept("plain", None, make)

    def pruned(self, share: float) -> nn.Module:
        """Prune the plain net to one share after the other, by magnitude."""
        before = [larger for larger in self.plan.deep if larger > share]

        def make() -> nn.Module:
            net = self.pruned(before[-1]) if before else self.plain()
            how = self.plan.training, self.plan.smoothing
            return plain.prune(net, [share], self.loader, self.plan.fine, *how)

        return self._kept(f"pruned {share:g}", self.plan.deeply(), make)

    def gradual(self, share: float) -> nn.Module:
        """Prune the plain net in many steps."""
        plan = self.plan

        def make() -> nn.Module:
            how = plan.pruning, plan.recovery, plan.training, plan.units, plan.smoothing
            return plain.prune_gradually(self.plain(), share, self.loader, *how)

        return self._kept(f"gradual {share:g}", plan.gradually(), make)

    def posterior(
        self, share: float, recipe: Recipe | None = None
    ) -> tuple[pgp.BayesianModule, pgp.AutoMeanField]:
        """Train a posterior."""
        recipe = recipe or self.plan.recipe
        net = self.gradual(share) if share < 1 else self.plain()
        model, guide = shared_nets.untrained(net, self.loader, recipe)
        both = nn.ModuleDict({"model": model, "guide": guide})

        def make() -> nn.Module:
            shared_nets.train_posterior(model, guide, self.loader, recipe)
            return both

        settings = [*self.plan.gradually(), astuple(recipe), shared_nets.FAST]
        self._kept(f"posterior {share:g}", settings, make, both)
        return model, guide

    def _kept(
        self, name: str, settings: Any, make: Callable[[], nn.Module], into: Any = None
    ) -> nn.Module:
        """Load what was made with the same settings, into a new net as a rule."""
        plan = self.plan
        text = repr([plan.name, name, plan.epochs, astuple(plan.training), settings, self.seed])
        path = FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            state = {k: v.contiguous() for k, v in make().state_dict().items()}
            save_file(state, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
        net = plan.make().eval() if into is None else into
        net.load_state_dict(load_file(path))
        return net


def run(study: Callable[[], Study], what: str) -> dict[str, Any]:
    """Make, write, read and score one net."""
    own = study()
    plan = own.plan
    path = FOLDER / f"{plan.name} {what} {own.seed}"
    kind, _, rest = what.partition(" ")
    draws = None
    found: dict[str, Any] = {}
    if kind == "fp32":
        save_file(own.plain().state_dict(), path)
        net: Any = plan.make()
        net.load_state_dict(load_file(path))
        net.eval()
    elif kind == "int8":
        net = plain.rounded(own.plain(), own.loader)
        plain.save_int8(path, net)
        net = plain.load_int8(path, plan.make())
    elif kind in ("kmeans", "deep", "gradual"):
        makers = {"deep": own.pruned, "gradual": own.gradual}
        net = makers[kind](float(rest)) if rest else own.plain()
        net = plain.quantise(net, plan.clusters, own.loader, plan.after, plan.after_rate)
        found["parts"] = plain.save_values(path, net)
        net = plain.load_values(path, plan.make())
    elif kind == "posterior":
        model, guide = own.posterior(1.0)
        pgp.save_guide(path, guide)
        found["numbers"] = guide.num_numbers
        net, draws = functools.partial(_drawn, model, guide), plan.draws
    else:
        how = plan.ablation.get(rest.partition(" ")[2], plan.sharing)
        recipe, sharing = (how, plan.sharing) if isinstance(how, Recipe) else (plan.recipe, how)
        model, guide = own.posterior(float(rest.partition(" ")[0]), recipe)
        draws = plan.draws
        found["before"] = _scores(own, functools.partial(_drawn, model, guide), draws)["test"]
        _, shared = shared_nets.share(model, guide, own.loader, sharing)
        found["parts"], net = shared_nets.from_file(path, shared, plan.make())
        found["numbers"] = shared.num_numbers
    return {"bytes": path.stat().st_size, **found, **_scores(own, net, draws)}


def _scores(study: Study, net: Any, draws: int | None) -> dict[str, Any]:
    """Score on the rows to choose by, on those to score on, and on data from elsewhere."""
    torch.manual_seed(study.seed)
    found = {}
    for name, (x, y) in (("chosen_by", study.chosen_by), ("test", study.test)):
        log_probs = shared_nets.log_probs(net, x, draws)
        found[name] = shared_nets.scores(log_probs, y)
    if study.plan.elsewhere is not None:
        other = shared_nets.log_probs(net, study.plan.elsewhere(), draws)
        found["test"]["auroc"] = shared_nets.auroc(log_probs, other)
    return found


def _drawn(model: pgp.BayesianModule, guide: Any, x: Tensor, num_draws: int) -> Tensor:
    return pgp.predict(model, guide, x, num_draws=num_draws).outputs


def print_means(
    plan: Plan, cells: Mapping[str, dict[str, Any]], seeds: list[int]
) -> dict[str, dict[str, float]]:
    """Print means over seeds, of what there is for each of them, and give them by name."""
    rows, means = [], {}
    scores = SCORES if plan.elsewhere is None else (*SCORES, "auroc")
    for name in plan.names():
        runs = [cells[key] for seed in seeds if (key := f"{name} {seed}") in cells]
        if len(runs) < len(seeds) or not runs:
            continue
        mean = {key: statistics.fmean(run["test"][key] for run in runs) for key in scores}
        mean |= {
            "bytes": statistics.fmean(run["bytes"] for run in runs),
            "numbers": statistics.fmean(run.get("numbers", 0) for run in runs),
            "chosen_by": statistics.fmean(run["chosen_by"]["accuracy"] for run in runs),
        }
        if "before" in runs[0]:
            mean |= {
                f"{key}_before": statistics.fmean(run["before"][key] for run in runs)
                for key in scores
            }
        means[name] = mean
        shown = [f"{mean[key]:.4f}" for key in (*scores, "chosen_by")]
        rows.append([name, str(len(runs)), f"{mean['bytes']:,.0f}", *shown])
    header = ["net", "seeds", "bytes", *scores, "to choose by"]
    timing.print_table("test images, means", header, rows)
    return means


def summary(plan: Plan, cells: Mapping[str, dict[str, Any]], seeds: list[int]) -> dict[str, float]:
    """Print the table and give the figures of the bars.

    Of each kind the smallest file counts that loses at most half a point on the images to choose
    by.
    """
    means = print_means(plan, cells, seeds)
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
    print(f"\nchosen: {best}")
    if (ours := best["shared"]) is None:
        return {}
    shared = means[ours]
    figures = {
        "accuracy_drop": 100 * (first["accuracy"] - shared["accuracy"]),
        "bytes": shared["bytes"],
        "nll_minus_fp32": shared["nll"] - first["nll"],
        "ece_minus_fp32": shared["ece"] - first["ece"],
    }
    if "auroc" in first:
        figures |= {
            "ece_before": shared["ece_before"],
            "ece_after": shared["ece"],
            "auroc_fp32": first["auroc"],
            "auroc_before": shared["auroc_before"],
            "auroc_after": shared["auroc"],
        }
    for kind, name in (("deep", "deep_compression"), ("gradual", "gradual")):
        if (theirs := best[kind]) is not None:
            figures[f"bytes_over_{name}"] = shared["bytes"] / means[theirs]["bytes"]
    if "posterior" in means:
        figures["numbers_ratio"] = means["posterior"]["numbers"] / shared["numbers"]
    return figures


def _smallest(means: Mapping[str, Mapping[str, float]], plain_accuracy: float) -> str | None:
    """Name the smallest file of those that lose little on the images to choose by."""
    good = [n for n, mean in means.items() if mean["chosen_by"] >= plain_accuracy - DROP]
    return min(good, key=lambda name: means[name]["bytes"], default=None)
