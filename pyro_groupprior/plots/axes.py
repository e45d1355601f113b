# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""What all pictures share: axes and colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Okabe and Ito's colours: told apart by the colour-blind and, mostly, in grey print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#767676"


def make_axes(ax: Axes | None, height: float = 4.0) -> Axes:
    """
    The given axes, or those of a new figure of this height in inches.

    :raises ImportError: if Matplotlib is missing.
    """
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("plots need Matplotlib: pip install 'pyro_groupprior[plots]'") from error
    return pyplot.subplots(figsize=(7.0, height), layout="constrained")[1]
