# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What do 200 posterior draws of the predictions cost, beside ``pyro.infer.Predictive``?

The MLP 10-50-50-10 as a regression with 10 targets, on 128 inputs, the batch of
``benchmarks.step``; the keys that end in ``_1000`` are for 1,000 inputs, where the arithmetic of
the net itself takes most of the time of both. Both sides get the same
model and the same trained guide, so their predictive moments must agree: ``mean_gap`` and
``sd_gap`` are root mean squares, over all inputs and targets, of the difference in Monte Carlo
standard errors, and lie near 1 when the two differ by nothing but chance. ``Predictive`` draws
observations along the way; ``*_over_ours_sampled`` is the ratio when ours draws them too.
"""

import functools
import math

import pyro
import torch
from pyro.infer import Predictive
from torch import Tensor, nn

import pyro_groupprior as pgp
from benchmarks import nets, timing

NUM_DRAWS = 200
NUM_DATA = 1000
NUM_INPUTS = 128
MANY_INPUTS = 1000
NUM_STEPS = 500
NOISE = 0.3


def fit(net: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Train a mean-field posterior on noisy outputs of a random net.

    :param torch.nn.Module net: The deterministic net.
    :return: The model and its trained guide.
    """
    x = torch.randn(NUM_DATA, 10)
    with torch.no_grad():
        y = 3.0 * nets.mlp()(x)
    y = y + NOISE * torch.randn_like(y)
    model = pgp.BayesianModule(net, pgp.likelihoods.Normal(), num_data=NUM_DATA)
    guide = pgp.AutoMeanField(model)
    svi = pgp.PhasedSVI(model, guide, functools.partial(torch.optim.Adam, lr=1e-2))
    for _ in range(NUM_STEPS):
        svi.step(x, y)
    return model, guide


def moments(draws: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give the mean and standard deviation over draws, with their Monte Carlo standard errors.

    :param Tensor draws: Shape ``[S, N, D]``.
    :return: Mean, its standard error, standard deviation, its standard error, all ``[N, D]``.
    """
    mean, sd = draws.mean(0), draws.std(0)
    kurtosis = ((draws - mean) / sd).pow(4).mean(0)
    num_draws = len(draws)
    sd_error = sd * ((kurtosis - 1).clamp(min=0) / (4 * num_draws)).sqrt()
    return mean, sd / math.sqrt(num_draws), sd, sd_error


def gaps(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """Compare two sets of draws, in Monte Carlo standard errors.

    :param Tensor ours: Shape ``[S, N, D]``.
    :param Tensor theirs: The same shape.
    :return: Root mean square difference of the means, and that of the standard deviations.
    """
    mean_a, mean_error_a, sd_a, sd_error_a = moments(ours)
    mean_b, mean_error_b, sd_b, sd_error_b = moments(theirs)
    mean_z = (mean_a - mean_b) / torch.hypot(mean_error_a, mean_error_b)
    sd_z = (sd_a - sd_b) / torch.hypot(sd_error_a, sd_error_b)
    return mean_z.square().mean().sqrt().item(), sd_z.square().mean().sqrt().item()


def compare(
    model: nn.Module, guide: nn.Module, num_inputs: int, seconds: float
) -> tuple[dict[str, float], Tensor, Tensor]:
    """Time both sides in turn.

    :return: The ratios, and the draws of ours and of ``Predictive``, ``[S, N, 10]`` each.
    """
    x = torch.randn(num_inputs, 10)

    def ours() -> Tensor:
        return pgp.predict(model, guide, x, num_draws=NUM_DRAWS).mean

    def ours_sampled() -> Tensor:
        return pgp.predict(model, guide, x, num_draws=NUM_DRAWS).sample()

    def pyro_predictive() -> Tensor:
        with torch.no_grad():
            predictive = Predictive(
                model, guide=guide, num_samples=NUM_DRAWS, return_sites=("obs",)
            )
            return predictive(x)["obs"]

    calls = {"ours": ours, "ours_sampled": ours_sampled, "pyro_predictive": pyro_predictive}
    timings = timing.time_in_turn(calls, seconds=seconds)
    timing.print_timings(f"{NUM_DRAWS} draws on {num_inputs} inputs", timings, reference="ours")
    shape = (NUM_DRAWS, num_inputs, 10)
    ratios = {
        f"pyro_predictive_over_{name}": timing.ratio(timings, "pyro_predictive", name)
        for name in ("ours", "ours_sampled")
    }
    return ratios, ours_sampled().reshape(shape), pyro_predictive().reshape(shape)


def main() -> None:
    """Run the benchmark."""
    args = timing.parse_args(__doc__)
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    model, guide = fit(nets.mlp())
    seconds = 20.0 if args.quick else 60.0
    figures, _, _ = compare(model, guide, NUM_INPUTS, seconds)
    many, ours, theirs = compare(model, guide, MANY_INPUTS, seconds)
    figures.update({f"{name}_{MANY_INPUTS}": value for name, value in many.items()})
    figures["mean_gap"], figures["sd_gap"] = gaps(ours, theirs)
    timing.print_table(
        "Predictive moments, difference in standard errors (root mean square)",
        ["moment", "gap"],
        [["mean", f"{figures['mean_gap']:.2f}"], ["sd", f"{figures['sd_gap']:.2f}"]],
    )
    timing.print_json(figures)


if __name__ == "__main__":
    main()
