# SPDX-License-Identifier: Apache-2.0
"""Integer arithmetic: simplification, bounds, sets of indices, iterator maps."""

from heddle.arith.analyzer import Analyzer
from heddle.arith.interval import EVERYTHING, INFINITY, Interval

__all__ = ["EVERYTHING", "INFINITY", "Analyzer", "Interval"]
