# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What one would train today in place of this package: four mean-field baselines.

Each builder takes a deterministic net and one fixed batch, and returns a closure that does one
full step (loss, backward pass, optimizer step, gradients cleared) and gives the loss.
The likelihood is categorical, scaled from the batch to ``num_data`` rows. Only the weights of
linear and convolutional layers are random; batch-norm parameters stay points.
"""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from pyro.nn.module import to_pyro_module_
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.nets import BAYESIAN_TORCH

#: One optimization step on a fixed batch; gives the loss.
Step = Callable[[], float]


def bayesian_layers(net: nn.Module) -> Iterator[tuple[str, nn.Module, float]]:
    """Iterate over the layers with random weights.

    :param torch.nn.Module net: Any net of linear, convolutional and batch-norm layers.
    :return: For each layer its name, itself, and its base scale ``1 / sqrt(fan_in)``.
    """
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            yield name, layer, 1 / math.sqrt(layer.weight[0].numel())


def normal_kl(loc: Tensor, scale: Tensor, prior_loc: Tensor, prior_log_scale: Tensor) -> Tensor:
    """Give the summed KL divergence of ``Normal(loc, scale)`` from one scalar normal prior."""
    squares = (scale.square() + (loc - prior_loc).square()).sum()
    log_ratios = loc.numel() * prior_log_scale - scale.log().sum()
    return 0.5 * squares * torch.exp(-2 * prior_log_scale) + log_ratios - 0.5 * loc.numel()


class HierarchicalMeanField(nn.Module):
    """Hierarchical mean-field in plain torch: one group a layer, analytic KL.

    Prior: ``loc_g ~ Normal(0, 1)``, ``scale_g ~ LogNormal(0, 1)``, and each weight of the
    layer ``Normal(base * loc_g, base * scale_g)``. Posterior: a normal for each weight and
    ``loc_g``, a log-normal for ``scale_g``, all independent.

    :param torch.nn.Module net: The deterministic net; its weights start the posterior means.
    :param float init_scale: First posterior scale of the group parameters, and of the weights
        in units of their base scale.
    """

    def __init__(self, net: nn.Module, init_scale: float = 0.1) -> None:
        super().__init__()
        self.net = copy.deepcopy(net)
        self.names: list[str] = []
        self.groups: list[int] = []
        self.locs = nn.ParameterList()
        self.rhos = nn.ParameterList()
        bases = []
        for group, (layer_name, layer, base) in enumerate(bayesian_layers(self.net)):
            bases.append(base)
            for name, value in layer.named_parameters():
                self.names.append(f"{layer_name}.{name}")
                self.groups.append(group)
                self.locs.append(value.detach().clone())
                self.rhos.append(torch.full_like(value, _softplus_inv(base * init_scale)))
                value.requires_grad_(False)
        self.base: Tensor
        self.register_buffer("base", torch.tensor(bases))
        # Row 0 is loc_g, row 1 is log scale_g: both have a standard normal prior.
        self.group_loc = nn.Parameter(torch.zeros(2, len(bases)))
        self.group_rho = nn.Parameter(torch.full((2, len(bases)), _softplus_inv(init_scale)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Draw all parameters once.

        :param Tensor x: Inputs.
        :return: The logits and the KL divergence of posterior from prior.
        """
        scale = F.softplus(self.group_rho)
        zero = torch.zeros(())
        kl = normal_kl(self.group_loc, scale, zero, zero)
        loc_g, log_scale_g = self.group_loc + scale * torch.randn_like(scale)
        prior_locs = (self.base * loc_g).unbind()
        prior_log_scales = (self.base.log() + log_scale_g).unbind()
        weights = {}
        for name, g, loc, rho in zip(self.names, self.groups, self.locs, self.rhos, strict=True):
            scale = F.softplus(rho)
            weights[name] = loc + scale * torch.randn_like(loc)
            kl = kl + normal_kl(loc, scale, prior_locs[g], prior_log_scales[g])
        return torch.func.functional_call(self.net, weights, (x,)), kl


class PackedMeanField(nn.Module):
    """The same model and posterior, with all weights cut from one vector of length W.

    This is what one writes once the many small operations of the version above hurt.

    :param torch.nn.Module net: The deterministic net; its weights start the posterior means.
    :param float init_scale: As above.
    """

    def __init__(self, net: nn.Module, init_scale: float = 0.1) -> None:
        super().__init__()
        self.net = copy.deepcopy(net)
        self.names: list[str] = []
        self.shapes: list[torch.Size] = []
        values, bases, groups = [], [], []
        for group, (layer_name, layer, base) in enumerate(bayesian_layers(self.net)):
            for name, value in layer.named_parameters():
                self.names.append(f"{layer_name}.{name}")
                self.shapes.append(value.shape)
                values.append(value.detach().flatten())
                bases.append(torch.full((value.numel(),), base))
                groups.append(torch.full((value.numel(),), group))
                value.requires_grad_(False)
        self.base: Tensor
        self.group: Tensor
        self.register_buffer("base", torch.cat(bases))
        self.register_buffer("group", torch.cat(groups))
        self.loc: Tensor = nn.Parameter(torch.cat(values))
        self.rho = nn.Parameter((self.base * init_scale).expm1().log())
        num_groups = group + 1
        self.group_loc = nn.Parameter(torch.zeros(2, num_groups))
        self.group_rho = nn.Parameter(torch.full((2, num_groups), _softplus_inv(init_scale)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Draw all parameters once; arguments and results are as above."""
        scale = F.softplus(self.group_rho)
        zero = torch.zeros(())
        kl = normal_kl(self.group_loc, scale, zero, zero)
        loc_g, log_scale_g = self.group_loc + scale * torch.randn_like(scale)
        scale = F.softplus(self.rho)
        prior_scale = self.base * log_scale_g.exp()[self.group]
        shift = (self.loc - self.base * loc_g[self.group]) / prior_scale
        spread = scale / prior_scale
        kl = kl + (0.5 * (spread.square() + shift.square() - 1) - spread.log()).sum()
        flat = self.loc + scale * torch.randn_like(scale)
        pieces = flat.split([shape.numel() for shape in self.shapes])
        weights = {
            name: piece.view(shape)
            for name, piece, shape in zip(self.names, pieces, self.shapes, strict=True)
        }
        return torch.func.functional_call(self.net, weights, (x,)), kl


def _softplus_inv(value: float) -> float:
    return math.log(math.expm1(value))


def _torch_step(
    posterior: nn.Module, x: Tensor, y: Tensor, num_data: int, fused: bool = False
) -> Step:
    parameters = [p for p in posterior.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=fused)

    def step() -> float:
        optimizer.zero_grad()
        logits, kl = posterior(x)
        loss = num_data * F.cross_entropy(logits, y) + kl
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def raw(net: nn.Module, x: Tensor, y: Tensor, num_data: int) -> Step:
    """Build the step of hand-written hierarchical mean-field, a mean and a rho per tensor."""
    return _torch_step(HierarchicalMeanField(net), x, y, num_data)


def raw_packed(net: nn.Module, x: Tensor, y: Tensor, num_data: int) -> Step:
    """
    Build the step of hand-written hierarchical mean-field for speed: one mean and rho for all
    tensors, and the fused Adam that our engine takes by itself too.
    """
    return _torch_step(PackedMeanField(net), x, y, num_data, fused=True)


class PyroNet(PyroModule):
    """A Pyro model with one sample site for every weight tensor.

    :param torch.nn.Module net: The deterministic net.
    :param int num_data: Number of rows of the whole data set.
    :param bool hierarchical: Whether each layer has sites ``loc`` and ``scale`` above its
        weights; if not, the prior is ``Normal(0, base)``.
    :param str name: Prefix of all names, which keeps two models apart in the ParamStore.
    """

    def __init__(self, net: nn.Module, num_data: int, hierarchical: bool, name: str) -> None:
        super().__init__(name)
        self.num_data = num_data
        self.net = copy.deepcopy(net)
        to_pyro_module_(self.net)
        for _, layer, base in bayesian_layers(self.net):
            values = list(layer.named_parameters())
            if hierarchical:
                layer.loc = PyroSample(dist.Normal(0.0, 1.0))
                layer.scale = PyroSample(dist.LogNormal(0.0, 1.0))
            for name, value in values:
                setattr(layer, name, PyroSample(_weight_prior(base, value.shape, hierarchical)))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Run the model.

        :param Tensor x: Inputs.
        :param Tensor y: Labels of shape ``[B]``, or None to draw them.
        :return: The logits, of shape ``[B, 10]``.
        """
        logits = self.net(x)
        with pyro.poutine.scale(scale=self.num_data / len(x)), pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Categorical(logits=logits), obs=y)
        return logits


def _weight_prior(base: float, shape: torch.Size, hierarchical: bool) -> object:
    if not hierarchical:
        return dist.Normal(0.0, base).expand(shape).to_event(len(shape))

    def prior(layer: Any) -> dist.Distribution:
        weight = dist.Normal(base * layer.loc, base * layer.scale)
        return weight.expand(shape).to_event(len(shape))

    return prior


def _pyro_step(model: PyroNet, x: Tensor, y: Tensor) -> Step:
    svi = SVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    return lambda: svi.step(x, y)


def pyro_hier(net: nn.Module, x: Tensor, y: Tensor, num_data: int) -> Step:
    """Build the step of plain hierarchical Pyro: hyper sites a layer, a site a tensor."""
    return _pyro_step(PyroNet(net, num_data, hierarchical=True, name="hier"), x, y)


def pyro_fixed(net: nn.Module, x: Tensor, y: Tensor, num_data: int) -> Step:
    """Build the step of plain Pyro under a fixed ``Normal(0, 1 / fan_in)`` prior (variance)."""
    return _pyro_step(PyroNet(net, num_data, hierarchical=False, name="fixed"), x, y)


def bayesian_torch(net: nn.Module, x: Tensor, y: Tensor, num_data: int) -> Step:
    """Build the step of bayesian-torch: its reparametrized layers, fixed standard normal prior.

    The package averages its KL within each tensor where the ELBO has a sum; its loss is left
    as its README has it (``kl / batch_size``) up to a factor, since only the time is of interest.

    :raises ImportError: If bayesian-torch is not installed (see ``requirements.txt``).
    """
    from bayesian_torch.models.dnn_to_bnn import dnn_to_bnn, get_kl_loss

    net = copy.deepcopy(net)
    dnn_to_bnn(net, dict(BAYESIAN_TORCH))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def step() -> float:
        optimizer.zero_grad()
        loss = num_data * F.cross_entropy(net(x), y) + get_kl_loss(net)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


#: The baselines by the names that the figures carry.
BASELINES: dict[str, Callable[[nn.Module, Tensor, Tensor, int], Step]] = {
    "raw": raw,
    "raw_packed": raw_packed,
    "pyro_hier": pyro_hier,
    "pyro_fixed": pyro_fixed,
    "bayesian_torch": bayesian_torch,
}
