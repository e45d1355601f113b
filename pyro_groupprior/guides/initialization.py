# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Where guides and samplers start."""

from __future__ import annotations

from typing import Any

from pyro.infer.autoguide import init_to_median


def init_to_weights(site: Any = None) -> Any:
    """
    Initialise weights to the ``init`` of their group prior, which for a
    :class:`~pyro_groupprior.BayesianModule` is the net's own weights, and all else to the prior
    median. Pyro's own strategies start every weight at the same value, from which a net with
    hidden units cannot break symmetry.

    Use it wherever Pyro takes an initialisation strategy::

        >>> model = BayesianModule(nn.Linear(2, 1), likelihoods.Normal())
        >>> guide = pyro.infer.autoguide.AutoNormal(model, init_loc_fn=init_to_weights)
        >>> _ = guide(torch.zeros(3, 2), torch.zeros(3, 1))
        >>> bool((guide.median()["weights"] == model.initial_weights()).all())
        True

    :param site: a sample site's message; None returns the strategy itself.
    :return: the first value.
    """
    if site is None:
        return init_to_weights
    init = (site["infer"] or {}).get("init")
    if init is None:
        return init_to_median(site)
    value = init() if callable(init) else init
    # Outer plates put batch dimensions in front.
    return value.detach().expand(site["fn"].shape()).clone()
