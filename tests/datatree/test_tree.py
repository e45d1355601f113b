# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The tree of labelled arrays, against the draws it is made of and the readers it is made for."""

import arviz
import numpy as np
import pyro
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior.datatree import fixed_group_parameters, to_datatree

NUM_DRAWS = 12


def mlp(num_outputs=1):
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, num_outputs))


def draws_for(model, num_draws=NUM_DRAWS, **extra):
    """Draws of a made-up posterior, not those of any guide."""
    groups = model.assignment.num_groups
    return {
        "weights_loc": torch.randn(num_draws, groups),
        "weights_scale": torch.rand(num_draws, groups) + 0.5,
        "weights": torch.randn(num_draws, model.layout.num_weights),
        **extra,
    }


@pytest.fixture
def regression():
    model = pgp.BayesianModule(mlp(), pgp.likelihoods.Normal())
    x, y = torch.randn(20, 3), torch.randn(20, 1)
    return model, draws_for(model, noise=torch.rand(NUM_DRAWS) + 0.1), x, y


def forward(draw, x):
    """The net of :func:`mlp` written out, on the named tensors of one draw."""
    named = {name: torch.tensor(draw[name].values) for name in draw.data_vars if name[0] in "02"}
    hidden = torch.tanh(F.linear(x, named["0.weight"], named["0.bias"]))
    return F.linear(hidden, named["2.weight"], named["2.bias"])


def test_names_and_shapes_come_back(regression):
    model, draws, _, _ = regression
    posterior = to_datatree(model, draws)["posterior"]
    assert {name: tuple(v.dims) for name, v in posterior.data_vars.items()} == {
        "0.weight": ("chain", "draw", "0.unit", "0.input"),
        "0.bias": ("chain", "draw", "0.unit"),
        "2.weight": ("chain", "draw", "2.unit", "2.input"),
        "2.bias": ("chain", "draw", "2.unit"),
        "weights_loc": ("chain", "draw", "group"),
        "weights_scale": ("chain", "draw", "group"),
        "noise": ("chain", "draw"),
    }
    flat = torch.cat(
        [
            torch.tensor(posterior[name].values[0]).flatten(1)
            for name in ("0.weight", "0.bias", "2.weight", "2.bias")
        ],
        1,
    )
    assert torch.equal(flat, draws["weights"])
    assert np.array_equal(posterior["weights_scale"][0], draws["weights_scale"])


def test_log_likelihood_is_that_of_the_same_draws(regression):
    model, draws, x, y = regression
    tree = to_datatree(model, draws, x, y)
    for number in range(NUM_DRAWS):
        draw = tree["posterior"].to_dataset().isel(chain=0, draw=number)
        normal = torch.distributions.Normal(forward(draw, x), float(draw["noise"]))
        expected = normal.log_prob(y).squeeze(1)
        found = tree["log_likelihood"]["obs"][0, number]
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert tree["log_likelihood"]["obs"].dims == ("chain", "draw", "row")
    assert tree["observed_data"]["obs"].dims == ("row",)
    assert np.array_equal(tree["observed_data"]["obs"], y[:, 0])


def test_log_likelihood_of_labels_and_of_several_outputs():
    x = torch.randn(8, 3)
    labels = torch.arange(8) % 4
    model = pgp.BayesianModule(mlp(4), pgp.likelihoods.Categorical())
    tree = to_datatree(model, draws_for(model), x, labels)
    draw = tree["posterior"].to_dataset().isel(chain=0, draw=3)
    expected = -F.cross_entropy(forward(draw, x), labels, reduction="none")
    assert np.allclose(tree["log_likelihood"]["obs"][0, 3], expected, atol=1e-5)
    assert tree["posterior_predictive"]["obs"].dims == ("chain", "draw", "row")

    targets = torch.randn(8, 2)
    model = pgp.BayesianModule(mlp(2), pgp.likelihoods.Normal(noise=0.7))
    tree = to_datatree(model, draws_for(model), x, targets)
    draw = tree["posterior"].to_dataset().isel(chain=0, draw=3)
    normal = torch.distributions.Normal(forward(draw, x), 0.7)
    expected = normal.log_prob(targets).sum(1)  # one value a row, or loo would leave out halves
    assert np.allclose(tree["log_likelihood"]["obs"][0, 3], expected, rtol=1e-4, atol=1e-4)


def test_predictive_draws_scatter_round_the_net_by_the_noise(regression):
    model, draws, x, _ = regression
    many = {name: value[:1].expand(4000, *value.shape[1:]) for name, value in draws.items()}
    tree = to_datatree(model, many, x, new_x=x[:2])
    draw = tree["posterior"].to_dataset().isel(chain=0, draw=0)
    mean, sd = forward(draw, x).numpy()[:, 0], float(draws["noise"][0])
    for group, rows in (("posterior_predictive", mean), ("predictions", mean[:2])):
        standard = (tree[group]["obs"].values[0] - rows) / sd
        assert np.abs(standard.mean(0)).max() < 5 / np.sqrt(4000)
        assert np.abs(standard.var(0) - 1).max() < 5 * np.sqrt(2 / 4000)
    assert "observed_data" not in tree.children


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
def test_files_open_in_arviz_and_xarray(regression, tmp_path, engine):
    model, draws, x, y = regression
    tree = to_datatree(model, draws, x, y, new_x=x[:3])
    path = tmp_path / "posterior.nc"
    tree.to_netcdf(path, engine=engine)
    with xr.open_datatree(path, engine=engine) as back:
        assert set(back.children) == set(tree.children)
        for name, child in tree.children.items():
            assert back[name].to_dataset().identical(child.to_dataset())
    data = arviz.from_netcdf(path)
    direct = arviz.from_datatree(tree)
    assert set(data.groups()) == set(direct.groups()) == set(tree.children)
    for name in tree.children:
        assert data[name].equals(tree[name].to_dataset())
        assert direct[name].equals(tree[name].to_dataset())


def test_arviz_computes_on_it():
    # A linear net with a conjugate posterior, drawn exactly: loo is then close to the exact
    # leave-one-out density.
    torch.manual_seed(1)
    x, noise = torch.randn(40, 2, dtype=torch.float64), 0.5
    y = x @ torch.tensor([[1.0], [-2.0]], dtype=torch.float64) + noise * torch.randn(40, 1)
    net = nn.Linear(2, 1, bias=False).double()
    model = pgp.BayesianModule(
        net, pgp.likelihoods.Normal(noise=noise), loc=0.0, scale=1.0, base_scale=1.0
    )

    def conjugate(keep):
        covariance = torch.linalg.inv(x[keep].T @ x[keep] / noise**2 + torch.eye(2))
        return covariance @ x[keep].T @ y[keep, 0] / noise**2, covariance

    mean, covariance = conjugate(torch.arange(40))
    exact = 0.0
    for row in range(40):
        m, c = conjugate(torch.arange(40) != row)
        sd = (noise**2 + x[row] @ c @ x[row]).sqrt()
        exact += float(torch.distributions.Normal(x[row] @ m, sd).log_prob(y[row, 0]))
    posterior = torch.distributions.MultivariateNormal(mean, covariance)
    data = arviz.from_datatree(
        to_datatree(model, {"weights": posterior.sample((8000,))}, x, y, num_chains=4)
    )
    assert data.posterior.sizes["chain"] == 4
    assert float(arviz.loo(data).elpd_loo) == pytest.approx(exact, abs=0.1)
    summary = arviz.summary(data, round_to="none")
    assert np.allclose(summary["mean"], mean, atol=5 * covariance.diagonal().max().sqrt() / 80)
    assert np.allclose(summary["sd"], covariance.diagonal().sqrt(), rtol=0.05)
    assert (summary["r_hat"] < 1.01).all()


def test_chains_come_one_after_the_other(regression):
    model, draws, x, y = regression
    tree = to_datatree(model, draws, x, y, num_chains=3)
    assert tree["posterior"].sizes["chain"] == 3
    noise = draws["noise"]
    assert np.array_equal(
        tree["posterior"]["noise"], torch.stack([noise[:4], noise[4:8], noise[8:]])
    )
    one = to_datatree(model, draws, x, y)["log_likelihood"]["obs"].values
    assert np.array_equal(tree["log_likelihood"]["obs"].values.reshape(one.shape), one)


class Mixed(nn.Module):
    """Layers whose tensors mean different things along their dimensions."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 2)
        self.conv = nn.Conv2d(2, 3, 5)
        self.up = nn.ConvTranspose1d(4, 6, 3)
        self.lstm = nn.LSTM(2, 3)
        self.parts = nn.ModuleDict({"a/b": nn.Linear(2, 2)})


def test_dimensions_by_layer_type(tmp_path):
    model = pgp.BayesianModule(Mixed())
    tree = to_datatree(model, draws_for(model))
    dims = {name: v.dims[2:] for name, v in tree["posterior"].data_vars.items()}
    assert dims["table.weight"] == ("table.token", "table.feature")
    assert dims["conv.weight"] == ("conv.unit", "conv.input", "conv.kernel_0", "conv.kernel_1")
    assert dims["conv.bias"] == ("conv.unit",)
    assert dims["up.weight"] == ("up.input", "up.unit", "up.kernel_0")
    assert dims["up.bias"] == ("up.unit",)
    assert dims["lstm.weight_ih_l0"] == ("lstm.unit", "lstm.input")
    assert dims["lstm.weight_hh_l0"] == ("lstm.unit", "lstm.weight_hh_l0.input")
    assert dims["parts.a_b.weight"] == ("parts.a_b.unit", "parts.a_b.input")
    tree.to_netcdf(tmp_path / "mixed.nc", engine="h5netcdf")
    assert set(arviz.from_netcdf(tmp_path / "mixed.nc").posterior.data_vars) == set(dims)


def test_a_lone_layer_has_plain_names():
    model = pgp.BayesianModule(nn.Linear(2, 3))
    posterior = to_datatree(model, draws_for(model))["posterior"]
    assert posterior["weight"].dims == ("chain", "draw", "unit", "input")


def test_what_does_not_vary_is_constant_data():
    shares = torch.rand(26, 2)
    soft = pgp.Assignment(
        torch.stack([torch.arange(26) % 3, (torch.arange(26) + 1) % 3], 1),
        responsibilities=shares / shares.sum(1, keepdim=True),
    )
    scale = torch.tensor([0.5, 1.0, 2.0])
    model = pgp.BayesianModule(mlp(), grouping=soft, loc=pgp.Learned(0.3), scale=scale)
    constant = to_datatree(model, {"weights": torch.randn(3, 26)})["constant_data"]
    assert constant["assignment"].dims == constant["responsibilities"].dims == ("weight", "slot")
    assert np.array_equal(constant["assignment"], soft.index)
    assert np.array_equal(constant["responsibilities"], soft.responsibilities)
    assert float(constant["group_size"].sum()) == pytest.approx(26)
    expected = np.repeat([3**-0.5, 5**-0.5], [20, 6])  # 1 / sqrt(fan-in), biases included
    assert np.allclose(constant["base_scale"], expected)
    assert np.array_equal(constant["weights_scale"], scale)
    assert np.allclose(constant["weights_loc"], 0.3)
    names = constant["parameter"].attrs["flag_meanings"].split()
    assert [names[i] for i in constant["parameter"].values[[0, 14, 15, 19, 20, 25]]] == [
        "0.weight",
        "0.weight",
        "0.bias",
        "0.bias",
        "2.weight",
        "2.bias",
    ]


def test_learned_points_are_read_from_the_param_store():
    model = pgp.BayesianModule(mlp(), grouping="layer", loc=0.0, scale=pgp.Learned(1.0))
    pyro.poutine.block(model)(torch.randn(2, 3))
    pyro.get_param_store()["weights_scale"] = torch.tensor([0.25, 4.0])
    values = fixed_group_parameters(model)
    assert torch.equal(values["weights_scale"], torch.tensor([0.25, 4.0]))
    assert torch.equal(values["weights_loc"], torch.zeros(2))
    assert not values["weights_scale"].requires_grad


def test_standardised_draws_become_weights():
    model = pgp.BayesianModule(mlp(), centered=False)
    draws = draws_for(model)
    noise = draws["weights_decentered"] = draws.pop("weights")
    index, base = model.assignment.index.long(), model.base_scale
    weights = base * (draws["weights_loc"][:, index] + draws["weights_scale"][:, index] * noise)
    posterior = to_datatree(model, draws)["posterior"]
    assert np.allclose(posterior["0.weight"][0], weights[:, :15].reshape(-1, 5, 3), atol=1e-6)
    assert posterior["weights_decentered"].dims == ("chain", "draw", "weights_decentered_dim_0")


def test_from_a_guide(regression):
    model, _, x, y = regression
    guide = pgp.AutoMeanField(model)
    guide.setup(x, y)
    tree = to_datatree(model, guide, x, y, num_draws=4000)
    mean, sd = guide.moments("weights")
    values = torch.tensor(tree["posterior"]["0.weight"].values[0]).reshape(4000, -1)
    assert ((values.mean(0) - mean[:15]).abs() < 5 * sd[:15] / 4000**0.5).all()
    assert tree["posterior"].sizes["draw"] == 4000


@pytest.mark.parametrize("kind", ["nuts", "files", "hmc"])
def test_from_chains(kind, tmp_path):
    model = pgp.BayesianModule(nn.Linear(3, 1), pgp.likelihoods.Normal())
    x, y = torch.randn(20, 3), torch.randn(20, 1)
    options = {"num_samples": 6, "warmup_steps": 5, "num_chains": 2, "progress": False}
    if kind == "hmc":
        result = pgp.mcmc.run_hmc(model, x, y, num_steps=3, **options)
    else:
        options |= {"path": tmp_path} if kind == "files" else {}
        result = pgp.mcmc.run_mcmc(model, x, y, **options)
    tree = to_datatree(model, result, x, y)
    assert dict(tree["posterior"].sizes)["chain"] == 2
    assert tree["log_likelihood"]["obs"].shape[:2] == (2, 6)
    weights = result.get_samples(group_by_chain=True)["weights"]
    assert np.array_equal(tree["posterior"]["weight"].values.reshape(2, 6, 3), weights[..., :3])
    stats = tree["sample_stats"]
    assert np.allclose(stats["lp"], result.log_joint)
    assert stats["acceptance_rate"].dims == ("chain", "draw")
    if kind != "hmc":
        assert {"diverging", "energy", "n_steps", "step_size"} <= set(stats)
        data = arviz.from_datatree(tree)
        assert arviz.bfmi(data).shape == (2,)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": 3}, TypeError, "model: expected a BayesianModule or another .* got int"),
        ({"model": lambda x, y: x}, ValueError, "model: expected latent sample sites, found none"),
        ({"include": "noise"}, TypeError, "include: expected several names or patterns"),
        ({"include": ["0.*", "1.*"]}, ValueError, "include: nothing is called '1.*'"),
        ({"training": 3}, TypeError, "training: expected a PhasedSVI or its History, got int"),
        ({"x": None}, ValueError, "y: expected with x"),
        ({"num_chains": 5}, ValueError, "12 draws do not make 5 equal chains"),
        ({"num_chains": 0}, ValueError, "num_chains"),
        ({"posterior": {}}, ValueError, "0 draws"),
        ({"posterior": {"weights": torch.zeros(4, 7)}}, ValueError, "26"),
        ({"posterior": {"noise": torch.ones(4)}}, ValueError, "expected draws of 'weights'"),
        ({"y": torch.zeros(3, 1)}, ValueError, "y: expected the shape"),
    ],
)
def test_refusals(regression, change, error, message):
    model, draws, x, y = regression
    arguments = {"model": model, "posterior": draws, "x": x, "y": y} | change
    with pytest.raises(error, match=message):
        to_datatree(**arguments)


def test_inputs_need_a_likelihood():
    model = pgp.BayesianModule(mlp())
    with pytest.raises(TypeError, match="likelihood"):
        to_datatree(model, draws_for(model), torch.zeros(2, 3))
