# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What do 200 posterior draws of the predictions cost, beside ``pyro.infer.Predictive``?

The MLP 10-50-50-10 as a regression with 10 targets, on 1,000 inputs. Both sides get the same
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
NUM_INPUTS = 1000
NUM_STEPS = 500
NOISE = 0.3


def fit(net: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Train a mean-field posterior on noisy outputs of a random net.

    :param torch.nn.Module net: The deterministic net.
    :return: The model and its trained guide.
    """
    x = torch.randn(NUM_INPUTS, 10)
    with torch.no_grad():
        y = 3.0 * nets.mlp()(x)
    y = y + NOISE * torch.randn_like(y)
    model = pgp.BayesianModule(net, pgp.likelihoods.Normal(), num_data=NUM_INPUTS)
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


def main() -> None:
    """Run the benchmark."""
    args = timing.parse_args(__doc__)
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    model, guide = fit(nets.mlp())
    x = torch.randn(NUM_INPUTS, 10)

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
    timings = timing.time_in_turn(calls, seconds=20.0 if args.quick else 60.0)
    timing.print_timings(f"{NUM_DRAWS} draws on {NUM_INPUTS} inputs", timings, reference="ours")

    shape = (NUM_DRAWS, NUM_INPUTS, 10)
    mean_gap, sd_gap = gaps(ours_sampled().reshape(shape), pyro_predictive().reshape(shape))
    timing.print_table(
        "Predictive moments, difference in standard errors (root mean square)",
        ["moment", "gap"],
        [["mean", f"{mean_gap:.2f}"], ["sd", f"{sd_gap:.2f}"]],
    )
    timing.print_json(
        {
            "pyro_predictive_over_ours": timing.ratio(timings, "pyro_predictive", "ours"),
            "pyro_predictive_over_ours_sampled": timing.ratio(
                timings, "pyro_predictive", "ours_sampled"
            ),
            "mean_gap": mean_gap,
            "sd_gap": sd_gap,
        }
    )


if __name__ == "__main__":
    main()
