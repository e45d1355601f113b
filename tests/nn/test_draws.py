# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Many draws at once: equal to one after the other, with or without chunks and batching rules."""

import pytest
import torch
from torch import Tensor

from pyro_groupprior.nn import map_draws


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 7, 100])
def test_chunks_do_not_change_the_outcome(chunk_size: int | None) -> None:
    draws = torch.randn(7, 4)
    out = map_draws(lambda w: torch.outer(w, w).exp(), draws, chunk_size)
    assert out.equal(torch.stack([torch.outer(w, w).exp() for w in draws]))


def by_value(w: Tensor) -> Tensor:
    return w * 2 if float(w[0]) > 0 else w - 1


def in_place(w: Tensor) -> Tensor:
    total = torch.zeros(3)
    total += w
    return total


def no_rule(w: Tensor) -> Tensor:
    return torch.histc(w, bins=4, min=-3.0, max=3.0)


@pytest.mark.parametrize("fn", [by_value, in_place, no_rule])
def test_what_cannot_be_batched_goes_one_by_one(fn) -> None:
    draws = torch.randn(6, 3)
    assert map_draws(fn, draws).equal(torch.stack([fn(w) for w in draws]))


def test_draws_get_noise_of_their_own() -> None:
    out = map_draws(lambda w: w + torch.randn(5), torch.zeros(8, 5))
    assert len(out.unique()) == 40


def test_gradients_pass_through() -> None:
    draws = torch.randn(4, 3, requires_grad=True)
    map_draws(lambda w: w.pow(3).sum(), draws).sum().backward()
    torch.testing.assert_close(draws.grad, 3 * draws.detach().square())


@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyError])
def test_a_true_error_is_shown(error: type[Exception]) -> None:
    def broken(w: Tensor) -> Tensor:
        raise error("the net's own fault")

    with pytest.raises(error, match="own fault"):
        map_draws(broken, torch.zeros(2, 2))
