# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

import pyro_groupprior as pgp
from pyro_groupprior.comparison import WeightMoments
from pyro_groupprior.families import Normal
from pyro_groupprior.symmetry import (
    Activations,
    Alignment,
    align_draws,
    in_frame,
    in_one_frame,
    matching_null,
    permute_draws,
    posterior_symmetry,
    transpositions_along,
)
from pyro_groupprior.symmetry.spec import Permutation

X, Y = torch.randn(7, 3), torch.randn(7, 1)


def _model(**options: Any) -> pgp.BayesianModule:
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))
    return pgp.BayesianModule(net, pgp.likelihoods.Normal(), **options)


def _draws(model: pgp.BayesianModule, count: int = 5) -> dict[str, Tensor]:
    each = []
    for seed in range(count):
        pyro.set_rng_seed(seed)
        nodes = poutine.trace(model).get_trace(X, Y).nodes
        sites = ("weights", "weights_decentered", "weights_loc", "weights_scale", "noise")
        each.append({name: nodes[name]["value"].detach() for name in sites if name in nodes})
    return {name: torch.stack([one[name] for one in each]) for name in each[0]}


def _log_joint(model: pgp.BayesianModule, draw: dict[str, Tensor]) -> float:
    """All of Pyro's own terms: of hyperpriors, prior and likelihood."""
    trace = poutine.trace(poutine.condition(model, draw)).get_trace(X, Y)
    return float(trace.log_prob_sum())


def _planted(symmetry: Any, count: int) -> Alignment:
    each = [symmetry.random(torch.Generator().manual_seed(seed)) for seed in range(count)]
    orders = {a: torch.stack([p.permutations[a] for p in each]) for a in symmetry.axes}
    signs = {name: torch.stack([p.signs[name] for p in each]) for name in symmetry.signs}
    return Alignment(Permutation(orders, signs), torch.zeros(count))


FOUND_UNITS = torch.tensor([0] * 18 + [1] * 6 + [2, 3, 2, 4, 3, 3] * 4 + [5] * 4 + [6] * 5)


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({"grouping": "all"}, {}),
        ({"grouping": "layer"}, {}),
        ({"grouping": "tensor"}, {}),
        ({"grouping": "column"}, {}),
        ({"grouping": "row"}, {}),
        ({"grouping": "column", "loc": 0.0}, {}),
        ({"grouping": "layer", "loc": 0.0, "family": "laplace"}, {}),
        ({"grouping": "column", "centered": False}, {}),
        ({"loc": 0.0, "scale": 1.0}, {}),
        ({"grouping": FOUND_UNITS}, {"0": [0, 1, 0, 2, 1, 1]}),
        ({"grouping": torch.arange(57) % 2}, {"0": [0, 1] * 3, "2": [0, 1] * 2}),
        # Of each group its own hyperprior: no two change places.
        ({"grouping": "column", "loc": dist.Normal(torch.arange(16.0), 1.0)}, "all differ"),
        ({"grouping": torch.arange(57)}, {}),
    ],
)
def test_rearranged_draws_are_as_likely(options: dict[str, Any], kinds: Any) -> None:
    model = _model(**options)
    symmetry = posterior_symmetry(model, X)
    if kinds == "all differ":
        assert all(len(kind.unique()) == len(kind) for kind in symmetry.kinds.values())
        assert set(symmetry.kinds) == {"0", "2"}
    else:
        assert {axis: kind.tolist() for axis, kind in symmetry.kinds.items()} == kinds
    assert len(symmetry.signs) == (2 if options.get("loc") == 0.0 else 0)
    draws = _draws(model)
    moved = permute_draws(model, draws, symmetry, _planted(symmetry, 5))
    for number in range(5):
        one = {name: value[number] for name, value in draws.items()}
        other = {name: value[number] for name, value in moved.items()}
        assert _log_joint(model, other) == pytest.approx(_log_joint(model, one), rel=1e-5)
    if kinds == {}:
        site = "weights" if "weights" in draws else "weights_decentered"
        assert not torch.equal(moved[site], draws[site])


def test_soft_groups_tell_units_apart() -> None:
    shares = torch.rand(57, 2, generator=torch.Generator().manual_seed(0))
    index = torch.tensor([[0, 1]]).expand(57, 2)
    grouping = pgp.Assignment(index, 2, shares / shares.sum(1, keepdim=True))
    symmetry = posterior_symmetry(_model(grouping=grouping), X)
    assert all(len(kind.unique()) == len(kind) for kind in symmetry.kinds.values())


def test_whatever_the_prior() -> None:
    model = _model(grouping=torch.arange(57) % 5)
    symmetry = posterior_symmetry(model, X, prior=False)
    assert not symmetry.kinds
    assert len(symmetry.signs) == 2
    draws = _draws(model)
    with pytest.raises(ValueError, match="weights can change places only with their whole groups"):
        permute_draws(model, draws, symmetry.unsigned(), _planted(symmetry.unsigned(), 5))
    draws["weights_assignment"] = model.assignment.index.float().expand(5, -1)
    with pytest.raises(ValueError, match=r"signs of weights cannot be flipped, .*unsigned\(\)"):
        permute_draws(model, draws, symmetry, _planted(symmetry, 5))
    del draws["weights_loc"]
    moved = permute_draws(model, draws, symmetry, _planted(symmetry, 5))
    outputs = [pgp.predict(model, given, X).outputs for given in (draws, moved)]
    torch.testing.assert_close(*outputs)
    assert torch.equal(moved["weights_scale"], draws["weights_scale"])
    # Weights that moved took their groups along.
    for number in range(5):
        before = torch.stack([draws[n][number].abs() for n in ("weights", "weights_assignment")])
        after = torch.stack([moved[n][number].abs() for n in ("weights", "weights_assignment")])
        assert sorted(before.T.tolist()) == sorted(after.T.tolist())


def test_draws_of_one_net_are_aligned() -> None:
    model = _model(grouping="column", loc=0.0)
    symmetry = posterior_symmetry(model, X)
    draws = {
        name: value[:1].repeat(6, *[1] * (value.dim() - 1))
        for name, value in _draws(model, 1).items()
    }
    mixed = permute_draws(model, draws, symmetry, _planted(symmetry, 6))
    aligned, alignment = align_draws(model, mixed, symmetry, restarts=3)
    assert float(mixed["weights"].var(0).sum()) > 0.1
    for name in ("weights", "weights_scale"):
        torch.testing.assert_close(aligned[name], aligned[name][:1].expand_as(aligned[name]))
    assert len(alignment.similarity) == 6
    back, _ = align_draws(model, mixed, symmetry, template=draws["weights"][0], restarts=3)
    torch.testing.assert_close(back["weights"], draws["weights"])


def test_a_guide_is_brought_into_the_frame_of_another() -> None:
    model = _model(loc=0.0)
    symmetry = posterior_symmetry(model, X)
    mean, sd = torch.randn(57), torch.rand(57) + 0.1
    both = {"weights": torch.stack([mean, sd])}
    planted = _planted(symmetry, 1)
    twice = Alignment(
        Permutation(
            {a: order.expand(2, -1) for a, order in planted.permutation.permutations.items()},
            {n: sign.expand(2, -1) for n, sign in planted.permutation.signs.items()},
        ),
        torch.zeros(2),
    )
    moved = permute_draws(model, both, symmetry, twice)["weights"]
    moments = WeightMoments(moved[0], moved[1].abs())
    found = in_frame(model, moments, symmetry, mean, restarts=3)
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.sd, sd)
    draws = permute_draws(model, {"weights": mean.expand(5, -1)}, symmetry, _planted(symmetry, 5))
    found = in_frame(model, draws, symmetry, mean, restarts=3)
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.sd, torch.zeros(57))


def test_one_frame_for_all() -> None:
    model = _model(loc=0.0)
    symmetry = posterior_symmetry(model, X)
    mean = torch.randn(57)
    draws = (mean + 0.01 * torch.randn(6, 57)).contiguous()
    one, other = (
        permute_draws(model, {"weights": draws}, symmetry, _planted(symmetry, 6)) for _ in range(2)
    )
    found = in_one_frame(model, {"hmc": one, "vi": other}, symmetry, "hmc", restarts=3)
    torch.testing.assert_close(found["hmc"].mean, found["vi"].mean, atol=1e-5, rtol=0)
    # The reference's own arrangement is as good as any other.
    torch.testing.assert_close(found["hmc"].sd.sort().values, draws.std(0).sort().values)
    with pytest.raises(ValueError, match="reference: expected one of"):
        in_one_frame(model, {"hmc": one}, symmetry, "vi")


class _Skewed(Normal):
    """As good as any that does not say whether it is symmetric."""

    is_symmetric = False


@pytest.mark.parametrize(
    ("options", "flipped"),
    [
        ({"loc": torch.tensor(0.0)}, True),
        ({"loc": torch.zeros(16)}, True),
        ({"loc": torch.ones(16)}, False),
        ({"loc": 0.0, "family": _Skewed()}, False),
    ],
)
def test_signs_need_a_prior_that_is_symmetric_about_zero(options: Any, flipped: bool) -> None:
    assert bool(posterior_symmetry(_model(**options), X).signs) == flipped


@pytest.mark.parametrize("scale", [dist.HalfCauchy(1.0).expand([16]), torch.ones(16)])
def test_hyperpriors_that_are_the_same_for_all(scale: Any) -> None:
    assert not posterior_symmetry(_model(scale=scale), X).kinds


def test_base_scales_tell_units_apart() -> None:
    base = torch.ones(57)
    base[:3] = 2.0  # what the first unit reads
    symmetry = posterior_symmetry(_model(base_scale=base, grouping="layer"), X)
    assert {axis: kind.tolist() for axis, kind in symmetry.kinds.items()} == {"0": [0] + [1] * 5}


def test_inputs_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 1)

        def forward(self, *, x: Tensor, times: int = 1) -> Tensor:
            return self.b(torch.relu(self.a(x) * times))

    model = pgp.BayesianModule(Named(), pgp.likelihoods.Normal())
    symmetry = posterior_symmetry(model, {"x": X, "times": 2})
    assert symmetry.axes == {"a": 6}
    activations = Activations(model.net, kwargs={"x": X, "times": 2})
    (block,) = activations({})
    expected = torch.relu(model.net.a(X) * 2)
    torch.testing.assert_close(block.value, expected)


def test_point_parameters_stay() -> None:
    net = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 1))
    nn.init.uniform_(net.get_parameter("1.weight"))
    model = pgp.BayesianModule(net, pgp.likelihoods.Normal())
    assert not posterior_symmetry(model, X).axes


def test_bad_input() -> None:
    model = _model()
    symmetry = posterior_symmetry(model, X)
    with pytest.raises(ValueError, match=r"draws: expected \[draws, 57\] of 'weights', got None"):
        align_draws(model, {}, symmetry)
    draws = {"weights": torch.randn(3, 57)}
    with pytest.raises(ValueError, match="alignment: expected one of 3 draws, got one of 2"):
        permute_draws(model, draws, symmetry, _planted(symmetry, 2))
    with pytest.raises(TypeError, match="model: expected a BayesianModule, got Linear"):
        posterior_symmetry(nn.Linear(3, 1), X)  # type: ignore[arg-type]


def test_one_frame_by_likelihood_and_in_any_precision() -> None:
    model = pgp.BayesianModule(
        nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)), pgp.likelihoods.Normal()
    )
    symmetry = posterior_symmetry(model, torch.randn(3, 2))
    draws = torch.randn(10, 21)
    posteriors = {"a": {"weights": draws.double()}, "b": {"weights": draws}}
    for by in ("weights", "likelihood"):
        found = in_one_frame(model, posteriors, symmetry, "a", by=by)
        assert found["b"].mean.shape == (21,)
    with pytest.raises(ValueError, match="by='likelihood' makes one of all samples"):
        in_frame(model, posteriors["a"], symmetry, draws[0], by="likelihood")
    half = {"weights": draws.bfloat16()}
    assert align_draws(model, half, symmetry)[0]["weights"].dtype == torch.bfloat16
    by = Activations(model.net, torch.randn(3, 2))
    assert align_draws(model, posteriors["a"], symmetry, by=by)[0]["weights"].dtype == torch.double
    with pytest.raises(TypeError, match=r"expected floats, got torch\.int64"):
        align_draws(model, {"weights": draws.long()}, symmetry)
    with pytest.raises(TypeError, match="template: expected a name or tensors by name, got int"):
        align_draws(model, half, symmetry, template=3)
    template = model.net.state_dict()
    template.pop("0.bias")
    with pytest.raises(ValueError, match=r"0\.bias.* missing"):
        matching_null(template, symmetry)
    with pytest.raises(ValueError, match=r"samples: expected .*0\.bias.* missing"):
        transpositions_along({name: value[None] for name, value in template.items()}, symmetry)
