# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""AssignmentBuffer carries its assignment through state dicts, copies and moves."""

import copy
import io

import pytest
import torch
from torch import nn

from pyro_groupprior import Assignment, AssignmentBuffer

HARD = Assignment(torch.tensor([0, 2, 1, 2]), num_groups=4)
SOFT = Assignment(
    torch.tensor([[0, 1], [2, 0], [1, 1], [2, 1]]),
    responsibilities=torch.tensor([[0.75, 0.25], [1.0, 0.0], [0.5, 0.5], [0.5, 0.5]]),
)


WIDER = Assignment(HARD.index, num_groups=9)


@pytest.mark.parametrize("present", [HARD, SOFT])
@pytest.mark.parametrize("saved", [HARD, SOFT, WIDER])
def test_a_buffer_round_trips_through_its_state_dict(present, saved):
    file = io.BytesIO()
    torch.save(nn.Sequential(AssignmentBuffer(saved)).state_dict(), file)
    file.seek(0)
    module = nn.Sequential(AssignmentBuffer(present))
    handed_out = module[0].assignment
    before = copy.deepcopy(handed_out.dense())
    module.load_state_dict(torch.load(file, weights_only=True))
    assert module[0].assignment == saved
    assert torch.equal(handed_out.dense(), before)


@pytest.mark.parametrize("present", [HARD, SOFT])
@pytest.mark.parametrize("strict", [True, False])
def test_a_state_for_other_weights_is_refused_and_changes_nothing(present, strict):
    buffer = AssignmentBuffer(present)
    other = AssignmentBuffer(Assignment(torch.tensor([[0, 1, 5]]), 6, torch.ones(1, 3) / 3))
    with pytest.raises(RuntimeError, match="index"):
        buffer.load_state_dict(other.state_dict(), strict=strict)
    assert buffer.assignment == present


def test_setting_a_buffer():
    buffer = AssignmentBuffer(HARD)
    assert "hard, num_weights=4" in repr(buffer)
    for value in (SOFT, WIDER, HARD):
        buffer.assignment = value
        assert buffer.assignment == value
    with pytest.raises(ValueError, match="assignment: expected one for 4 weights, got one for 2"):
        buffer.assignment = Assignment(torch.tensor([0, 1]))
    assert buffer.assignment == HARD


def test_a_deep_copy_of_a_buffer_is_independent():
    buffer = AssignmentBuffer(SOFT)
    assert buffer.assignment == SOFT
    twin = copy.deepcopy(buffer)
    twin.index.zero_()
    assert twin.assignment.index.unique().tolist() == [0]
    assert buffer.assignment == SOFT
    buffer.assignment = HARD
    assert twin.assignment.is_soft


def test_a_buffer_follows_its_module():
    module = nn.Sequential(AssignmentBuffer(SOFT))
    assert module[0].assignment.responsibilities.dtype == torch.float
    module.double()
    assert module[0].assignment.responsibilities.dtype == torch.double
    assert module[0].assignment.index.dtype == torch.int32
    module.to("meta")
    assert {buffer.device.type for buffer in module.buffers()} == {"meta"}


@pytest.mark.parametrize("assignment", [HARD, SOFT])
@pytest.mark.parametrize("inside", [True, False])
def test_a_buffer_made_under_inference_mode_can_be_trained_with(assignment, inside):
    with torch.inference_mode():
        given = (
            assignment.relabel(torch.arange(assignment.num_groups), assignment.num_groups)
            if inside
            else assignment
        )
        buffer = AssignmentBuffer(given)
        assert buffer.assignment.num_weights == 4
    assert buffer.assignment == assignment
    value = torch.ones(assignment.num_groups, requires_grad=True)
    soft = buffer.assignment.responsibilities
    spread = value[buffer.assignment.index]
    (spread if soft is None else spread * soft).sum().backward()
    torch.testing.assert_close(value.grad.double(), assignment.sizes())
    buffer.assignment = WIDER
    assert buffer.assignment == WIDER


def test_a_buffer_moved_or_loaded_under_inference_mode_stays_readable():
    buffer, other = AssignmentBuffer(HARD), AssignmentBuffer(WIDER)
    with torch.inference_mode():
        buffer._apply(torch.clone)
        assert buffer.assignment == HARD
        buffer.load_state_dict(other.state_dict())
    assert buffer.assignment == WIDER
