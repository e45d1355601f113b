# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Gives the doctests of the package the fixture that the tests have, and their usual imports."""

import functools
from typing import Any

import numpy
import pyro
import pyro.distributions
import pytest
import torch

import pyro_groupprior
from pyro_groupprior import guides, regrouping, svi
from tests.conftest import fresh_pyro

__all__ = ["fresh_pyro"]


@pytest.fixture(autouse=True)
def doctest_names(doctest_namespace: dict[str, Any]) -> None:
    """What the examples in docstrings take as imported: libraries and all public names."""
    doctest_namespace.update(
        functools=functools, np=numpy, torch=torch, nn=torch.nn, pyro=pyro, dist=pyro.distributions
    )
    for module in (guides, regrouping, svi, pyro_groupprior):
        for name in getattr(module, "__all__", ()):
            doctest_namespace.setdefault(name, getattr(module, name))
