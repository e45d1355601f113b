# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What a leapfrog step costs, and an effective sample.

A hierarchical net 10-50-50-1 (ReLU, a learned location and scale for each layer, learned noise) on
all 442 rows of diabetes, on one core and one thread. Per step of one chain: ``run_hmc`` ("ours"),
which moves eight at once; Pyro's HMC over our potential (``run_mcmc``, "kernel"), over the same
model as it stands, and over a model written by hand with a site per tensor; NumPyro's HMC on the
same density (decentred, as ours; compared with it first), one chain and eight at once. All with
step sizes so small that nothing is rejected, 32 steps a move.

Then NUTS, one chain, from the same draw of the prior everywhere, all decentred: effective samples
(bulk) of the net's function, the median over 50 rows, for each second after 300 moves of warm-up;
three seeds. And ``run_hmc`` with eight chains, of which all samples count.
"""

import os
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")  # read at the import

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pyro
import torch
from numpyro.infer import HMC as NumPyroHMC
from numpyro.infer import MCMC as NumPyroMCMC
from numpyro.infer import NUTS as NumPyroNUTS
from numpyro.infer import init_to_value as numpyro_init_to_value
from pyro.infer import HMC, MCMC, NUTS
from pyro.infer.autoguide.initialization import init_to_value
from torch import Tensor

from benchmarks import datasets, timing
from benchmarks.candidates import bayesian
from benchmarks.judge import check_twin, twin
from benchmarks.plain import plain_model
from pyro_groupprior.mcmc import run_hmc, run_mcmc
from pyro_groupprior.mcmc.gradient import compiled, recorded, value_and_gradient
from pyro_groupprior.mcmc.hmc import Chains
from pyro_groupprior.mcmc.log_density import LogDensity
from pyro_groupprior.mcmc.potential import SITE, Potential
from pyro_groupprior.svi.parameters import quiet

WIDTHS, STEPS, STEP_SIZE, CHAINS, ROWS = (50, 50), 32, 1e-4, 8, 50
WARMUP, DRAWS, SEEDS, DEPTH = 300, 300, 3, 8


def whole_set() -> datasets.Split:
    """Take all rows of diabetes to train on, and 50 of them to look at."""
    split = datasets.regression("diabetes", 0)
    x, y = torch.cat([split.x, split.new_x]), torch.cat([split.y, split.new_y])
    return datasets.Split(x, y, x[:ROWS], y[:ROWS])


FIXED = {
    "step_size": STEP_SIZE,
    "trajectory_length": STEPS * STEP_SIZE * 1.0001,
    "adapt_step_size": False,
    "adapt_mass_matrix": False,
}


def moves(kernel: Any, params: dict[str, Tensor], *args: Any) -> Callable[[], None]:
    """Give a function that makes one move of a kernel of Pyro's."""
    kernel.initial_params = params or None
    kernel.setup(0, *args)
    state = {"params": kernel.initial_params}

    def move() -> None:
        with pyro.validation_enabled(False):
            state["params"] = kernel.sample(state["params"])

    return move


def numpyro_moves(model: Any, args: Any, num_chains: int) -> Callable[[], None]:
    """Give a function that makes one move of NumPyro's HMC, of one chain or of several at once."""
    kernel = NumPyroHMC(
        twin(model), step_size=STEP_SIZE, num_steps=STEPS,
        adapt_step_size=False, adapt_mass_matrix=False,
    )  # fmt: skip
    x, y = (jnp.asarray(value.numpy()) for value in args)
    key = jax.random.PRNGKey(0)
    keys = key if num_chains == 1 else jax.random.split(key, num_chains)
    state = {"hmc": kernel.init(keys, 0, None, (x, y), {})}
    jitted = jax.jit(lambda s: kernel.sample(s, (x, y), {}))

    def move() -> None:
        state["hmc"] = jax.block_until_ready(jitted(state["hmc"]))

    return move


def steps(split: datasets.Split, seconds: float) -> dict[str, float]:
    """Time moves of 32 steps in turn."""
    pyro.set_rng_seed(0)
    model = bayesian(split, WIDTHS)
    args = (split.x, split.y)
    check_twin(model, twin(model), split)
    with quiet(model), pyro.validation_enabled(False):
        density = LogDensity(model, args)
        position = 0.1 * torch.randn(CHAINS, density.size)
        one, all_chains = (
            compiled(recorded(value_and_gradient(density), where), where)
            for where in (position[:1], position)
        )
    chains = Chains(all_chains, position, STEPS)
    adaptation: Any = SimpleNamespace(
        step_size=torch.tensor(STEP_SIZE), inverse_mass=torch.ones(density.size)
    )
    calls: dict[str, tuple[Callable[[], Any], int]] = {
        "run_hmc, eight chains": (lambda: chains.move(adaptation), CHAINS),
        "run_mcmc: pyro's HMC": (
            moves(HMC(potential_fn=Potential(one), **FIXED), {SITE: position[0]}), 1,
        ),
        "numpyro": (numpyro_moves(model, args, 1), 1),
        "numpyro, eight chains": (numpyro_moves(model, args, CHAINS), CHAINS),
        "pyro, the same model": (moves(HMC(model, **FIXED), {}, *args), 1),
        "pyro, a site per tensor": (moves(HMC(plain_model(model.net), **FIXED), {}, *args), 1),
    }  # fmt: skip
    functions = {name: function for name, (function, _) in calls.items()}
    found = timing.time_in_turn(functions, seconds, block_seconds=0.2)
    found = {name: [t / STEPS / calls[name][1] for t in times] for name, times in found.items()}
    ours, kernel, *_ = found
    timing.print_timings("one leapfrog step of one chain", found, ours)
    return {
        "over_numpyro": timing.ratio(found, ours, "numpyro"),
        "over_numpyro_eight_chains": timing.ratio(found, ours, "numpyro, eight chains"),
        "pyro_over_ours": timing.ratio(found, "pyro, a site per tensor", ours),
        "pyro_packed_over_ours": timing.ratio(found, "pyro, the same model", ours),
        "kernel_over_numpyro": timing.ratio(found, kernel, "numpyro"),
        "pyro_over_kernel": timing.ratio(found, "pyro, a site per tensor", kernel),
    }


def further_moves(model: Any, args: Any, number: int, **options: Any) -> float:
    """Time a move of ``run_hmc``, all chains at once: what so many more of them take."""
    options = {"warmup_steps": 0, "num_steps": STEPS, "progress": False, **options}
    seconds = []
    for count in (number, 2 * number):
        start = time.perf_counter()
        run_hmc(model, *args, num_samples=count, **options)
        seconds.append(time.perf_counter() - start)
    return (seconds[1] - seconds[0]) / number


def ess(function: np.ndarray) -> float:
    """Median over rows of the bulk effective sample size; draws of one chain, ``[S, N]``."""
    data = arviz.convert_to_dataset({"f": function[None]})
    return float(arviz.ess(data)["f"].median())


class _Timed(NUTS):
    """Notes when the warm-up is over."""

    start = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, max_tree_depth=DEPTH, **kwargs)
        self.moves = 0

    def sample(self, params: Any) -> Any:
        self.moves += 1
        if self.moves == WARMUP + 1:
            _Timed.start = time.perf_counter()
        return super().sample(params)


def first_values(model: Any, split: datasets.Split, seed: int) -> dict[str, Tensor]:
    """Draw from the prior of a decentred model."""
    pyro.set_rng_seed(seed)
    nodes = pyro.poutine.trace(model).get_trace(split.x, split.y).nodes
    names = ("weights_loc", "weights_scale", "weights_decentered", "noise")
    return {name: nodes[name]["value"].detach() for name in names}


def samples(split: datasets.Split, seed: int) -> dict[str, float]:
    """Run NUTS everywhere, and count effective samples a second."""
    model, decentred = (bayesian(split, WIDTHS, centered=centered) for centered in (True, False))
    args = (split.x, split.y)
    values = first_values(decentred, split, seed)
    index, base = model.assignment.index.long(), model.base_scale
    found: dict[str, float] = {}

    def function(weights: Tensor) -> np.ndarray:
        with torch.no_grad():
            outputs = [model.call_net(w, split.new_x)[:, 0] for w in weights]
        return torch.stack(outputs).numpy()

    def weights_of(draws: dict[str, Tensor]) -> Tensor:
        scale, loc = draws["weights_scale"][:, index], draws["weights_loc"][:, index]
        return base * (loc + scale * draws["weights_decentered"])

    own = {name: value[None] for name, value in values.items() if name != "weights_decentered"}
    own["weights"] = weights_of({name: value[None] for name, value in values.items()})
    options: dict[str, Any] = {"num_chains": 1, "num_samples": DRAWS, "warmup_steps": WARMUP}
    ours = run_mcmc(model, *args, kernel=_Timed, start=own, seed=seed, progress=False, **options)
    seconds = time.perf_counter() - _Timed.start
    found["ours"] = ess(function(ours.get_samples()["weights"])) / seconds

    pyro.set_rng_seed(seed)
    kernel = _Timed(decentred, init_strategy=init_to_value(values=values))
    mcmc = MCMC(kernel, DRAWS, WARMUP, disable_progbar=True)
    mcmc.run(*args)
    seconds = time.perf_counter() - _Timed.start
    found["pyro, the same model"] = ess(function(weights_of(mcmc.get_samples()))) / seconds

    x, y = (jnp.asarray(value.numpy()) for value in args)
    theirs = {name: jnp.asarray(value.numpy()) for name, value in values.items()}
    renamed = {
        {"weights_decentered": "standard"}.get(name, name.removeprefix("weights_")): value
        for name, value in theirs.items()
    }
    strategy = numpyro_init_to_value(values=renamed)
    other = NumPyroMCMC(
        NumPyroNUTS(twin(model), max_tree_depth=DEPTH, init_strategy=strategy),
        num_warmup=WARMUP, num_samples=DRAWS, progress_bar=False,
    )  # fmt: skip
    other.warmup(jax.random.PRNGKey(seed), x, y)
    other.run(jax.random.PRNGKey(seed + 100), x, y)  # compiles
    jax.block_until_ready(other.get_samples())
    start = time.perf_counter()
    other.run(jax.random.PRNGKey(seed + 200), x, y)
    draws = jax.block_until_ready(other.get_samples())
    seconds = time.perf_counter() - start
    found["numpyro"] = ess(function(torch.tensor(np.asarray(draws["weights"])))) / seconds

    options = {"warmup_steps": WARMUP, "num_steps": 80, "seed": seed}
    seconds = DRAWS * further_moves(model, args, DRAWS, **options)
    many = run_hmc(model, *args, num_samples=DRAWS, warmup_steps=WARMUP, seed=seed, progress=False)
    each = [ess(function(chain)) for chain in many.samples["weights"]]
    found["run_hmc, eight chains"] = sum(each) / seconds
    return found


def effective(split: datasets.Split) -> dict[str, float]:
    """Repeat with other seeds."""
    runs = [samples(split, seed) for seed in range(SEEDS)]
    rates = {name: [run[name] for run in runs] for name in runs[0]}
    rows = [
        [name, f"{statistics.fmean(each):.2f}", f"{min(each):.2f} to {max(each):.2f}"]
        for name, each in rates.items()
    ]
    title = f"effective samples a second, {DRAWS} draws, {SEEDS} seeds"
    timing.print_table(title, ["what", "mean", "range"], rows)
    rate = {name: statistics.fmean(each) for name, each in rates.items()}
    return {
        "ess_over_numpyro": rate["ours"] / rate["numpyro"],
        "ess_over_pyro": rate["ours"] / rate["pyro, the same model"],
        "ess_eight_chains_over_numpyro": rate["run_hmc, eight chains"] / rate["numpyro"],
    }


def main() -> None:
    """Run the benchmark."""
    args = timing.parse_args(__doc__)
    numpyro.set_host_device_count(1)
    if hasattr(os, "sched_setaffinity"):  # one core for all: XLA has threads of its own
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    split = whole_set()
    figures = steps(split, 5 if args.quick else 60)
    if not args.quick:
        figures |= effective(split)
    timing.print_json(figures)


if __name__ == "__main__":
    main()
