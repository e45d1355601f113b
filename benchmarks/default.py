# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""A net fitted as the package does when it is told no more than the data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import pyro_groupprior as pgp
from benchmarks import candidates, peers
from benchmarks.datasets import Split

MOST_DRAWS = 200  # of classifications: logits of 10,000 rows fill the memory


def fit(
    net: nn.Module,
    split: Split,
    regroup: pgp.Regroup | None = None,
    checkpoint: Path | None = None,
    **prior: Any,
) -> peers.Draws:
    """Fit a net by ``pgp.fit`` and predict the new rows."""
    classes = split.num_classes
    model = pgp.BayesianModule(
        net,
        pgp.likelihoods.Categorical() if classes else pgp.likelihoods.Normal(),
        num_data=len(split.y),
        **prior,
    )
    seed = int(torch.randint(2**31, ()))
    posterior = pgp.fit(
        model,
        split.x,
        split.y,
        regroup=regroup,
        seed=seed,
        progress=False,
        checkpoint=checkpoint,
    )
    chains = isinstance(posterior, Mapping)
    samples = posterior if chains else posterior.draws(candidates.NUM_DRAWS)
    if not classes:
        return candidates.from_samples(model, samples, split)
    weights = samples[model.site]
    chosen = torch.linspace(0, len(weights) - 1, min(len(weights), MOST_DRAWS)).long()
    with torch.no_grad():
        return torch.stack([model.call_net(w, split.new_x) for w in weights[chosen]]), None
