# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Codebooks: what each weight gets, and what is refused."""

from dataclasses import replace

import pytest
import torch

from pyro_groupprior import Layout
from pyro_groupprior.sharing import Blend, Codebook, Outliers

LAYOUT = Layout([("a", torch.Size([2, 2])), ("b", torch.Size([3]))])


def ints(*values):
    return torch.tensor(values, dtype=torch.int32)


def codebook(**changes):
    """Entry 0 for pruned weights, entries 1 and 2 for ``a``, 3 for ``b``."""
    book = Codebook(
        LAYOUT,
        unit=torch.tensor([2.0, 10.0]),
        loc=torch.tensor([0.0, 1.0, -1.0, 0.5]),
        scale=torch.tensor([0.0, 0.1, 0.3, 0.2]),
        index=ints(1, 2, 0, 2, 3, 0, 3),
        blend=Blend(torch.tensor([1]), ints(1), torch.tensor([0.25])),
        outliers=Outliers(torch.tensor([3, 6]), torch.tensor([7.0, 8.0]), torch.tensor([0.7, 0.8])),
        tables=((1, 3), (3, 4)),
    )
    return replace(book, **changes)


def test_each_weight_gets_what_its_entries_say():
    loc, scale = codebook().moments()
    # The second is a quarter of entry 2 and three quarters of entry 1.
    torch.testing.assert_close(loc, torch.tensor([2.0, 1.0, 0.0, 14.0, 5.0, 0.0, 80.0]))
    torch.testing.assert_close(scale, torch.tensor([0.2, 0.3, 0.0, 1.4, 2.0, 0.0, 8.0]))


def test_counts():
    book = codebook()
    assert (book.num_weights, book.num_entries) == (7, 4)
    assert book.num_numbers == 2 * 3 + 2 * 2
    torch.testing.assert_close(book.sizes(), torch.tensor([2.0, 1.75, 0.25, 1.0]).double())
    assert book.kept.tolist() == [True, True, False, True, True, False, True]


def test_gradients_reach_entries_and_outliers():
    book = codebook()
    entries, own = torch.zeros(4, requires_grad=True), torch.zeros(2, requires_grad=True)
    (book.gather(entries, own) * torch.arange(7.0)).sum().backward()
    # Weight 1 gives 1/4 of its gradient to entry 2, the rest to entry 1.
    torch.testing.assert_close(entries.grad, torch.tensor([2.0 + 5.0, 0.75, 0.25, 4.0]))
    torch.testing.assert_close(own.grad, torch.tensor([3.0, 6.0]))


def test_other_numbers():
    book = codebook()
    loc = book.loc + torch.tensor([0.0, 1.0, 1.0, 1.0])
    moved = book.with_numbers(loc, book.scale, book.outliers.loc * 2, book.outliers.scale)
    torch.testing.assert_close(moved.moments()[0][[0, 3]], torch.tensor([4.0, 28.0]))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"unit": torch.ones(1)}, ValueError, "unit: expected shape"),
        ({"unit": torch.tensor([1.0, 0.0])}, ValueError, "unit: expected finite positive"),
        ({"scale": torch.tensor([0.0, 0.1, 0.0, 0.2])}, ValueError, "scale: expected positive"),
        ({"loc": torch.tensor([0.0, 1.0, torch.nan, 0.5])}, ValueError, "loc: expected finite"),
        ({"index": ints(1, 2, 0, 2, 3, 0)}, ValueError, "index: expected shape"),
        ({"index": ints(1, 2, 0, 2, 3, 0, 4)}, ValueError, r"index: expected values in \[0, 4\)"),
        ({"index": torch.zeros(7).long()}, TypeError, "index: expected int32"),
        ({"index": ints(3, 2, 0, 2, 3, 0, 3)}, ValueError, "index: expected entries of 'a'"),
        ({"tables": ((1, 3),)}, ValueError, "tables: expected one for each of 2"),
        ({"tables": ((1, 3), (3, 5))}, ValueError, "tables: expected entries"),
        (
            {"blend": Blend(torch.tensor([1]), ints(1), torch.tensor([1.5]))},
            ValueError,
            "blend.alpha",
        ),
        (
            {"blend": Blend(torch.tensor([1]), ints(3), torch.tensor([0.5]))},
            ValueError,
            "index: expected entries of 'a'",
        ),
        (
            {"outliers": Outliers(torch.tensor([3, 3]), torch.ones(2), torch.ones(2))},
            ValueError,
            "outliers.places: expected increasing",
        ),
        (
            {"outliers": Outliers(torch.tensor([3, 7]), torch.ones(2), torch.ones(2))},
            ValueError,
            "outliers.places: expected increasing",
        ),
        (
            {"outliers": Outliers(torch.tensor([3]), torch.ones(1), torch.zeros(1))},
            ValueError,
            "outliers.scale: expected finite positive",
        ),
    ],
)
def test_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        codebook(**changes)
