# SPDX-License-Identifier: Apache-2.0
"""Integer arithmetic: simplification, bounds, sets of indices, iterator maps."""

from heddle.arith.analyzer import Analyzer
from heddle.arith.int_set import IntRange, estimate_range, union_range
from heddle.arith.interval import EVERYTHING, INFINITY, Interval
from heddle.arith.iter_map import IterMap, IterSplit, IterSum, detect_iter_map, invert_iter_map
from heddle.arith.linear import LinearForm, linear_form

__all__ = [
    "EVERYTHING",
    "INFINITY",
    "Analyzer",
    "IntRange",
    "Interval",
    "IterMap",
    "IterSplit",
    "IterSum",
    "LinearForm",
    "detect_iter_map",
    "estimate_range",
    "invert_iter_map",
    "linear_form",
    "union_range",
]
