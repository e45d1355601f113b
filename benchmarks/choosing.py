# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Which figure picks the right prior, guide and number of groups, without test rows?

On Concrete, diabetes and Boston housing, nets of one and two hidden layers of 50, one split:
several priors under a mean-field guide and under HMC. Beside the test NLL stand, in nats a row:
the ELBO (mean-field only) and Laplace's evidence at the hyperparameters that were found, both less
what it costs to state the groups where these were found too; PSIS-LOO
(Vehtari, Gelman and Gabry 2017) with the share of rows whose Pareto k is above 0.7, from 1,000
draws; and the NLL of a fifth of the training rows, by a fit to the others. "regret": the test NLL
of the setting that a figure would pick, less the least one; "rank": Spearman's correlation with
the test NLL over settings. Means over all nets and splits, by kind of posterior and over both.
"""

import functools
import math
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import arviz
import numpy as np
import pyro
import torch
from scipy.stats import spearmanr

import pyro_groupprior as pgp
from benchmarks import candidates, datasets, judged, timing
from benchmarks.cells import Cells
from benchmarks.evidence import laplace_evidence
from benchmarks.scoring import score

ELBOS, GOOD_K, SPLITS = 200, 0.7, 1

#: By name: options of the model, and how its groups are found.
PRIORS: dict[str, tuple[dict[str, Any], Callable[[], pgp.Regroup] | None]] = {
    "fixed": ({"loc": 0.0, "scale": 1.0}, None),
    "all": ({"grouping": "all"}, None),
    "layer": ({"grouping": "layer"}, None),
    "row": ({"grouping": "row"}, None),
    "column": ({"grouping": "column"}, None),
    "weights_2": ({}, functools.partial(candidates.weights_regrouped, 2)),
    "weights_8": ({}, candidates.weights_regrouped),
    "units": ({}, candidates.units_regrouped),
}
KINDS = {"mean_field": tuple(PRIORS), "hmc": ("fixed", "layer", "row", "column", "weights_8")}
CRITERIA = ("elbo", "evidence", "loo", "validation")  # the less, the better


def fit(
    split: datasets.Split, hidden: tuple[int, ...], prior: str, kind: str
) -> tuple[pgp.BayesianModule, dict[str, torch.Tensor], float]:
    """Fit one setting: the model, draws, and the negative ELBO a row (NaN for HMC)."""
    options, regroup = PRIORS[prior]
    if kind == "hmc" and regroup is None:
        model = candidates.bayesian(split, hidden, **options)
        return model, candidates.sampled(model, split), math.nan
    options = {**options, "regroup": None if regroup is None else regroup()}
    svi = candidates.trained(split, hidden, guide=candidates.LOCAL, **options)
    if kind == "hmc":
        return svi.model, candidates.sampled(svi.model, split, svi.guide), math.nan
    losses = [svi.evaluate_loss(split.x, split.y) for _ in range(ELBOS)]
    bound = (statistics.fmean(losses) + cost(svi.model, prior)) / len(split.y)
    return svi.model, svi.guide.draws(candidates.NUM_DRAWS), bound


def cost(model: pgp.BayesianModule, prior: str) -> float:
    """Find the nats that it takes to state groups, where they were found."""
    return pgp.assignment_cost(model.assignment) if PRIORS[prior][1] is not None else 0.0


def loo(
    model: pgp.BayesianModule, samples: dict[str, torch.Tensor], split: datasets.Split
) -> dict[str, float]:
    """Estimate the NLL of rows left out one at a time, from draws given all."""
    rows = datasets.Split(split.x, split.y, split.x, split.y)
    function, noise = candidates.from_samples(model, samples, rows)
    assert noise is not None
    each = torch.distributions.Normal(function, noise[:, None]).log_prob(split.y[:, 0]).numpy()
    data = arviz.from_dict(
        posterior={"noise": noise.numpy()[None]}, log_likelihood={"y": each[None]}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of large k: it is in the table
        found = arviz.loo(data, pointwise=True)
    return {
        "loo": -float(found.elpd_loo) / len(split.y) + math.log(split.scale),
        "bad_k": float(np.mean(found.pareto_k.to_numpy() > GOOD_K)),
    }


def run(name: str, net: str, seed: int, kind: str, prior: str) -> dict[str, Any]:
    """Fit one setting to all training rows and to four fifths of them, and score it."""
    split = datasets.regression(name, seed)
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pgp.svi.ConvergenceWarning)
        model, samples, elbo = fit(split, judged.NETS[net], prior, kind)
        found = score(*candidates.from_samples(model, samples, split), split)
        evidence = laplace_evidence(model, samples, split.x, split.y) - cost(model, prior)
        found |= {
            "elbo": elbo + math.log(split.scale),
            "evidence": math.log(split.scale) - evidence / len(split.y),
        }
        found |= loo(model, samples, split)
        part = datasets.validation(split, seed)
        model, samples, _ = fit(part, judged.NETS[net], prior, kind)
        left_out = score(*candidates.from_samples(model, samples, part), part)
    return {**found, "validation": left_out["nll"], "seconds": time.process_time() - start}


def verdicts(cells: dict[str, dict[str, Any]], settings: list[tuple[str, str]]) -> dict[str, Any]:
    """Find regret and rank correlation of every criterion over some settings."""
    found: dict[str, list[tuple[float, float]]] = {criterion: [] for criterion in CRITERIA}
    for name in datasets.REGRESSION:
        for net in judged.NETS:
            for seed in range(SPLITS):
                keys = [f"{name} {net} {seed} {kind} {prior}" for kind, prior in settings]
                if any(key not in cells for key in keys):
                    continue
                test = [cells[key]["nll"] for key in keys]
                for criterion in CRITERIA:
                    values = [cells[key][criterion] for key in keys]
                    if not any(map(math.isnan, values)):
                        regret = test[int(np.argmin(values))] - min(test)
                        found[criterion].append((regret, spearmanr(values, test).statistic))
    return {
        criterion: tuple(statistics.fmean(column) for column in zip(*pairs, strict=True))
        for criterion, pairs in found.items()
        if pairs
    }


def summary(cells: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Print all settings, then what each criterion would have picked."""
    figures = {}
    for name in datasets.REGRESSION:
        for net in judged.NETS:
            rows = []
            for kind, priors in KINDS.items():
                for prior in priors:
                    keys = [f"{name} {net} {s} {kind} {prior}" for s in range(SPLITS)]
                    runs = [cells[key] for key in keys if key in cells]
                    if runs:
                        columns = ("nll", *CRITERIA, "bad_k")
                        means = [statistics.fmean(run[c] for run in runs) for c in columns]
                        rows.append([kind, prior, *(f"{mean:.3f}" for mean in means)])
            if rows:
                header = ["posterior", "prior", "test NLL", *CRITERIA, "k > 0.7"]
                timing.print_table(f"{name}, {net} hidden", header, rows)
    rows = []
    scopes = {kind: [(kind, prior) for prior in priors] for kind, priors in KINDS.items()}
    scopes["both"] = [setting for settings in scopes.values() for setting in settings]
    for scope, settings in scopes.items():
        for criterion, (regret, rank) in verdicts(cells, settings).items():
            figures |= {f"regret_{scope}_{criterion}": regret, f"rank_{scope}_{criterion}": rank}
            rows.append([scope, criterion, f"{regret:.3f}", f"{rank:.2f}"])
    timing.print_table("what each would pick", ["among", "by", "regret", "rank"], rows)
    return figures


def main() -> None:
    """Run the benchmark."""
    args = timing.parse_args(__doc__)
    shared = [candidates.NUM_DRAWS, candidates.MAX_STEPS, candidates.PHASES, ELBOS]
    cells = Cells("choosing", {"": shared})
    if args.quick:
        again = run("diabetes", "one", 0, "mean_field", "layer")
        print("run now: diabetes one 0 mean_field layer", again)
    else:
        for seed in range(SPLITS):
            for name in datasets.REGRESSION:
                for net in judged.NETS:
                    for kind, priors in KINDS.items():
                        for prior in priors:
                            make = functools.partial(run, name, net, seed, kind, prior)
                            cells.get(f"{name} {net} {seed} {kind} {prior}", make)
    figures = summary(cells.cells)
    print(f"\nall cells, by commit {cells.commits}")
    timing.print_json(figures)


if __name__ == "__main__":
    main()
