# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""How few weights will do, by which rule, and by whose uncertainties?

A ReLU net with 64 hidden units on digits, three splits. "samples": those of one chain of HMC,
aligned, of which weights are set to zero; "hmc": the same as a normal distribution with a
covariance for each unit, of whose draws they are; "vi": a mean-field posterior by SVI; "ensemble":
ten nets, aligned with the first, whose means and standard deviations stand for a posterior's, and
of whose members weights are set to zero; "net": a plain net, each of these ten by itself, by its
own magnitudes, or by HMC's |mean| / sd, its sd, or the net's magnitudes over its sd: of samples
aligned with the net, by how units' activations correlate ("right frame"), or with each other only
("wrong frame"). No fine-tuning. Shares are of weights that stay. Gains are differences of accuracy
on the same split, over shares below one, with standard errors over splits.
"""

import functools
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import pyro_groupprior as pgp
from benchmarks import datasets, timing
from benchmarks.cells import Cells
from benchmarks.nets import relu_net
from pyro_groupprior import mcmc, metrics
from pyro_groupprior.comparison import WeightMoments, weight_moments
from pyro_groupprior.pruning import keep_mask, prune_draws, weight_scores
from pyro_groupprior.symmetry import (
    Activations,
    Symmetry,
    align_draws,
    in_frame,
    posterior_symmetry,
    unit_blocks,
)

SEEDS, HIDDEN, DRAWS, MEMBERS, EPOCHS = 3, 64, 300, 10, 300
SAMPLES, WARMUP, STEPS = 400, 200, 80
SHARES = (1.0, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)
BAYES = ("snr", "magnitude", "sd", "kl", "evidence", "random")
GAINS = {  # by name: one method and rule, and another
    "right_frame_gain": ("net_snr_right_frame", "net_snr_wrong_frame"),
    "right_frame_gain_ratio": ("net_ratio_right_frame", "net_ratio_wrong_frame"),
    "right_frame_over_magnitude": ("net_snr_right_frame", "net_magnitude"),
    "snr_over_sd_samples": ("samples_snr", "samples_sd"),
    "snr_over_sd_hmc": ("hmc_snr", "hmc_sd"),
    "snr_over_sd_vi": ("vi_snr", "vi_sd"),
}
METHODS: dict[str, tuple[str, ...]] = {
    "samples": BAYES,
    "hmc": BAYES,
    "vi": BAYES,
    "ensemble": ("snr", "magnitude", "sd", "random"),
    "net": (
        "magnitude",
        "random",
        *(
            f"{rule} {frame} frame"
            for rule in ("snr", "sd", "ratio")
            for frame in ("right", "wrong")
        ),
    ),
}
NEEDED = {
    "samples": ("hmc",),
    "hmc": ("hmc",),
    "vi": ("vi",),
    "ensemble": ("ensemble",),
    "net": ("nets", "hmc"),
}


def trained(split: datasets.Split, seed: int) -> nn.Module:
    """Train a plain net by Adam with weight decay."""
    torch.manual_seed(seed)
    net = relu_net(split.x.shape[1], (HIDDEN,), 10)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(split.y)).split(256):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(split.x[rows]), split.y[rows]).backward()
            optimizer.step()
    return net


class Study:
    """All posteriors of one split."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.split = split = datasets.classification("digits", seed)
        torch.manual_seed(seed)
        net = relu_net(split.x.shape[1], (HIDDEN,), 10)
        likelihood = pgp.likelihoods.Categorical()
        self.model = pgp.BayesianModule(net, likelihood, num_data=len(split.y), grouping="layer")
        self.symmetry: Symmetry = posterior_symmetry(self.model, split.x[:2])

    @functools.cached_property
    def hmc(self) -> dict[str, Tensor]:
        """Aligned samples of a chain."""
        result = mcmc.run_hmc(
            self.model, self.split.x, self.split.y, num_chains=1, num_samples=SAMPLES,
            warmup_steps=WARMUP, num_steps=STEPS, seed=self.seed, progress=False,
        )  # fmt: skip
        return align_draws(self.model, result.get_samples(), self.symmetry)[0]

    @functools.cached_property
    def vi(self) -> pgp.AutoMeanField:
        """A mean-field posterior."""
        guide = pgp.fit(
            self.model, self.split.x, self.split.y, method="svi", seed=self.seed, progress=False
        )
        assert isinstance(guide, pgp.AutoMeanField)
        return guide

    @functools.cached_property
    def nets(self) -> Tensor:
        """Weights of plain nets, ``[MEMBERS, W]``."""
        nets = [trained(self.split, 100 * self.seed + number) for number in range(MEMBERS)]
        weights = [self.model.layout.pack(dict(net.named_parameters())) for net in nets]
        return torch.stack(weights).detach()

    @functools.cached_property
    def ensemble(self) -> dict[str, Tensor]:
        """Plain nets, aligned with the first."""
        draws = {"weights": self.nets}
        return align_draws(self.model, draws, self.symmetry, template="first")[0]

    @functools.cached_property
    def wrong_frame(self) -> WeightMoments:
        """Moments of HMC's samples, aligned with each other."""
        return weight_moments(self.model, self.hmc)

    @functools.cached_property
    def right_frames(self) -> list[WeightMoments]:
        """Moments of HMC's samples, aligned with each of the nets."""
        by = Activations(
            self.model.net, self.split.x[:500], movable=self.model.layout.names, standardize=True
        )
        frame = functools.partial(in_frame, self.model, self.hmc, self.symmetry, by=by)
        return [frame(weights) for weights in self.nets]

    def run(self, method: str, rule: str) -> dict[str, Any]:
        """Score all shares."""
        make: dict[str, Callable[[str], list[tuple[Tensor, dict[str, Tensor]]]]] = {
            "samples": self._samples,
            "hmc": self._hmc,
            "vi": self._vi,
            "ensemble": self._ensemble,
            "net": self._net,
        }
        for needed in NEEDED[method]:
            getattr(self, needed)  # made before: it uses random numbers
        torch.manual_seed(self.seed)
        found: dict[str, list[float]] = {}
        for scores, draws in make[method](rule):
            for share in SHARES:
                pruned = prune_draws(self.model, draws, keep_mask(scores, share))
                prediction = pgp.predict(self.model, pruned, self.split.new_x)
                for name, score in (("acc", metrics.accuracy), ("nll", metrics.nll)):
                    value = score(prediction, self.split.new_y)
                    found.setdefault(f"{name}_{share:g}", []).append(value)
        return {name: statistics.fmean(values) for name, values in found.items()}

    def _samples(self, rule: str) -> list[tuple[Tensor, dict[str, Tensor]]]:
        return [(weight_scores(self.model, self.hmc, rule), self.hmc)]

    def _hmc(self, rule: str) -> list[tuple[Tensor, dict[str, Tensor]]]:
        guide = pgp.AutoBlockNormal(
            self.model, blocks=unit_blocks(self.symmetry, self.model.layout)
        )
        guide.fit_draws(self.hmc, self.split.x, self.split.y)
        return [(weight_scores(self.model, guide, rule), guide.draws(DRAWS))]

    def _vi(self, rule: str) -> list[tuple[Tensor, dict[str, Tensor]]]:
        return [(weight_scores(self.model, self.vi, rule), self.vi.draws(DRAWS))]

    def _ensemble(self, rule: str) -> list[tuple[Tensor, dict[str, Tensor]]]:
        return [(weight_scores(self.model, self.ensemble, rule), self.ensemble)]

    def _net(self, rule: str) -> list[tuple[Tensor, dict[str, Tensor]]]:
        found = []
        for number, weights in enumerate(self.nets):
            if rule in ("magnitude", "random"):
                scores = weights.abs() if rule == "magnitude" else torch.rand_like(weights)
            else:
                kind, frame, _ = rule.split()
                right = frame == "right"
                moments = self.right_frames[number] if right else self.wrong_frame
                mean = weights if kind == "ratio" else moments.mean
                moments = WeightMoments(mean, moments.sd)
                scores = weight_scores(self.model, moments, "sd" if kind == "sd" else "snr")
            found.append((scores, {"weights": weights[None]}))
        return found


def run(study: Callable[[], Study], method: str, rule: str) -> dict[str, Any]:
    """Run one cell; posteriors are made when they are first asked for."""
    return study().run(method, rule)


def summary(cells: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Print accuracy and NLL by share."""
    figures: dict[str, float] = {}
    for what in ("acc", "nll"):
        rows = []
        for method, rules in METHODS.items():
            for rule in rules:
                name = f"{method}_{rule}".replace(" ", "_")
                keys = [f"{name} {seed}" for seed in range(SEEDS)]
                runs = [cells[key] for key in keys if key in cells]
                if runs:
                    means = [statistics.fmean(r[f"{what}_{s:g}"] for r in runs) for s in SHARES]
                    rows.append([method, rule, str(len(runs)), *(f"{m:.3f}" for m in means)])
                    figures |= {
                        f"{what}_{name}_{s:g}": m for s, m in zip(SHARES, means, strict=True)
                    }
        if rows:
            header = ["posterior", "rule", "splits", *(f"{share:g}" for share in SHARES)]
            timing.print_table({"acc": "accuracy", "nll": "NLL"}[what], header, rows)
    # Rules by themselves are those of HMC's own samples.
    figures |= {
        f"acc_{rule}_{s:g}": figures[key]
        for rule in BAYES
        for s in SHARES
        if (key := f"acc_samples_{rule}_{s:g}") in figures
    }
    return figures | gains(cells)


def gains(cells: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Print by how much one way beats another, on the same splits."""
    figures, rows = {}, []
    below = [share for share in SHARES if share < 1]
    for name, (one, other) in GAINS.items():
        there = [s for s in range(SEEDS) if {f"{one} {s}", f"{other} {s}"} <= cells.keys()]
        if not there:
            continue
        each = [
            [cells[f"{one} {s}"][f"acc_{k:g}"] - cells[f"{other} {s}"][f"acc_{k:g}"] for k in below]
            for s in there
        ]
        means = [statistics.fmean(row) for row in each]
        figures[name] = statistics.fmean(means)
        by_share = [f"{statistics.fmean(column):+.3f}" for column in zip(*each, strict=True)]
        rows.append([name, str(len(there)), timing.mean_and_error(means), *by_share])
    if rows:
        header = ["gain", "splits", "mean", *(f"{share:g}" for share in below)]
        timing.print_table("gain in accuracy", header, rows)
    return figures


def main() -> None:
    """Run the benchmark."""
    args = timing.parse_args(__doc__)
    cells = Cells("prune", {"": [HIDDEN, DRAWS, MEMBERS, EPOCHS, SAMPLES, WARMUP, STEPS, SHARES]})
    if args.quick:
        found = Study(0).run("ensemble", "snr")
        print("run now: ensemble snr 0", {k: round(v, 3) for k, v in found.items()})
    else:
        for seed in range(SEEDS):
            study = functools.cache(functools.partial(Study, seed))
            for method, rules in METHODS.items():
                for rule in rules:
                    name = f"{method}_{rule}".replace(" ", "_")
                    cells.get(f"{name} {seed}", functools.partial(run, study, method, rule))
    print(f"\nall cells, by commit {cells.commits}")
    timing.print_json(summary(cells.cells))


if __name__ == "__main__":
    main()
