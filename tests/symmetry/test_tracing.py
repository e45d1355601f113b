# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0


import pytest
import torch
from torch import nn
from torch.func import functional_call

from pyro_groupprior.symmetry import find_symmetry

from .nets import NETS


def _randomised(net: nn.Module) -> nn.Module:
    """Nothing is zero or one by chance."""
    for name, value in [*net.named_parameters(), *net.named_buffers()]:
        if value.is_floating_point() and not name.endswith("embedding.weight"):
            nn.init.uniform_(value.data, 0.5, 2.0)
            if not name.endswith("running_var"):
                value.data *= 2 * torch.randint(2, value.shape) - 1
    return net.eval()


@pytest.mark.parametrize("name", NETS)
def test_rearranged_nets_compute_the_same(name: str) -> None:
    make, x, sizes, flipped = NETS[name]
    torch.set_default_dtype(torch.float64)
    x = x.double() if x.is_floating_point() else x
    net = _randomised(make())
    symmetry = find_symmetry(net, x)
    assert sorted(symmetry.axes.values()) == sorted(sizes)
    assert len(symmetry.signs) == flipped
    state = dict(net.named_parameters(remove_duplicate=False)) | dict(net.named_buffers())
    before = functional_call(net, state, (x,))
    for seed in range(3):
        moved = symmetry.apply(state, symmetry.random(torch.Generator().manual_seed(seed)))
        after = functional_call(net, moved, (x,), tie_weights=False)
        torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
    assert any(not torch.equal(moved[key], state[key]) for key in symmetry.tensors)
