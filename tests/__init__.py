# SPDX-License-Identifier: Apache-2.0
# Copyright Contributors to the pyro_groupprior project.
