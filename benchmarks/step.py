# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What does one SVI step cost, beside plain torch, plain Pyro and bayesian-torch?

Two nets, a fixed batch each: the MLP 10-50-50-10 on 128 rows and a ResNet-8 with 77k weights
on 64 images. ``*_over_raw`` says how many times longer our step takes than hand-written torch
with a mean and a rho per tensor and torch's default Adam, ``*_over_raw_packed`` than the same with
all tensors in one vector and the fused Adam that our engine chooses too; ``*_over_ours`` says how
many times longer a competitor takes.
"""

import functools

import pyro
import torch
from torch import Tensor, nn

import pyro_groupprior as pgp
from benchmarks import nets, timing
from benchmarks.step_baselines import BASELINES, Step

NUM_DATA = 1000


def ours(net: nn.Module, x: Tensor, y: Tensor, num_data: int) -> Step:
    """Build the step of this package: one group a layer, as in the hierarchical baselines."""
    likelihood = pgp.likelihoods.Categorical()
    model = pgp.BayesianModule(net, likelihood, num_data=num_data, grouping="layer")
    guide = pgp.AutoMeanField(model)
    svi = pgp.PhasedSVI(model, guide, functools.partial(torch.optim.Adam, lr=1e-3))
    return lambda: svi.step(x, y)


def compare(title: str, key: str, net: nn.Module, x: Tensor, seconds: float) -> dict[str, float]:
    """Time our step and every baseline in turn on one net.

    :param str title: Heading of the table.
    :param str key: Prefix of the figures' names.
    :param torch.nn.Module net: The deterministic net.
    :param Tensor x: Inputs, batch dimension first.
    :param float seconds: Wall time to spend, in seconds.
    :return: The ratios by name.
    """
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    y = torch.randint(nets.NUM_CLASSES, x.shape[:1])
    builders = {"ours": ours, **BASELINES}
    steps = {name: build(net, x, y, NUM_DATA) for name, build in builders.items()}
    timings = timing.time_in_turn(steps, seconds)
    timing.print_timings(title, timings, reference="ours")
    figures: dict[str, float] = {}
    for name in BASELINES:
        if name in ("raw", "raw_packed"):
            figures[f"{key}_over_{name}"] = timing.ratio(timings, "ours", name)
        else:
            figures[f"{key}_{name}_over_ours"] = timing.ratio(timings, name, "ours")
    return figures


def main() -> None:
    """Run the benchmark."""
    args = timing.parse_args(__doc__)
    torch.manual_seed(0)
    figures: dict[str, float] = {}
    seconds = 25.0 if args.quick else 100.0
    x = torch.randn(128, 10)
    figures |= compare("MLP 10-50-50-10, batch 128", "mlp", nets.mlp(), x, seconds)
    seconds = 50.0 if args.quick else 200.0
    x = torch.randn(64, 3, 32, 32)
    figures |= compare("ResNet-8, batch 64", "resnet", nets.ResNet(), x, seconds)
    timing.print_json(figures)


if __name__ == "__main__":
    main()
