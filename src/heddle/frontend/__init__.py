# SPDX-License-Identifier: Apache-2.0
"""Importers: what turns a model of another framework into an `IRModule`."""
