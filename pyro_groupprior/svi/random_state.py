# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""The random state of a process, as a file can hold it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def get_random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """
    The states of torch's (CPU and GPUs), numpy's and Python's global generators.

    :return: tensors by name, and what JSON can hold.
    """
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, gauss_next = random.getstate()
    tensors = {
        "random.torch": torch.get_rng_state(),
        "random.numpy": torch.as_tensor(np.asarray(keys, dtype=np.int64)),
        "random.python": torch.tensor(internal, dtype=torch.int64),
    }
    # Asking for the state of a GPU that is not in use would start it up.
    states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    for number, state in enumerate(states):
        tensors[f"random.cuda.{number}"] = state
    numbers = {
        "numpy": [kind, int(position), int(has_gauss), float(gauss)],
        "python": [version, gauss_next],
    }
    return tensors, numbers


def set_random_state(tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    """Set the global generators to what :func:`get_random_state` has found."""
    torch.set_rng_state(tensors["random.torch"])
    kind, position, has_gauss, gauss = numbers["numpy"]
    keys = tensors["random.numpy"].numpy().astype(np.uint32)
    np.random.set_state((kind, keys, position, has_gauss, gauss))
    version, gauss_next = numbers["python"]
    random.setstate((version, tuple(tensors["random.python"].tolist()), gauss_next))
    for number in range(torch.cuda.device_count()):
        state = tensors.get(f"random.cuda.{number}")
        if state is not None:
            torch.cuda.set_rng_state(state, number)
