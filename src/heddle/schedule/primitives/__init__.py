# SPDX-License-Identifier: Apache-2.0
"""The schedule primitives, one function each; `Schedule` has them as methods."""

from heddle.schedule.primitives.block_iters import (
    reorder_block_iter_var,
    transform_block_layout,
)
from heddle.schedule.primitives.cache import cache_inplace, cache_read, cache_write, set_scope
from heddle.schedule.primitives.cache_index import cache_index
from heddle.schedule.primitives.epilogue import fuse_reduction_epilogue
from heddle.schedule.primitives.inline import compute_inline, reverse_compute_inline
from heddle.schedule.primitives.layout import storage_align, transform_layout
from heddle.schedule.primitives.loops import (
    add_unit_loop,
    annotate,
    bind,
    fuse,
    parallel,
    serial,
    split,
    unannotate,
    unroll,
    vectorize,
)
from heddle.schedule.primitives.move import compute_at, reverse_compute_at
from heddle.schedule.primitives.padding import decompose_padding, pad_einsum
from heddle.schedule.primitives.partition import loop_partition, merge
from heddle.schedule.primitives.pipeline import (
    double_buffer,
    prefetch,
    prefetch_ahead,
    software_pipeline,
)
from heddle.schedule.primitives.prepare import shift_to_unsigned
from heddle.schedule.primitives.reduce import decompose_reduction
from heddle.schedule.primitives.reindex import (
    reindex,
    reindex_cache_read,
    reindex_cache_write,
)
from heddle.schedule.primitives.reorder import reorder
from heddle.schedule.primitives.rfactor import rfactor
from heddle.schedule.primitives.rolling import rolling_buffer
from heddle.schedule.primitives.sample import (
    sample_categorical,
    sample_compute_location,
    sample_partitioned_tile,
    sample_perfect_tile,
)
from heddle.schedule.primitives.skip import skip_padding
from heddle.schedule.primitives.staged_at import read_at, write_at
from heddle.schedule.primitives.tensorize import blockize, tensorize

__all__ = [
    "add_unit_loop",
    "bind",
    "blockize",
    "annotate",
    "cache_index",
    "cache_inplace",
    "cache_read",
    "cache_write",
    "compute_at",
    "compute_inline",
    "decompose_padding",
    "decompose_reduction",
    "double_buffer",
    "fuse",
    "fuse_reduction_epilogue",
    "loop_partition",
    "merge",
    "pad_einsum",
    "parallel",
    "prefetch",
    "prefetch_ahead",
    "read_at",
    "reindex",
    "reindex_cache_read",
    "reindex_cache_write",
    "reorder",
    "reorder_block_iter_var",
    "reverse_compute_at",
    "reverse_compute_inline",
    "rfactor",
    "rolling_buffer",
    "sample_categorical",
    "sample_compute_location",
    "sample_partitioned_tile",
    "sample_perfect_tile",
    "serial",
    "set_scope",
    "shift_to_unsigned",
    "skip_padding",
    "software_pipeline",
    "split",
    "storage_align",
    "tensorize",
    "transform_block_layout",
    "transform_layout",
    "unannotate",
    "unroll",
    "vectorize",
    "write_at",
]
