# SPDX-License-Identifier: Apache-2.0
"""The schedule primitives, one function each; `Schedule` has them as methods."""

from heddle.schedule.primitives.cache import cache_read, cache_write, set_scope
from heddle.schedule.primitives.inline import compute_inline, reverse_compute_inline
from heddle.schedule.primitives.layout import transform_layout
from heddle.schedule.primitives.loops import (
    add_unit_loop,
    annotate,
    fuse,
    parallel,
    reorder,
    serial,
    split,
    unannotate,
    unroll,
    vectorize,
)
from heddle.schedule.primitives.move import compute_at, reverse_compute_at
from heddle.schedule.primitives.partition import loop_partition, merge
from heddle.schedule.primitives.reduce import decompose_reduction
from heddle.schedule.primitives.rfactor import rfactor
from heddle.schedule.primitives.tensorize import blockize, tensorize

__all__ = [
    "add_unit_loop",
    "blockize",
    "annotate",
    "cache_read",
    "cache_write",
    "compute_at",
    "compute_inline",
    "decompose_reduction",
    "fuse",
    "loop_partition",
    "merge",
    "parallel",
    "reorder",
    "reverse_compute_at",
    "reverse_compute_inline",
    "rfactor",
    "serial",
    "set_scope",
    "split",
    "tensorize",
    "transform_layout",
    "unannotate",
    "unroll",
    "vectorize",
]
