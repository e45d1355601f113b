# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The engine, against loops written by hand with Pyro's ELBOs and torch's or Pyro's optimizers."""

import copy
from functools import partial

import pyro
import pyro.optim
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from sklearn.cluster import KMeans
from torch import nn
from torch.distributions import kl_divergence
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pyro_groupprior import (
    AutoLowRank,
    AutoMeanField,
    BayesianModule,
    Learned,
    PhasedSVI,
    Regroup,
    likelihoods,
)
from tests.svi.runs import GUIDES, Adam, Planned, assert_same, data, full_state, regression


def twins(guide, **options):
    """A model with its guide, twice, with the same parameters."""
    model = regression(**options)
    pair = model, guide(model)
    pair[1].setup(*data())  # Pyro's SVI would use up random numbers for it
    return pair, copy.deepcopy(pair)


@pytest.mark.parametrize("elbo", [None, TraceMeanField_ELBO(), Trace_ELBO(num_particles=3)])
@pytest.mark.parametrize("clip_norm", [None, 3.0])
@pytest.mark.parametrize("guide", [AutoMeanField, partial(AutoLowRank, rank=2)])
def test_equals_a_loop_by_hand(guide, clip_norm, elbo):
    x, y = data()
    (model, ours), (same_model, same_guide) = twins(guide)
    reference = TraceMeanField_ELBO() if elbo is None else elbo
    parameters = [*same_guide.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.02)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    factory = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9)
    svi = PhasedSVI(model, ours, Adam, elbo, scheduler=factory, clip_norm=clip_norm)
    for step in range(8):
        optimizer.zero_grad()
        pyro.set_rng_seed(step)
        loss = reference.differentiable_loss(same_model, same_guide, x, y)
        loss.backward()
        if clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(parameters, clip_norm)
            assert norm > clip_norm  # else nothing was tried
        gradients = [p.grad.clone() for p in parameters]
        optimizer.step()
        scheduler.step()
        pyro.set_rng_seed(step)
        assert svi.step(x, y) == pytest.approx(loss.item(), rel=1e-5)
        for one, other in zip(svi.guide.parameters(), gradients, strict=True):
            torch.testing.assert_close(one.grad, other, rtol=1e-4, atol=1e-4)
        for one, other in zip(svi.guide.parameters(), parameters, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        assert svi.scheduler.get_last_lr() == scheduler.get_last_lr()
    pyro.set_rng_seed(99)
    again = svi.evaluate_loss(x, y)
    pyro.set_rng_seed(99)
    assert again == pytest.approx(reference.loss(same_model, same_guide, x, y), rel=1e-5)


@pytest.mark.parametrize(
    "optim",
    [
        pyro.optim.Adam({"lr": 0.02, "betas": (0.8, 0.99)}),
        pyro.optim.ClippedAdam({"lr": 0.02, "clip_norm": 0.5, "lrd": 0.98}),
        pyro.optim.SGD({"lr": 1e-4, "momentum": 0.9}),
    ],
)
def test_pyros_optimizers_as_in_pyros_svi(optim):
    x, y = data()
    (model, ours), (same_model, same_guide) = twins(AutoMeanField, scale=Learned(1.0))
    reference = SVI(same_model, same_guide, optim, TraceMeanField_ELBO())
    expected = []
    for step in range(6):
        pyro.set_rng_seed(step)
        expected.append(reference.step(x, y))
    learned = pyro.param("weights_scale").detach().clone()
    pyro.clear_param_store()
    svi, losses = PhasedSVI(model, ours, optim), []
    for step in range(6):
        pyro.set_rng_seed(step)
        losses.append(svi.step(x, y))
    assert losses == pytest.approx(expected, rel=1e-5)
    for one, other in zip(ours.parameters(), same_guide.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pyro.param("weights_scale").detach(), learned)


def test_warm_up_weighs_the_divergence():
    """Likelihood in full, divergence times 1/4, 2/4, 3/4, 1, 1."""
    x, y = data()
    model = regression()
    svi = PhasedSVI(model, AutoMeanField, partial(torch.optim.SGD, lr=0.0), warmup=4)
    weights, losses = [], []
    for _ in range(6):
        weights.append(svi.kl_weight)
        pyro.set_rng_seed(0)
        losses.append(svi.step(x, y))
    assert weights == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    pyro.set_rng_seed(0)
    q = poutine.trace(svi.guide).get_trace(x, y)
    p = poutine.trace(poutine.replay(model, trace=q)).get_trace(x, y)
    likelihood = p.nodes["obs"]["fn"].log_prob(y).sum()
    sites = ("weights_loc", "weights_scale", "weights", "noise")
    divergence = sum(kl_divergence(q.nodes[s]["fn"], p.nodes[s]["fn"]).sum() for s in sites)
    likelihood, divergence = likelihood.item(), divergence.item()
    for weight, loss in zip(weights, losses, strict=True):
        assert loss == pytest.approx(weight * divergence - likelihood, rel=1e-5)
    pyro.set_rng_seed(0)
    assert svi.evaluate_loss(x, y) == pytest.approx(divergence - likelihood, rel=1e-5)


@pytest.mark.parametrize("kind", ["mean_field", "normal"])
def test_regroups_while_the_user_loops_over_steps(kind):
    model = regression()
    proposals = [torch.arange(31) % n for n in (4, 2, 5)]
    schedule = Regroup(Planned(*proposals), steps=3, start=2, stop=12)
    svi = PhasedSVI(model, GUIDES[kind], Adam, regroup=schedule)
    counts = []
    for _ in range(16):
        svi.step(*data())
        counts.append(model.assignment.num_groups)
    assert counts == [3] * 4 + [4] * 3 + [2] * 3 + [5] * 6
    assert [(p.step, p.phase) for p in svi.history.phases] == [(5, 1), (8, 2), (11, 3)]
    assert svi.phase == 3 and svi.epoch == 0 and svi.history.epochs == []


def test_regroups_between_epochs():
    svi = PhasedSVI(
        regression(), AutoMeanField, Adam, regroup=Regroup(KMeans(4, n_init=1), epochs=2, start=1)
    )
    svi.run(DataLoader(TensorDataset(*data()), batch_size=16), 7, progress=False)
    assert [(p.epoch, p.step) for p in svi.history.phases] == [(3, 12), (5, 20), (7, 28)]
    with pytest.raises(RuntimeError, match="Regroup"):
        PhasedSVI(regression(), AutoMeanField, Adam).regroup()
    fresh = PhasedSVI(regression(), AutoMeanField, Adam, regroup=svi.regroup_schedule)
    with pytest.raises(RuntimeError, match="one step"):
        fresh.regroup()


class Named(Dataset):
    def __init__(self):
        self.x, self.y = data()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return {"inputs": self.x[index], "y": self.y[index]}


def test_minibatches_of_a_loader():
    """Every row once an epoch, in an order that is drawn anew; a dictionary goes by keyword."""
    seen = []

    class Recording(BayesianModule):
        def forward(self, inputs, y=None):
            if poutine.get_mask() is not False and torch.is_grad_enabled():
                seen.append(inputs)
            return super().forward(inputs, y)

    torch.manual_seed(1)
    model = Recording(nn.Linear(3, 1), likelihoods.Normal(), num_data=64)
    svi = PhasedSVI(model, AutoMeanField, Adam)
    history = svi.run(DataLoader(Named(), 24, shuffle=True), 3, progress=False)
    assert [len(batch) for batch in seen] == [24, 24, 16] * 3
    epochs = [torch.cat(seen[3 * i : 3 * i + 3]) for i in range(3)]
    assert not torch.equal(epochs[0], epochs[1])
    expected = data()[0].sort(0).values
    assert all(torch.equal(epoch.sort(0).values, expected) for epoch in epochs)
    assert [(e.epoch, e.step) for e in history.epochs] == [(1, 3), (2, 6), (3, 9)]


def test_history_is_the_mean_of_the_steps():
    losses = []
    svi = PhasedSVI(regression(), AutoMeanField, Adam, warmup=8)
    step = svi.step
    svi.step = lambda *batch: losses.append(step(*batch)) or losses[-1]
    svi.run(DataLoader(TensorDataset(*data()), 16), 2, progress=False)
    table = svi.history.to_frame()
    assert table["loss"].tolist() == pytest.approx([sum(losses[:4]) / 4, sum(losses[4:]) / 4])
    assert table["kl_weight"].tolist() == [5 / 8, 1.0]
    assert table["learning_rate"].tolist() == [0.02, 0.02]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("keyword", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_bad_numbers_in_a_batch(bad, keyword, first):
    svi = PhasedSVI(regression(scale=Learned(1.0)), AutoMeanField, Adam)
    if not first:
        svi.step(*data())
        before = full_state(svi)
    x, y = data()
    x[7, 2] = bad
    random = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"1 NaN or inf, the first at \[7, 2\]"):
        svi.step(inputs=x, y=y) if keyword else svi.step(x, y)
    assert torch.equal(torch.get_rng_state(), random)
    if first:
        assert svi.optimizer is None and len(pyro.get_param_store()) == 0
        assert not svi.guide.is_set_up
    else:
        assert_same(before, full_state(svi))


def test_a_batch_that_failed_is_not_done():
    x, y = data()
    broken = x.clone()
    broken[0, 0] = float("nan")
    svi, batches = PhasedSVI(regression(), AutoMeanField, Adam), [(x, y), (broken, y)]
    with pytest.raises(ValueError, match="NaN"):
        svi.run(batches, 1, progress=False)
    assert (svi.batch_in_epoch, svi.step_count) == (1, 1)
    batches[1] = (x, y)
    svi.run(batches, 1, progress=False)
    assert (svi.batch_in_epoch, svi.step_count, svi.epoch) == (0, 2, 1)


@pytest.mark.parametrize("scheduler", [None, partial(torch.optim.lr_scheduler.StepLR, step_size=1)])
def test_loss_that_is_nan_leaves_the_parameters(scheduler):
    """Finite data, but too large for single precision when squared."""
    svi = PhasedSVI(regression(), AutoMeanField, Adam, scheduler=scheduler)
    x, y = data()
    svi.step(x, y)
    before = full_state(svi)
    with torch.random.fork_rng(), pytest.raises(FloatingPointError, match="at step 2; the step"):
        svi.step(x, y * 1e30)
    assert_same(before, full_state(svi))


def test_minibatches_need_the_size_of_the_data():
    model = BayesianModule(nn.Linear(3, 1), likelihoods.Normal())
    svi = PhasedSVI(model, AutoMeanField, Adam)
    with pytest.raises(ValueError, match=r"num_data: the loader gives minibatches"):
        svi.run(DataLoader(TensorDataset(*data()), 16), 1, progress=False)
    assert svi.optimizer is None
    svi.run(DataLoader(TensorDataset(*data()), 64), 1, progress=False)  # all of them at once


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda m: PhasedSVI(3, AutoMeanField, Adam), TypeError, "model: expected a callable"),
        (lambda m: PhasedSVI(m, 3, Adam), TypeError, "guide: expected a callable"),
        (lambda m: PhasedSVI(m, AutoMeanField, Adam, "elbo"), TypeError, "loss"),
        (lambda m: PhasedSVI(m, AutoMeanField, Adam, regroup=KMeans(3)), TypeError, "a Regroup"),
        (lambda m: PhasedSVI(m, AutoMeanField, Adam, warmup=-1), ValueError, "warmup"),
        (lambda m: PhasedSVI(m, AutoMeanField, Adam, clip_norm=0.0), ValueError, "clip_norm"),
        (lambda m: PhasedSVI(m, AutoMeanField(regression()), Adam), ValueError, "another model"),
        (lambda m: PhasedSVI(m, AutoMeanField, Adam).run([data()], 0), ValueError, "epochs"),
    ],
)
def test_bad_arguments(make, error, match):
    with pytest.raises(error, match=match):
        make(regression())


def test_plain_svi_still_finds_the_parameters_of_a_guide_that_phased_svi_has_trained() -> None:
    model = regression()
    guide, (x, y) = AutoMeanField(model), data()
    PhasedSVI(model, guide, Adam).step(x, y)
    before = guide.moments("weights")[0]
    SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), TraceMeanField_ELBO()).step(x, y)
    assert not torch.equal(guide.moments("weights")[0], before)
