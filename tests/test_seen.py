# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

import gc

import pyro
import pytest
import torch

from pyro_groupprior import Assignment, group_prior
from pyro_groupprior.seen import Seen


def test_a_tensor_is_remembered_until_it_is_written_to():
    seen, one, same = Seen(), torch.ones(3), torch.ones(3)
    seen.add(one)
    assert one in seen
    assert same not in seen
    assert one.view(3) not in seen
    one.add_(0.0)
    assert one not in seen


def test_a_tensor_that_is_gone_is_forgotten():
    seen = Seen()
    for _ in range(100):
        seen.add(torch.ones(3))
    gc.collect()
    assert not seen._known


def test_inference_tensors_are_looked_at_each_time():
    seen = Seen()
    with torch.inference_mode():
        value = torch.ones(3)
        seen.add(value)
    assert value not in seen


@pytest.mark.parametrize("argument", ["scale", "loc", "base_scale", "init"])
def test_a_value_that_has_become_wrong_is_still_refused(argument):
    value, groups = torch.ones(3), Assignment(torch.arange(3))
    options = {argument: value}
    with pyro.poutine.trace():
        group_prior("w", groups, **options)
    value[1] = torch.nan
    with pytest.raises(ValueError, match=argument):
        group_prior("w", groups, **options)
