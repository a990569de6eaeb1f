# SPDX-License-Identifier: Apache-2.0
"""Descriptions of devices."""

from heddle.target.target import Cache, Target

__all__ = ["Cache", "Target"]
