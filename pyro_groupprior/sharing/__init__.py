# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Posteriors in which many weights share a few normals (stochastic weight sharing)."""

import lazy_loader

# As in the package's own: loading a module needs torch alone.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
