# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What a leapfrog step costs, and an effective sample.

A hierarchical net 10-50-50-1 (ReLU, a learned location and scale for each layer, learned noise) on
all 442 rows of diabetes, one thread. Per step: Pyro's HMC over our potential (``run_mcmc``), over
the same model as it stands, and over a model written by hand with a site per tensor; NumPyro's HMC
on the same density (decentred, as ours; compared with it first); and one step of one chain of
``run_hmc``, which moves eight at once. All with step sizes so small that nothing is rejected; 32
steps a move. Then NUTS, one chain after 300 moves of warm-up from the same place: effective samples
(bulk) of the net's function, the median over 50 rows, for each second after the warm-up.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pyro
import pyro.distributions as dist
import torch
from numpyro.infer import HMC as NumPyroHMC
from numpyro.infer import MCMC as NumPyroMCMC
from numpyro.infer import NUTS as NumPyroNUTS
from pyro.infer import HMC, MCMC, NUTS
from torch import Tensor, nn

from benchmarks import datasets, timing
from benchmarks.candidates import bayesian
from benchmarks.judge import check_twin, twin
from pyro_groupprior.mcmc import run_hmc, run_mcmc
from pyro_groupprior.mcmc.gradient import compiled, recorded, value_and_gradient
from pyro_groupprior.mcmc.log_density import LogDensity
from pyro_groupprior.mcmc.potential import SITE, Potential
from pyro_groupprior.svi.parameters import quiet

WIDTHS, STEPS, STEP_SIZE, CHAINS, ROWS = (50, 50), 32, 1e-4, 8, 50


def whole_set() -> datasets.Split:
    """Take all rows of diabetes to train on, and 50 of them to look at."""
    split = datasets.regression("diabetes", 0)
    x, y = torch.cat([split.x, split.new_x]), torch.cat([split.y, split.new_y])
    return datasets.Split(x, y, x[:ROWS], y[:ROWS])


def by_hand(net: nn.Module) -> Callable[[Tensor, Tensor], None]:
    """Write the model as most users of Pyro would, a site per tensor."""
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]  # type: ignore[attr-defined]

    def model(x: Tensor, y: Tensor) -> None:
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 1.0))
        for number, layer in enumerate(layers):
            loc = pyro.sample(f"loc{number}", dist.Normal(0.0, 1.0))
            scale = pyro.sample(f"scale{number}", dist.LogNormal(0.0, 1.0))
            base = layer.in_features**-0.5
            prior = dist.Normal(base * loc, base * scale)
            weight = pyro.sample(f"w{number}", prior.expand(layer.weight.shape).to_event(2))
            bias = pyro.sample(f"b{number}", prior.expand(layer.bias.shape).to_event(1))
            x = x @ weight.T + bias
            x = x.relu() if number + 1 < len(layers) else x
        with pyro.plate("rows", len(x)):
            pyro.sample("obs", dist.Normal(x[:, 0], noise), obs=y[:, 0])

    return model


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


def steps(split: datasets.Split, seconds: float) -> dict[str, float]:
    """Time moves of 32 steps in turn."""
    pyro.set_rng_seed(0)
    model = bayesian(split, WIDTHS)
    args = (split.x, split.y)
    check_twin(model, twin(model), split)
    with quiet(model), pyro.validation_enabled(False):
        density = LogDensity(model, args)
        position = 0.1 * torch.randn(CHAINS, density.size)
        fast = [
            compiled(recorded(value_and_gradient(density), start), start)
            for start in (position[:1], position)
        ]
    potential = Potential(fast[0])

    def eight() -> None:
        where = position
        for _ in range(STEPS):
            _, gradient = fast[1](where)
            where = where + STEP_SIZE * gradient

    numpyro_kernel = NumPyroHMC(
        twin(model), step_size=STEP_SIZE, num_steps=STEPS,
        adapt_step_size=False, adapt_mass_matrix=False,
    )  # fmt: skip
    x, y = (jnp.asarray(value.numpy()) for value in args)
    state = {"hmc": numpyro_kernel.init(jax.random.PRNGKey(0), 0, None, (x, y), {})}
    jitted = jax.jit(lambda s: numpyro_kernel.sample(s, (x, y), {}))

    def numpyro_move() -> None:
        state["hmc"] = jax.block_until_ready(jitted(state["hmc"]))

    calls = {
        "ours": moves(HMC(potential_fn=potential, **FIXED), {SITE: position[0]}),
        "numpyro": numpyro_move,
        "pyro, the same model": moves(HMC(model, **FIXED), {}, *args),
        "pyro, a site per tensor": moves(HMC(by_hand(model.net), **FIXED), {}, *args),
        "ours, eight chains": eight,
    }
    found = timing.time_in_turn(calls, seconds, block_seconds=0.2)
    for name, share in ((name, STEPS * (CHAINS if "eight" in name else 1)) for name in found):
        found[name] = [t / share for t in found[name]]
    timing.print_timings("one leapfrog step of one chain", found, "ours")
    return {
        "over_numpyro": timing.ratio(found, "ours", "numpyro"),
        "pyro_over_ours": timing.ratio(found, "pyro, a site per tensor", "ours"),
        "pyro_packed_over_ours": timing.ratio(found, "pyro, the same model", "ours"),
        "eight_chains_over_numpyro": timing.ratio(found, "ours, eight chains", "numpyro"),
    }


def ess(function: np.ndarray) -> float:
    """Median over rows of the bulk effective sample size; draws of one chain, ``[S, N]``."""
    data = arviz.convert_to_dataset({"f": function[None]})
    return float(arviz.ess(data)["f"].median())


def samples(split: datasets.Split, warmup: int, draws: int) -> dict[str, float]:
    """Run NUTS everywhere, and count effective samples a second."""
    model = bayesian(split, WIDTHS)
    args = (split.x, split.y)
    found: dict[str, tuple[float, float]] = {}

    def function(weights: Tensor) -> np.ndarray:
        with torch.no_grad():
            outputs = [model.call_net(w, split.new_x)[:, 0] for w in weights]
        return torch.stack(outputs).numpy()

    kernel = functools.partial(NUTS, max_tree_depth=8)
    options: dict[str, Any] = {"kernel": kernel, "num_chains": 1, "progress": False}
    start = time.perf_counter()
    run_mcmc(model, *args, num_samples=1, warmup_steps=warmup, **options)
    middle = time.perf_counter()
    ours = run_mcmc(model, *args, num_samples=draws, warmup_steps=warmup, **options)
    seconds = time.perf_counter() - middle - (middle - start)
    found["ours"] = (ess(function(ours.get_samples()["weights"])), seconds)

    clock = _Clock(warmup)
    pyro.set_rng_seed(0)
    mcmc = MCMC(kernel(model), draws, warmup, hook_fn=clock, disable_progbar=True)
    mcmc.run(*args)
    weights = mcmc.get_samples()["weights"]
    found["pyro, the same model"] = (ess(function(weights)), time.perf_counter() - clock.start)

    x, y = (jnp.asarray(value.numpy()) for value in args)
    other = NumPyroMCMC(
        NumPyroNUTS(twin(model), max_tree_depth=8),
        num_warmup=warmup, num_samples=draws, progress_bar=False,
    )  # fmt: skip
    other.warmup(jax.random.PRNGKey(0), x, y)
    other.run(jax.random.PRNGKey(1), x, y)  # compiles
    start = time.perf_counter()
    other.run(jax.random.PRNGKey(2), x, y)
    seconds = time.perf_counter() - start
    theirs = torch.tensor(np.asarray(other.get_samples()["weights"]))
    found["numpyro"] = (ess(function(theirs)), seconds)

    start = time.perf_counter()
    many = run_hmc(model, *args, num_samples=1, warmup_steps=warmup, progress=False)
    middle = time.perf_counter()
    many = run_hmc(model, *args, num_samples=draws, warmup_steps=warmup, progress=False)
    seconds = time.perf_counter() - middle - (middle - start)
    each = [ess(function(chain)) for chain in many.samples["weights"]]
    found["run_hmc, eight chains"] = (sum(each), seconds)
    rows = [
        [name, f"{size:.0f}", f"{time_:.1f}", f"{size / time_:.2f}"]
        for name, (size, time_) in found.items()
    ]
    timing.print_table(f"NUTS, {draws} draws", ["what", "effective samples", "s", "a second"], rows)
    rate = {name: size / time_ for name, (size, time_) in found.items()}
    return {
        "ess_over_numpyro": rate["ours"] / rate["numpyro"],
        "ess_over_pyro": rate["ours"] / rate["pyro, the same model"],
        "ess_eight_chains_over_numpyro": rate["run_hmc, eight chains"] / rate["numpyro"],
    }


class _Clock:
    """Notes when the warm-up is over."""

    def __init__(self, warmup: int) -> None:
        self.start = time.perf_counter()

    def __call__(self, kernel: Any, params: Any, stage: str, i: int) -> None:
        if stage.lower().startswith("warmup"):
            self.start = time.perf_counter()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within two minutes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    numpyro.set_host_device_count(1)
    split = whole_set()
    figures = steps(split, 5 if args.quick else 60)
    if not args.quick:
        figures |= samples(split, 300, 300)
    timing.print_json(figures)


if __name__ == "__main__":
    main()
