# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

import gc

import pyro
import pytest
import torch

from pyro_groupprior import Assignment, group_prior
from pyro_groupprior.value_checks import ValueCheck


class Looks:
    """A condition that counts how often it is asked."""

    def __init__(self):
        self.number = 0

    def __call__(self, tensor):
        self.number += 1
        return tensor > 0


def test_a_tensor_is_looked_at_once_until_it_is_written_to():
    looks = Looks()
    check, one = ValueCheck(looks), torch.ones(3)
    assert check(one) and check(one)
    assert looks.number == 1
    assert check(torch.ones(3)) and check(one.view(3))  # others
    assert looks.number == 3
    one.add_(0.0)
    assert check(one)
    assert looks.number == 4
    one[1] = -1.0
    assert not check(one)
    assert not check(one)


def test_a_tensor_that_is_gone_is_forgotten():
    check = ValueCheck(torch.isfinite)
    for _ in range(100):
        check(torch.ones(3))
    gc.collect()
    assert not check._known


def test_inference_tensors_are_looked_at_each_time():
    looks = Looks()
    check = ValueCheck(looks)
    with torch.inference_mode():
        value = torch.ones(3)
        assert check(value) and check(value)
    assert looks.number == 2


@pytest.mark.parametrize("argument", ["scale", "loc", "base_scale", "init"])
def test_a_value_that_has_become_wrong_is_still_refused(argument):
    value, groups = torch.ones(3), Assignment(torch.arange(3))
    options = {argument: value}
    with pyro.poutine.trace():
        group_prior("w", groups, **options)
    value[1] = torch.nan
    with pytest.raises(ValueError, match=argument):
        group_prior("w", groups, **options)
