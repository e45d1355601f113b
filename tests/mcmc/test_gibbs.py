# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Gibbs within HMC against exact enumeration, and the manners of its kernel."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import HMC, MCMC, NUTS
from torch import nn

from pyro_groupprior import (
    Assignment,
    AssignmentBuffer,
    BayesianModule,
    Learned,
    assign,
    families,
    group_prior,
    likelihoods,
)
from pyro_groupprior.mcmc import (
    GibbsGroups,
    enumerate_assignments,
    linear_log_evidence,
    run_gibbs,
)
from tests.mcmc.groups import LOC, SCALE, assert_agrees, pairs, tiny_data, upper

BASE = torch.tensor([0.5, 2.0, 1.0, 0.7])
WEIGHTS = torch.tensor([-0.5, 1.0, 0.2, 1.4])


class Still(HMC):
    """Leaves all but the assignments where they are."""

    def sample(self, params):
        return params


def start(value):
    """Start every site at a value of ours."""
    return lambda site: value[site["name"]]


def grouped_regression(buffer, noise=0.7, **prior):
    def model(x, y):
        weights = group_prior("w", buffer, **prior)
        pyro.sample("y", dist.Normal(x @ weights, noise).to_event(1), obs=y)

    return model


def alternating(num_weights, num_groups=2):
    return AssignmentBuffer(Assignment(torch.arange(num_weights) % num_groups, num_groups))


@pytest.mark.parametrize(
    "kernel", [partial(NUTS, max_tree_depth=2), partial(HMC, num_steps=8, step_size=0.3)]
)
def test_agrees_with_enumeration_where_groups_are_known(kernel):
    x, y = tiny_data(6)
    model = grouped_regression(alternating(6), loc=LOC, scale=SCALE)
    run = partial(run_gibbs, kernel=kernel, num_samples=1000, warmup_steps=80, progress=False)
    result = run(model, x, y, concentration=0.8)
    log_evidence = linear_log_evidence(x, y, 0.7, LOC, SCALE)
    exact = enumerate_assignments(log_evidence, 6, 2, concentration=0.8)
    assert_agrees(result.assignments["w"], exact.responsibilities[:, 1])
    assert_agrees(pairs(result.assignments["w"]), upper(exact.co_clustering))
    torch.testing.assert_close(
        result.responsibilities("w", relabel=False)[:, 1].double(),
        result.assignments["w"].double().mean((0, 1)),
    )


def test_agrees_with_enumeration_where_locations_are_latent():
    x, y = tiny_data(4)
    base = torch.tensor([0.5, 1.5, 1.0, 1.0])
    model = grouped_regression(alternating(4), scale=SCALE, base_scale=base)
    run = partial(run_gibbs, kernel=partial(NUTS, max_tree_depth=3), num_samples=400)
    result = run(model, x, y, warmup_steps=80, progress=False)
    log_evidence = linear_log_evidence(x, y, 0.7, 0 * LOC, SCALE, base, loc_sd=1.0)
    exact = enumerate_assignments(log_evidence, 4, 2, concentration=1.0)
    assert_agrees(pairs(result.assignments["w"]), upper(exact.co_clustering))


@pytest.mark.parametrize(
    ("family", "kind"),
    [("normal", "latent"), ("laplace", "fixed"), (families.StudentT(3.0), "learned")],
)
def test_assignments_come_from_their_exact_conditional(family, kind):
    """With everything else standing still."""
    loc, scale = {
        "fixed": (LOC, SCALE),
        "latent": (None, None),
        "learned": (Learned(LOC), Learned(SCALE)),
    }[kind]

    def model():
        group_prior("w", buffer, loc=loc, scale=scale, base_scale=BASE, family=family)

    buffer = alternating(4)
    strategy = start({"w": WEIGHTS, "w_loc": LOC, "w_scale": SCALE})
    kernel = GibbsGroups(Still(model, init_strategy=strategy), concentration=0.7)
    kernel.setup(0)
    params, draws = kernel.initial_params, []
    for _ in range(600):
        params = kernel.sample(params)
        draws.append(params["w_assignment"])
    fn = families.as_family(family)

    def log_density(z):
        return fn.distribution(BASE * LOC[z], BASE * SCALE[z]).log_prob(WEIGHTS).sum(1)

    exact = enumerate_assignments(log_density, 4, 2, concentration=0.7)
    assert_agrees(torch.stack(draws)[None], exact.responsibilities[:, 1])


def test_priors_that_share_a_grouping_are_grouped_by_both():
    def model():
        group_prior("a", buffer, loc=LOC, scale=SCALE)
        group_prior("b", buffer, loc=-LOC, scale=SCALE)

    buffer = alternating(3)
    values = {"a": torch.tensor([0.1, 0.3, 0.6]), "b": torch.tensor([-0.4, 0.4, -0.3])}
    kernel = GibbsGroups(Still(model, init_strategy=start(values)))
    kernel.setup(0)
    params, draws = kernel.initial_params, []
    for _ in range(600):
        params = kernel.sample(params)
        draws.append(params["a_assignment"])
        assert torch.equal(params["a_assignment"], params["b_assignment"])

    def log_density(z):
        one = dist.Normal(LOC[z], SCALE[z]).log_prob(values["a"])
        return (one + dist.Normal(-LOC[z], SCALE[z]).log_prob(values["b"])).sum(1)

    exact = enumerate_assignments(log_density, 3, 2, concentration=1.0)
    assert_agrees(torch.stack(draws)[None], exact.responsibilities[:, 1])


def test_log_joint_is_that_of_the_recorded_draw():
    x, y = tiny_data(5)
    model = grouped_regression(alternating(5, 3), scale=0.5)
    result = run_gibbs(model, x, y, num_samples=8, warmup_steps=5, num_chains=2, progress=False)
    weights, loc = result.samples["w"], result.samples["w_loc"]
    z = result.assignments["w"].long()
    sizes = torch.stack([(z == g).sum(-1) for g in range(3)], -1).float()
    # Uniform proportions: all sizes are equally likely, and all orders given the sizes.
    prior = (sizes + 1).lgamma().sum(-1) - torch.tensor(8.0).lgamma() + torch.tensor(3.0).lgamma()
    expected = (
        dist.Normal((x @ weights[..., None])[..., 0], 0.7).log_prob(y).sum(-1)
        + dist.Normal(loc.gather(-1, z), 0.5).log_prob(weights).sum(-1)
        + dist.Normal(0.0, 1.0).log_prob(loc).sum(-1)
        + prior
    )
    torch.testing.assert_close(result.log_joint, expected, atol=1e-3, rtol=1e-4)


def test_same_seed_same_draws_and_nothing_else_changes():
    x, y = tiny_data(4)
    soft = Assignment.from_dense(torch.full((4, 2), 0.5))
    buffer = AssignmentBuffer(soft)
    run = partial(run_gibbs, grouped_regression(buffer), x, y, num_samples=8, warmup_steps=8,
                  num_chains=2, progress=False)  # fmt: skip
    state = torch.get_rng_state()
    one, same, other = run(), run(), run(seed=1)
    assert buffer.assignment == soft
    assert torch.equal(torch.get_rng_state(), state)
    for name in ("w", "w_loc", "w_scale"):
        assert one.samples[name].shape[:2] == (2, 8)
        assert torch.equal(one.samples[name], same.samples[name])
        assert not torch.equal(one.samples[name], other.samples[name])
        assert not torch.equal(one.samples[name][0], one.samples[name][1])
    assert torch.equal(one.assignments["w"], same.assignments["w"])
    assert one.assignments["w"].dtype == torch.int8
    torch.testing.assert_close(one.weights["w"].sum(-1), torch.ones(2, 8))


def test_another_process_gives_the_same_draws():
    torch.manual_seed(1)
    model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal(), scale=Learned(0.5))
    x = torch.randn(6, 2)
    y = x.sum(1, keepdim=True)
    run = partial(run_gibbs, model, x, y, num_samples=3, warmup_steps=3, progress=False)
    one, two = run(n_jobs=1), run(n_jobs=2)
    torch.testing.assert_close(one.samples, two.samples)
    assert torch.equal(one.assignments["weights"], two.assignments["weights"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_grouping_is_restored_after_an_interrupt(error):
    buffer, calls = alternating(4), []
    inner = grouped_regression(buffer)

    def model(x, y):
        calls.append(1)
        if len(calls) == 40:
            raise error
        inner(x, y)

    before, state = buffer.assignment, torch.get_rng_state()
    with pytest.raises(error):
        run_gibbs(model, *tiny_data(4), progress=False)
    assert buffer.assignment == before
    assert torch.equal(torch.get_rng_state(), state)


def test_first_groupings():
    x, y = tiny_data(4)
    buffer = alternating(4)
    seen = []

    def model(x, y):
        seen.append(buffer.assignment)
        grouped_regression(buffer)(x, y)

    run = partial(run_gibbs, model, x, y, num_samples=2, warmup_steps=0, progress=False)
    five = Assignment(torch.tensor([4, 0, 0, 0]), 5)
    result = run(first={"w": five})
    assert five in seen and result.weights["w"].shape == (1, 2, 5)
    assert result.samples["w_loc"].shape == (1, 2, 5)
    seen.clear()
    run(first="present")
    assert seen[0] == seen[1] == buffer.assignment
    assert buffer.assignment == alternating(4).assignment


def test_as_a_kernel_of_plain_mcmc():
    x, y = tiny_data(4)
    buffer = alternating(4)
    before = buffer.assignment
    kernel = GibbsGroups(NUTS(grouped_regression(buffer), max_tree_depth=2))
    mcmc = MCMC(kernel, num_samples=6, warmup_steps=4, disable_progbar=True)
    mcmc.run(x, y)
    draws = mcmc.get_samples()
    expected = {"w", "w_loc", "w_scale", "w_assignment", "w_proportions", "log_joint"}
    assert set(draws) == expected
    assert (draws["w_scale"] > 0).all()
    assert set(draws["w_assignment"].unique().tolist()) <= {0.0, 1.0}
    assert buffer.assignment == before
    assert "acceptance rate" in mcmc.diagnostics()


def test_sorts_the_weights_of_a_net():
    torch.manual_seed(0)
    net = BayesianModule(
        nn.Linear(6, 1, bias=False), likelihoods.Normal(), grouping=[0, 1] * 3, scale=0.5
    )
    x = torch.randn(60, 6)
    truth = torch.tensor([0, 1, 0, 1, 1, 0])
    y = x @ torch.tensor([-1.0, 1.0])[truth][:, None] + 0.1 * torch.randn(60, 1)
    result = run_gibbs(net, x, y, kernel=partial(NUTS, max_tree_depth=3), num_samples=40,
                       warmup_steps=40, progress=False)  # fmt: skip
    together = result.co_clustering("weights") > 0.5
    assert torch.equal(together, truth[:, None] == truth)
    assert "noise" in result.samples


def test_refuses_models_whose_conditionals_are_not_exact():
    x, y = tiny_data(4)
    buffer = alternating(4)

    def elsewhere(x, y):
        weights = group_prior("w", buffer)
        shift = assign("w", buffer).index.float()
        pyro.sample("y", dist.Normal(x @ (weights + 3 * shift), 0.7).to_event(1), obs=y)

    def random(x, y):
        grouped_regression(buffer)(x, y + torch.randn(()))

    def replicated(x, y):
        with pyro.plate("replications", 2, dim=-2):
            group_prior("w", buffer)

    for model in (elsewhere, random):
        with pytest.raises(ValueError, match="kernel: expected a density that depends on"):
            run_gibbs(model, x, y, progress=False)
    with pytest.raises(ValueError, match="kernel: expected a density that depends on"):
        jit = partial(NUTS, jit_compile=True, ignore_jit_warnings=True)
        with pytest.warns(DeprecationWarning):
            run_gibbs(grouped_regression(buffer), x, y, kernel=jit, progress=False)
    with pytest.raises(ValueError, match=r"w: expected weights of shape \[4\].*outer plates"):
        run_gibbs(replicated, x, y, progress=False)
    with pytest.raises(ValueError, match="not centred"):
        run_gibbs(grouped_regression(buffer, centered=False), x, y, progress=False)
    with pytest.raises(ValueError, match="as a constant"):
        run_gibbs(grouped_regression(buffer.assignment), x, y, progress=False)
    with pytest.raises(ValueError, match="model: expected a group_prior statement"):
        run_gibbs(lambda: pyro.sample("a", dist.Normal(0.0, 1.0)), progress=False)
    assert buffer.assignment == alternating(4).assignment


def test_refuses_names_that_it_keeps_draws_under():
    buffer = alternating(4)

    def model():
        group_prior("w", buffer)
        pyro.sample("log_joint", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"expected no sites named \['log_joint'\]"):
        run_gibbs(model, progress=False)
    assert buffer.assignment == alternating(4).assignment


def test_refusals_name_the_argument():
    model, (x, y) = grouped_regression(alternating(4)), tiny_data(4)
    run = partial(run_gibbs, model, x, y, progress=False)
    for name, least, bad in (("num_samples", 1, 0), ("warmup_steps", 0, -1), ("num_chains", 1, 0)):
        with pytest.raises(ValueError, match=f"{name}: expected at least {least}, got {bad}"):
            run(**{name: bad})
    with pytest.raises(ValueError, match="concentration: expected a finite positive number, got 0"):
        run(concentration=0.0)
    with pytest.raises(ValueError, match="first: expected 'random', 'present' or groupings"):
        run(first="best")
    with pytest.raises(TypeError, match="first: expected a name or a mapping, got int"):
        run(first=3)
    with pytest.raises(ValueError, match=r"first: expected a grouping for each of \['w'\]"):
        run(first={"v": alternating(4).assignment})
    with pytest.raises(TypeError, match=r"first\['w'\]: expected an Assignment, got int"):
        run(first={"w": 2})
    with pytest.raises(
        ValueError, match=r"first\['w'\]: expected one for 4 weights, got one for 3"
    ):
        run(first={"w": alternating(3).assignment})
    with pytest.raises(TypeError, match="kernel: expected HMC"):
        GibbsGroups(model)
    with pytest.raises(ValueError, match=r"kernel: expected .* a NUTS without a model"):
        GibbsGroups(NUTS(potential_fn=lambda z: z["w"].sum()))
    with pytest.raises(ValueError, match="concentration: expected a finite positive number"):
        GibbsGroups(NUTS(model), concentration=-1.0)
