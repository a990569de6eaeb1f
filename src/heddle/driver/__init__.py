# SPDX-License-Identifier: Apache-2.0
"""The compiler as a list of steps, and the functions that run it."""
