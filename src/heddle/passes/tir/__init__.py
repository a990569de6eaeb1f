# SPDX-License-Identifier: Apache-2.0
"""Loop-level lowering: from a scheduled `PrimFunc` to what a code generator takes."""

from heddle.passes.tir.flatten import flatten
from heddle.passes.tir.lower import LOWERING, lower
from heddle.passes.tir.lower_blocks import lower_blocks
from heddle.passes.tir.remove_no_op import remove_no_op
from heddle.passes.tir.storage import place_storage
from heddle.passes.tir.unroll import unroll
from heddle.passes.tir.vectorize import vectorize

__all__ = [
    "LOWERING",
    "flatten",
    "lower",
    "lower_blocks",
    "place_storage",
    "remove_no_op",
    "unroll",
    "vectorize",
]
