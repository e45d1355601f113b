# SPDX-License-Identifier: Apache-2.0
# Copyright Contributors to the pyro_groupprior project.
"""What every test starts from: the same seed, an empty ParamStore, all of Pyro's checks on."""

import os
from collections.abc import Iterator

os.environ.setdefault("MPLBACKEND", "Agg")  # before anything imports matplotlib

import pyro
import pytest
import torch
from hypothesis import settings

# Examples that build a model take long: no deadline. In CI they are the same on every run.
settings.register_profile("default", deadline=None, max_examples=25)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(autouse=True)
def fresh_pyro() -> Iterator[None]:
    """Seed and clear Pyro, and put back afterwards what a test may have set globally."""
    pyro_settings = pyro.settings.get()
    dtype = torch.get_default_dtype()
    torch.set_num_threads(1)  # the workers of pytest-xdist already share the cores
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    pyro.enable_validation(True)
    yield
    torch.set_default_dtype(dtype)
    pyro.settings.set(**pyro_settings)
    pyro.clear_param_store()
