# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What tells one call from another, so that a file is not taken up by the wrong one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import torch
from torch import Tensor


def digest(said: str, tensors: Iterable[Tensor] = ()) -> str:
    """
    A checksum of what objects say of themselves, and of tensors by their content.

    Example::

        >>> from pyro_groupprior.digest import digest
        >>> digest("x", [torch.zeros(2)]) == digest("x", [torch.zeros(2)])
        True
        >>> digest("x", [torch.zeros(2)]) == digest("x", [torch.ones(2)])
        False

    :param str said: such as ``repr(options)``.
    :param tensors: of any shapes and dtypes, which are not told apart.
    """
    # Objects that do not say what they are tell where they are: another place in every process.
    found = hashlib.sha256(re.sub(" at 0x[0-9a-f]+", "", said).encode())
    for tensor in tensors:
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
