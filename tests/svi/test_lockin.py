# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.cluster import KMeans
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

import pyro_groupprior as pgp


def make_run(strategy, num_phases=3, steps=100, noise=0.5, callbacks=(), first=None):
    generator = torch.Generator().manual_seed(3)
    truth = torch.arange(30) % 2
    weights = 2.0 * truth - 1 + 0.1 * torch.randn(30, generator=generator)
    x = torch.randn(60, 30, generator=generator)
    y = x @ weights + noise * torch.randn(60, generator=generator)
    first = torch.randint(2, (30,), generator=generator) if first is None else first
    groups = pgp.AssignmentBuffer(pgp.Assignment(first, 2))

    def model(x, y):
        beta = pgp.group_prior("beta", groups)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x @ beta, noise), obs=y)

    svi = pgp.PhasedSVI(
        model,
        pgp.AutoMeanField(model),
        functools.partial(torch.optim.Adam, lr=0.03),
        regroup=pgp.Regroup(strategy, epochs=steps),
        scheduler=functools.partial(CosineAnnealingWarmRestarts, T_0=steps, eta_min=3e-4),
        callbacks=callbacks,
        warmup=0,
    )
    svi.run([(x, y)], num_phases * steps, progress=False)
    return svi, (x, y), pgp.Assignment(truth)


def state_of(svi):
    tensors = {name: value.clone() for name, value in svi.guide.state_dict().items()}
    for index, state in svi.optimizer.state_dict()["state"].items():
        tensors |= {f"{index}.{key}": torch.as_tensor(v).clone() for key, v in state.items()}
    numbers = (
        svi.step_count,
        svi.epoch,
        svi.phase,
        svi.optimizer.param_groups[0]["lr"],
        svi.scheduler.state_dict(),
        len(svi.history.phases),
    )
    return tensors, numbers, svi.groups["beta"].assignment, torch.random.get_rng_state()


def test_groups_of_the_data_come_back():
    svi, batch, truth = make_run(pgp.DeconvolvedMixture(2, criterion=None))
    assert pgp.adjusted_rand_index(svi.groups["beta"].assignment, truth) == 1.0
    found = pgp.lock_in_test(svi, [batch], epochs=100)["beta"]
    assert found.control == 1.0 and found.rand_index == 1.0 and not found.locked_in
    # The scatter itself is no regroup of the strategy's, but recorded as what it is.
    assert found.churns[0] > 0.2 and found.churns[-1] < 0.05


def test_groups_that_nothing_moves_are_locked_in():
    class Stubborn:
        """Keeps whatever groups there are."""

        def propose(self, posterior):
            return posterior.assignment

    svi, batch, _ = make_run(Stubborn())
    found = pgp.lock_in_test(svi, [batch], epochs=20, phases=2)["beta"]
    assert found.control == 1.0 and found.rand_index < 0.5 and found.locked_in


def test_the_run_is_left_as_it_was():
    svi, batch, _ = make_run(KMeans(2, random_state=0, n_init=1), num_phases=2)
    before = state_of(svi)
    pgp.lock_in_test(svi, [batch], epochs=10, phases=1, lr=0.1)
    after = state_of(svi)
    assert before[1] == after[1] and before[2] == after[2]
    assert torch.equal(before[3], after[3])
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())


def test_it_goes_on_as_if_it_had_not_been_tested():
    ends = []
    for tested in (False, True):
        pyro.set_rng_seed(5)
        svi, batch, _ = make_run(pgp.DeconvolvedMixture(2, criterion=None), num_phases=2)
        if tested:
            pgp.lock_in_test(svi, [batch], epochs=10, phases=1)
        svi.run([batch], 50, progress=False)
        ends.append(svi.guide.moments("beta")[0])
    assert torch.equal(*ends)


def test_callbacks_of_the_user_do_not_see_it():
    class Count(pgp.Callback):
        steps = 0

        def on_step(self, svi, loss):
            self.steps += 1

    count = Count()
    svi, batch, _ = make_run(pgp.Naive(2), num_phases=1, steps=20, callbacks=[count])
    pgp.lock_in_test(svi, [batch], epochs=5, phases=1)
    assert count.steps == 20 and svi.callbacks == [count]


def test_an_error_inside_leaves_the_run_as_it_was():
    class Failing:
        calls = 0

        def propose(self, posterior):
            self.calls += 1
            if self.calls > 1:
                raise ArithmeticError("no")
            return posterior.assignment

    svi, batch, _ = make_run(Failing(), num_phases=1, steps=20)
    before = state_of(svi)
    with pytest.raises(ArithmeticError):
        pgp.lock_in_test(svi, [batch], epochs=5)
    after = state_of(svi)
    assert before[1] == after[1] and torch.equal(before[3], after[3])
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"epochs": 0}, "epochs: expected a positive number, got 0"),
        ({"epochs": 5, "phases": 0}, "phases: expected a positive number, got 0"),
        ({"epochs": 5, "lr": -1.0}, "lr: expected a positive number, got -1.0"),
        ({"epochs": 5, "lr": math.nan}, "lr: expected a positive number, got nan"),
    ],
)
def test_refuses_numbers(options, message):
    svi, batch, _ = make_run(pgp.Naive(2), num_phases=1, steps=5)
    with pytest.raises(ValueError, match=message):
        pgp.lock_in_test(svi, [batch], **options)


def test_refuses_runs_without_a_schedule_and_loaders_without_a_length():
    svi, batch, _ = make_run(pgp.Naive(2), num_phases=1, steps=5)
    with pytest.raises(ValueError, match="loader: expected one that knows its length"):
        pgp.lock_in_test(svi, iter([batch]), epochs=2)
    svi.regroup_schedule = None
    with pytest.raises(RuntimeError, match="needs a run with a Regroup"):
        pgp.lock_in_test(svi, [batch], epochs=2)
