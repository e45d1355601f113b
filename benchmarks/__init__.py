# Copyright Contributors to the pyro_groupprior project.
# SPDX-License-Identifier: Apache-2.0

"""Benchmarks: one file a question, run as ``python -m benchmarks.NAME [--quick]``.

Each prints a readable table and, as its last line, one JSON object of its figures.
"""
