# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The judge: long runs of NUTS that every faster posterior is held against.

The model is ``BayesianModule(net, Normal())`` as it stands: a learned location and scale for each
layer, in units of 1 / sqrt(fan-in). NumPyro samples it, several times as fast as Pyro; its
log-density is first compared with that of the Pyro model at a point drawn at random. Chains go on,
a block of draws at a time, until the split R-hat of the net's function is below 1.05 on every test
row, or the time is over; then the function's draws at the test rows and the weights' moments are
written to ``benchmarks/results/judge/``.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pyro
import torch
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density
from safetensors.numpy import save_file

import pyro_groupprior as pgp
from benchmarks import datasets, scoring, timing
from benchmarks.candidates import bayesian
from benchmarks.cells import commit
from benchmarks.judged import NETS, SPLITS, path_of, read, scores

CHAINS, WARMUP, BLOCK, KEPT, RHAT = 4, 500, 250, 400, 1.05


def twin(model: pgp.BayesianModule) -> Any:
    """Write a ``BayesianModule`` of linear layers as a NumPyro model of ``(x, y)``."""
    index = jnp.asarray(model.assignment.index.numpy())
    base = jnp.asarray(model.base_scale.numpy())
    entries = [(entry.start, entry.stop, tuple(entry.shape)) for entry in model.layout]
    num_groups = model.assignment.num_groups

    def numpyro_model(x: jax.Array, y: jax.Array) -> None:
        with numpyro.plate("groups", num_groups):
            loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
            scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
        noise = numpyro.sample("noise", dist.LogNormal(-1.0, 1.0))
        # Decentred: the chains move more freely, and the posterior is the same.
        standard = numpyro.sample("standard", dist.Normal(0.0, 1.0).expand([len(base)]).to_event(1))
        weights = numpyro.deterministic("weights", base * (loc[index] + scale[index] * standard))
        numpyro.sample("y", dist.Normal(net(weights, x), noise).to_event(2), obs=y)

    def net(weights: jax.Array, x: jax.Array) -> jax.Array:
        tensors = [weights[start:stop].reshape(shape) for start, stop, shape in entries]
        for number in range(0, len(tensors), 2):
            x = x @ tensors[number].T + tensors[number + 1]
            x = jax.nn.relu(x) if number + 2 < len(tensors) else x
        return x

    numpyro_model.net = net  # type: ignore[attr-defined]
    return numpyro_model


def check_twin(model: pgp.BayesianModule, numpyro_model: Any, split: datasets.Split) -> None:
    """Compare both models' log-densities at one draw from the prior.

    :raises ValueError: If they differ.
    """
    trace = pyro.poutine.trace(model).get_trace(split.x, split.y)
    values = {k: trace.nodes[f"weights_{k}"]["value"] for k in ("loc", "scale")}
    weights, noise = trace.nodes["weights"]["value"], trace.nodes["noise"]["value"]
    index, base = model.assignment.index.long(), model.base_scale
    scales = values["scale"][index]
    standard = (weights / base - values["loc"][index]) / scales
    theirs, _ = log_density(
        numpyro_model,
        (split.x.numpy(), split.y.numpy()),
        {},
        {
            **{k: v.detach().numpy() for k, v in values.items()},
            "standard": standard.detach().numpy(),
            "noise": noise.detach().numpy(),
        },
    )
    # The density of the weights has the Jacobian of the decentred one.
    ours = float(trace.log_prob_sum() + (base * scales).log().sum())
    if abs(ours - float(theirs)) > 1e-4 * abs(ours):
        raise ValueError(f"expected one log-density, got {ours} (Pyro) and {float(theirs)}")


def run(name: str, net: str, seed: int, minutes: float) -> None:
    """Sample one posterior, and write what is kept of it."""
    split = datasets.regression(name, seed)
    pyro.set_rng_seed(seed)
    model = bayesian(split, NETS[net])
    numpyro_model = twin(model)
    check_twin(model, numpyro_model, split)
    x, y, new_x = (jnp.asarray(t.numpy()) for t in (split.x, split.y, split.new_x))
    function = jax.jit(jax.vmap(jax.vmap(lambda w: numpyro_model.net(w, new_x)[:, 0])))
    mcmc = MCMC(
        NUTS(numpyro_model, max_tree_depth=10),
        num_warmup=WARMUP,
        num_samples=BLOCK,
        num_chains=CHAINS,
        chain_method="sequential",
        progress_bar=False,
    )
    start, cpu, blocks, rhat = time.perf_counter(), time.process_time(), [], np.inf
    key = jax.random.PRNGKey(seed)
    while rhat > RHAT and time.perf_counter() - start < 60 * minutes:
        mcmc.run(key, x, y, extra_fields=("num_steps", "diverging"))
        draws, extra = mcmc.get_samples(True), mcmc.get_extra_fields(True)
        blocks.append(
            {
                "function": np.asarray(function(draws["weights"])),
                **{k: np.asarray(draws[k]) for k in ("loc", "scale", "noise", "weights")},
                **{k: np.asarray(extra[k]) for k in ("num_steps", "diverging")},
            }
        )
        mcmc.post_warmup_state = mcmc.last_state
        key = mcmc.post_warmup_state.rng_key
        kept = {k: np.concatenate([b[k] for b in blocks], 1) for k in blocks[0]}
        rhat = float(np.max(scoring.rhats(kept["function"])))
        minutes_so_far = (time.perf_counter() - start) / 60
        print(
            f"{name} {net} {seed}: {kept['noise'].shape[1]} draws, R-hat {rhat:.3f}, "
            f"{kept['num_steps'].mean():.0f} steps a draw, {minutes_so_far:.1f} minutes",
            flush=True,
        )
    write(path_of(name, net, seed), kept, split, rhat, time.process_time() - cpu)


def write(
    path: Path, kept: dict[str, np.ndarray], split: datasets.Split, rhat: float, seconds: float
) -> None:
    """Keep evenly chosen draws of the function, and all draws' moments of the weights."""
    chains, draws = kept["noise"].shape
    chosen = np.linspace(0, draws - 1, min(draws, KEPT // chains)).astype(int)
    flat = {k: kept[k].reshape(chains * draws, -1) for k in ("weights", "loc", "scale")}
    arrays = {
        "function": kept["function"][:, chosen].astype(np.float32),
        "noise": kept["noise"][:, chosen].astype(np.float32),
        "mean": flat["weights"].mean(0),
        "sd": flat["weights"].std(0),
        "loc": kept["loc"][:, chosen].astype(np.float32),
        "scale": kept["scale"][:, chosen].astype(np.float32),
    }
    found = {
        "rhat": rhat,
        "rhat_median": float(np.median(scoring.rhats(kept["function"]))),
        "draws": draws,
        "chains": chains,
        "divergences": int(kept["diverging"].sum()),
        "steps": float(kept["num_steps"].mean()),
        "seconds": seconds,  # of the processor
        "nll": scores(arrays, split)["nll"],
        "commit": commit(),
        "command": "python -m benchmarks.judge",
    }
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    metadata = {"judge": json.dumps(found)}
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, temporary, metadata)
    os.replace(temporary, path)


def main() -> None:
    """Run the chains that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only print what is there")
    parser.add_argument("--only", nargs="+", help="data sets to run; default: all")
    parser.add_argument("--minutes", type=float, default=120.0, help="at most, for each cell")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows, figures = [], {}
    cells = [(d, n, s) for s in range(SPLITS) for n in NETS for d in datasets.REGRESSION]
    for name, net, seed in cells:
        chosen = not args.only or name in args.only
        if chosen and not args.quick and not path_of(name, net, seed).exists():
            run(name, net, seed, args.minutes)
        found = read(name, net, seed)
        if found is None:
            continue
        _, record = found
        split = datasets.regression(name, seed)
        arrays, _ = found
        rmse = scores(arrays, split)["rmse"]
        figures[f"nll_{name}_{net}_{seed}"] = record["nll"]
        figures[f"rhat_{name}_{net}_{seed}"] = record["rhat"]
        rows.append(
            [
                f"{name}, {net}, {seed}",
                f"{record['nll']:.3f}",
                f"{rmse:.3f}",
                f"{record['rhat']:.3f}",
                f"{record['chains']} x {record['draws']}",
                f"{record['steps']:.0f}",
                str(record["divergences"]),
                f"{record['seconds'] / 60:.0f}",
            ]
        )
    header = ["set, net, split", "NLL", "RMSE", "R-hat", "draws", "steps", "divergent", "minutes"]
    timing.print_table("NUTS", header, rows)
    timing.print_json(figures)


if __name__ == "__main__":
    main()
