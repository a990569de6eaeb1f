# SPDX-License-Identifier: Apache-2.0
"""Descriptions of devices."""

from heddle.target.detect import host_cores, native, parse
from heddle.target.registry import processor_names
from heddle.target.target import Cache, Target

__all__ = ["Cache", "Target", "host_cores", "native", "parse", "processor_names"]
