# SPDX-License-Identifier: Apache-2.0
"""Passes over modules: one file each."""
