# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""
Hierarchical group priors for Pyro: weights are sorted into groups while the model trains, and each
group has its own learned prior.
"""

import lazy_loader

# What there is stands in __init__.pyi: a part is imported when it is first asked for, so that what
# needs torch alone (sharing.load_module) imports no Pyro.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
