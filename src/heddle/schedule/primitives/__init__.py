# SPDX-License-Identifier: Apache-2.0
"""The schedule primitives, one function each; `Schedule` has them as methods."""

from heddle.schedule.primitives.loops import (
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

__all__ = [
    "annotate",
    "fuse",
    "parallel",
    "reorder",
    "serial",
    "split",
    "unannotate",
    "unroll",
    "vectorize",
]
