# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The rule that ends a run, on made-up losses and on a posterior that is known."""

import functools
import math
import types
import warnings

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn

from pyro_groupprior import (
    AutoMeanField,
    BayesianModule,
    Callback,
    PhasedSVI,
    Regroup,
    likelihoods,
)
from pyro_groupprior.svi import ConvergenceWarning, EpochRecord, UntilConverged, loss_fall
from pyro_groupprior.svi.convergence import default_rate
from tests.svi.runs import Adam, assert_same, data, full_state, regression

ROWS = 1000


def follow(convergence, loss, warmup=0, phases=None):
    """What the rule makes of a loss that depends on the step and the rate; an epoch is a step."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    run = types.SimpleNamespace(
        model=len,
        history=types.SimpleNamespace(epochs=[], phases=[]),
        optimizer=optimizer,
        epoch=0,
        step_count=0,
        phase=0,
        kl_weight=1.0,
        should_stop=False,
        regroup_schedule=None,
        last_batch=((torch.zeros(ROWS),), {}),
    )
    rates = []
    convergence.begin(run)
    while not run.should_stop:
        convergence.set_rate(run)
        rates.append(optimizer.param_groups[0]["lr"])
        value = loss(run.step_count, rates[-1])
        run.epoch = run.step_count = run.step_count + 1
        run.kl_weight = min(1.0, run.step_count / max(warmup, 1))
        run.history.epochs.append(EpochRecord(run.epoch, run.epoch, 0, value, rates[-1], 1.0))
        convergence.after_epoch(run)
    return rates


def test_the_fall_of_known_losses():
    # Of 1 / t, the mean over the last quarter against the one before.
    losses = [1000.0 / t for t in range(1, 401)]
    third, fourth = np.mean(losses[200:300]), np.mean(losses[300:])
    fall, error = loss_fall(losses)
    assert fall == pytest.approx(third - fourth)
    assert 0 < error < fall
    assert loss_fall([3.0] * 8) == (0.0, 0.0)


@pytest.mark.parametrize("memory", [0.0, 0.6])
def test_the_error_of_the_fall_is_honest(memory):
    """Over many traces of noise, also where each loss takes after the last one."""
    random = np.random.default_rng(3)
    ratios = []
    for _ in range(400):
        noise = random.normal(size=1600)
        for t in range(1, len(noise)):
            noise[t] += memory * noise[t - 1]
        fall, error = loss_fall(noise.tolist())
        ratios.append(fall / error)
    # Student's t of about 18 degrees of freedom has sd 1.06.
    assert 0.9 < np.std(ratios) < 1.25


def test_too_few_losses_are_refused():
    with pytest.raises(ValueError, match="losses: expected at least 8, got 7"):
        loss_fall([1.0] * 7)


@pytest.mark.parametrize("tau", [30, 300, 1000])
@pytest.mark.parametrize("sd", [0.0, 5.0])
def test_it_waits_for_an_exponential(tau, sd):
    random = np.random.default_rng(tau)
    tolerance = 0.001
    rates = follow(
        UntilConverged(tolerance),
        lambda step, rate: 400 * math.exp(-step / tau) + sd * random.normal(),
    )
    steady = sum(rate == 1.0 for rate in rates)
    # What is left of the fall is of the order of what the last quarter was allowed to bring.
    assert 400 * math.exp(-steady / tau) < 2 * tolerance * ROWS
    if sd == 0.0:
        # The quarter before the last one has to be flat as well, hence the two.
        assert steady < max(2.2 * tau * math.log(400 / (tolerance * ROWS)), 700)


def test_noise_lengthens_a_run():
    random = np.random.default_rng(0)
    lengths = [
        len(follow(UntilConverged(), lambda step, rate, sd=sd: 10 * sd * random.normal()))
        for sd in (0.1, 3.0, 10.0)
    ]
    assert lengths[0] == 750  # the least
    assert lengths[0] < lengths[1] < lengths[2]


def test_a_loss_that_keeps_falling_is_told():
    told = "max_steps: 3000 steps have not been enough .* a quarter brought 0.05 nats a row"
    convergence = UntilConverged(max_steps=3000)
    with pytest.warns(ConvergenceWarning, match=told):
        rates = follow(convergence, lambda step, rate: -0.1 * step)
    # It ends at a low rate nevertheless, and a further run begins anew.
    assert rates[:2000] == [1.0] * 2000
    assert len(rates) == 3000
    assert rates[-1] == pytest.approx(0.01, abs=0.001)
    assert convergence.stage == "done"


def test_a_run_may_be_shorter_than_its_warm_up():
    with pytest.warns(ConvergenceWarning, match="max_steps: 300 steps have not been enough"):
        rates = follow(UntilConverged(max_steps=300), lambda step, rate: 0.0, warmup=1000)
    assert rates == [1.0] * 300


def test_the_rate_falls_to_a_hundredth_as_a_cosine():
    rates = follow(UntilConverged(), lambda step, rate: 0.0)
    steady = sum(rate == 1.0 for rate in rates) - 1  # the first annealed step has the whole rate
    annealed = np.asarray(rates[steady:])
    assert len(annealed) == steady // 2
    middle = annealed[len(annealed) // 2]
    assert middle == pytest.approx(0.505, abs=0.01)
    assert annealed[-1] == pytest.approx(0.01, abs=0.001)
    assert (np.diff(annealed) < 0).all()


def test_nothing_is_judged_during_the_warm_up():
    rates = follow(UntilConverged(), lambda step, rate: 0.0, warmup=2000)
    assert sum(rate == 1.0 for rate in rates) >= 2500


def linear(x, y):
    """A linear net with a fixed prior: its posterior is normal but for the noise."""
    likelihood = likelihoods.Normal(noise=0.5)
    return BayesianModule(
        nn.Linear(x.shape[1], 1, bias=False), likelihood, num_data=len(y), loc=0.0, scale=1.0
    )


def test_it_ends_at_the_exact_posterior():
    """Mean-field's best: the exact mean, and the precisions of the exact posterior's diagonal."""
    torch.manual_seed(0)
    x = torch.randn(60, 3)
    y = x @ torch.tensor([[1.0], [-2.0], [0.3]]) + 0.5 * torch.randn(60, 1)
    model = linear(x, y)
    svi = PhasedSVI(model, AutoMeanField(model), warmup=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svi.run([(x, y)], progress=False)
    base = 3**-0.5
    precision = x.T @ x / 0.5**2 + torch.eye(3) / base**2
    mean = torch.linalg.solve(precision, x.T @ y / 0.5**2)[:, 0]
    found, sd = svi.guide.moments("weights")
    expected = precision.diagonal().rsqrt()
    assert ((found - mean).abs() < 0.15 * expected).all()
    torch.testing.assert_close(sd, expected, rtol=0.1, atol=0.0)


class Interrupt(Callback):
    """Save, then stop, in the middle of a run."""

    def __init__(self, path, epoch):
        self.path, self.epoch = path, epoch

    def on_epoch(self, svi):
        if svi.epoch == self.epoch:
            svi.save(self.path)
            svi.should_stop = True


@pytest.mark.parametrize("epoch", [50, 550, 720])
def test_an_interrupted_run_ends_alike(tmp_path, epoch):
    def make(*callbacks):
        torch.manual_seed(1)
        model = regression()
        options = {"convergence": UntilConverged(tolerance=0.2), "warmup": 100}
        return PhasedSVI(model, AutoMeanField, callbacks=callbacks, **options)

    whole = make()
    whole.run([data()], progress=False)
    first = make(Interrupt(tmp_path / "run", epoch))
    first.run([data()], progress=False)
    assert first.epoch == epoch < whole.epoch
    second = make()
    second.load(tmp_path / "run", *data())
    second.run([data()], progress=False)
    assert second.epoch == whole.epoch
    assert_same(full_state(second), full_state(whole))


def test_it_begins_anew_after_whatever_came_before():
    torch.manual_seed(0)
    convergence = UntilConverged(tolerance=0.2)
    svi = PhasedSVI(regression(), AutoMeanField, Adam, warmup=0, convergence=convergence)
    for _ in range(600):
        svi.step(*data())
    for _ in range(2):
        before = svi.step_count
        history = svi.run([data()], progress=False)
        assert svi.step_count >= before + 750
        assert history.epochs[-1].learning_rate < 0.02 * rate_of(Adam)
        assert rate(svi) == rate_of(Adam)  # for what comes after it
        svi.run([data()], 5, progress=False)


def rate(svi):
    return svi.optimizer.param_groups[0]["lr"]


def rate_of(factory):
    return factory([torch.zeros(1, requires_grad=True)]).param_groups[0]["lr"]


def test_a_fixed_run_after_an_interrupted_one_has_the_whole_rate(tmp_path):
    torch.manual_seed(0)
    convergence = UntilConverged(max_steps=600)
    interrupt = Interrupt(tmp_path / "run", 590)
    options = {"warmup": 0, "convergence": convergence, "callbacks": [interrupt]}
    svi = PhasedSVI(regression(), AutoMeanField, Adam, **options)
    svi.run([data()], progress=False)
    assert convergence.stage == "anneal" and rate(svi) < 0.1 * rate_of(Adam)
    svi.run([data()], 10, progress=False)
    assert {r.learning_rate for r in svi.history.epochs[-10:]} == {rate_of(Adam)}


def test_a_run_that_was_cut_short_may_go_on_for_longer(tmp_path):
    def make(max_steps, *callbacks):
        torch.manual_seed(0)
        convergence = UntilConverged(1e-6, max_steps)
        options = {"warmup": 0, "convergence": convergence, "callbacks": callbacks}
        return PhasedSVI(regression(), AutoMeanField, Adam, **options)

    make(600, Interrupt(tmp_path / "run", 500)).run([data()], progress=False)
    svi = make(900)
    svi.load(tmp_path / "run", *data())
    with pytest.warns(ConvergenceWarning, match="900 steps"):
        svi.run([data()], progress=False)
    rates = [record.learning_rate for record in svi.history.epochs]
    assert rates[450] < rates[501] == rate_of(Adam)
    assert rates[-1] < 0.02 * rate_of(Adam)


def test_the_weight_of_the_divergence_is_told_where_the_warm_up_was_too_long():
    svi = PhasedSVI(
        regression(), AutoMeanField, Adam, warmup=400, convergence=UntilConverged(max_steps=100)
    )
    with pytest.warns(ConvergenceWarning, match=r"the divergence at 0\.25 of its weight"):
        svi.run([data()], progress=False)
    svi = PhasedSVI(regression(), AutoMeanField, Adam, convergence=UntilConverged(max_steps=100))
    with pytest.warns(ConvergenceWarning, match="100 steps have not been enough"):
        svi.run([data()], progress=False)
    assert svi.kl_weight == 1.0


def test_groups_are_drawn_anew_when_it_has_converged():
    torch.manual_seed(0)
    svi = PhasedSVI(
        regression(),
        AutoMeanField,
        warmup=100,
        regroup=Regroup(KMeans(2, random_state=0), phases=2),
        convergence=UntilConverged(tolerance=0.2),
    )
    history = svi.run([data()], progress=False)
    records = history.phases
    assert 1 <= len(records) <= 2
    # Each regroup comes at the end of an annealing, and the rate goes up again after it.
    rates = {record.epoch: record.learning_rate for record in history.epochs}
    for record in records:
        assert rates[record.epoch] < 0.02 * rates[record.epoch + 1]
    assert len(records) == 2 or records[-1].churn < 0.02


def test_a_run_of_a_given_length_tells_if_it_was_too_short():
    torch.manual_seed(0)
    slow = functools.partial(torch.optim.Adam, lr=0.005)
    svi = PhasedSVI(regression(), AutoMeanField, slow, warmup=0, retries=0)
    with pytest.warns(ConvergenceWarning, match="still falling when the run ended: by"):
        svi.run([data()], 200, progress=False)
    svi.convergence = UntilConverged(tolerance=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svi.run([data()], progress=False)
        svi.run([data()], 60, progress=False)


@pytest.mark.parametrize("width", [1, 10_000])
def test_the_rate_is_in_units_of_the_base_scale(width):
    model = BayesianModule(nn.Linear(width, 1), likelihoods.Normal(), num_data=5)
    svi = PhasedSVI(model, AutoMeanField)
    svi.setup(torch.zeros(5, width), torch.zeros(5, 1))
    assert default_rate(svi.groups) == pytest.approx(min(0.01, 0.07 * width**-0.5))


def test_a_scheduler_needs_a_number_of_epochs():
    factory = functools.partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9)
    svi = PhasedSVI(regression(), AutoMeanField, Adam, scheduler=factory)
    with pytest.raises(ValueError, match="epochs: expected a number"):
        svi.run([data()], progress=False)


def test_bad_options():
    with pytest.raises(ValueError, match="tolerance: expected a positive number, got 0"):
        UntilConverged(tolerance=0)
    for number in (0, 2.5, math.nan):
        with pytest.raises(ValueError, match="max_steps: expected a positive whole number, got"):
            UntilConverged(max_steps=number)
    with pytest.raises(TypeError, match="convergence: expected an UntilConverged, got int"):
        PhasedSVI(regression(), AutoMeanField, Adam, convergence=3)
    with pytest.raises(ValueError, match="expected exactly one of them"):
        Regroup(KMeans(2), phases=3, steps=4)
    with pytest.raises(ValueError, match="expected a positive number, got 0"):
        Regroup(KMeans(2), phases=0)
