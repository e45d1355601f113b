# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What the package gives by name, and what that imports."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import pyro_groupprior as pgp
from pyro_groupprior import Layout, sharing
from pyro_groupprior.comparison import WeightMoments
from pyro_groupprior.sharing import load_module, make_codebook, save_codebook

TORCH_ALONE = """
import sys
for name in ("pyro", "sklearn", "arviz", "pandas", "torchmetrics"):
    sys.modules[name] = None
import torch
from pyro_groupprior.sharing import load_module
torch.manual_seed(0)
print(load_module(sys.argv[1], torch.nn.Linear(3, 2))(torch.eye(3), num_draws=4).tolist())
"""


@pytest.mark.parametrize("package", [pgp, sharing])
def test_every_name_is_there(package):
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        _ = package.nothing_of_that_name


def test_a_shared_module_needs_torch_alone(tmp_path):
    path = str(tmp_path / "posterior")
    layout = Layout([("weight", torch.Size([2, 3])), ("bias", torch.Size([2]))])
    moments = WeightMoments(torch.arange(8.0), torch.full((8,), 0.1))
    save_codebook(path, make_codebook(layout, moments, 4))
    command = [sys.executable, "-c", TORCH_ALONE, path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    expected = load_module(path, nn.Linear(3, 2))(torch.eye(3), num_draws=4)
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected)
