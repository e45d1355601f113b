# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What is drawn in the tests, and how to read it back from the axes."""

import functools

import numpy as np
import pyro.distributions as dist
import torch
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior.svi import EpochRecord, PhaseRecord


def lines(ax, label):
    return [line for line in ax.get_lines() if line.get_label() == label]


def texts(labels):
    return [label.get_text() for label in labels]


def grouped(**prior):
    """A posterior of 2,000 weights in groups of 1,500, 499, 0 and 1, with a base scale of 1/2."""
    index = torch.repeat_interleave(torch.tensor([0, 1, 3]), torch.tensor([1500, 499, 1]))
    model = pgp.BayesianModule(
        nn.Linear(2000, 1, bias=False),
        grouping=pgp.Assignment(index, num_groups=4),
        base_scale=0.5,
        **prior,
    )
    loc = torch.tensor([0.0, 4.0, 0.0, 8.0])
    scale = torch.tensor([1.0, 0.5, 1.0, 0.2])
    mean = loc[index] + 0.8 * scale[index] * torch.randn(2000)
    draws = {
        "weights": 0.5 * (mean + 0.6 * scale[index] * torch.randn(300, 2000)),
        "weights_loc": loc.expand(300, 4),
        "weights_scale": scale.expand(300, 4),
    }
    return model, draws, index


def soft(num_weights=50):
    """A model whose weights belong to two groups each, and its guide."""
    shares = torch.rand(num_weights, 2)
    assignment = pgp.Assignment(
        torch.tensor([[0, 1]]).expand(num_weights, 2),
        responsibilities=shares / shares.sum(1, keepdim=True),
    )
    model = pgp.BayesianModule(
        nn.Linear(num_weights, 1, bias=False), grouping=assignment, base_scale=1.0
    )
    guide = pgp.AutoMeanField(model)
    guide.setup(torch.zeros(1, num_weights))
    return model, guide, assignment


def history_with(num_epochs, warmup=0, phases=()):
    """Losses of about 100, and regroups of one group at these epochs, with this churn."""
    rng = np.random.default_rng(0)
    epochs = [
        EpochRecord(i, i, 0, float(rng.normal(100, 1)), 0.01, min(1.0, i / warmup) if warmup else 1)
        for i in range(1, num_epochs + 1)
    ]
    records = [
        PhaseRecord("weights", n + 1, epoch, epoch, churn, 1, (1.0,), (0.0,), (1.0,))
        for n, (epoch, churn) in enumerate(phases)
    ]
    return pgp.History(epochs, records)


def regroup(phase, flows, sources, name="weights", accepted=True, **values):
    """A record of a regroup at epoch 10 * phase, its sizes those of the flows."""
    sizes = [0.0] * len(sources)
    for _, new, count in flows:
        sizes[new] += count
    given = {
        "churn": 0.1,
        "locs": tuple(0.1 * group for group in range(len(sources))),
        "scales": tuple(float(group + phase) for group in range(len(sources))),
        **values,
    }
    return PhaseRecord(
        name,
        phase,
        10 * phase,
        100 * phase,
        num_groups=len(sources),
        sizes=tuple(sizes),
        accepted=accepted,
        sources=tuple(sources),
        flows=tuple(flows),
        **given,
    )


def regroups():
    """
    Groups of 60, 30 and 10 weights; the second splits, its larger part is a new group; then the
    first and the third become one.
    """
    first = regroup(1, [(0, 0, 60.0), (1, 1, 10.0), (1, 3, 20.0), (2, 2, 10.0)], [0, 1, 2, -1])
    second = regroup(
        2, [(0, 0, 60.0), (1, 1, 10.0), (2, 0, 10.0), (3, 2, 15.0), (3, 1, 5.0)], [0, 1, 3]
    )
    return pgp.History(phases=[first, second])


def trained(**options):
    """A small net after 20 epochs with a regroup, and its data."""
    x = torch.randn(40, 3)
    y = x[:, :1] + 0.1 * torch.randn(40, 1)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    model = pgp.BayesianModule(net, pgp.likelihoods.Normal(), num_data=40, grouping="layer")
    schedule = pgp.Regroup(pgp.Naive(2), epochs=10)
    adam = functools.partial(torch.optim.Adam, lr=0.01)
    monitor = pgp.CollapseMonitor(epochs=5)
    svi = pgp.PhasedSVI(
        model, pgp.AutoMeanField, adam, regroup=schedule, callbacks=[monitor], **options
    )
    svi.run([(x, y)], 20, progress=False)
    return svi, monitor, x, y


def regression_prediction(num_rows=400):
    """A prediction that is exactly Normal(mean, sd), and rows that follow it."""
    torch.manual_seed(2)
    model = pgp.BayesianModule(nn.Linear(1, 1), pgp.likelihoods.Normal(noise=1.0))
    mean = torch.linspace(-3, 3, num_rows).unsqueeze(1)
    outputs = mean.expand(500, num_rows, 1)
    prediction = pgp.Prediction(outputs, dist.Normal(outputs, 0.5), model)
    return prediction, mean, mean + 0.5 * torch.randn(num_rows, 1)


def classification_prediction(num_rows=500):
    """Probabilities of three classes, and labels that have nothing to do with them."""
    torch.manual_seed(3)
    model = pgp.BayesianModule(nn.Linear(1, 3), pgp.likelihoods.Categorical())
    logits = 2 * torch.randn(40, 1, 3) + 3 * torch.randn(num_rows, 3)
    prediction = pgp.Prediction(logits, dist.Categorical(logits=logits), model)
    return prediction, torch.randint(3, (num_rows,))
