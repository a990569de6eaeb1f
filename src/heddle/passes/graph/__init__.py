# SPDX-License-Identifier: Apache-2.0
"""Graph-level passes, lowering to loops, and memory planning."""
