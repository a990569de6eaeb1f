# SPDX-License-Identifier: Apache-2.0
"""Blocks annotated by `storage_align` get rows of the promised length.

    storage_align: [[0, 0, 32, 8]]
    P = alloc((64, 60))   ->   P = alloc((64, 60), strides=(72, 1))

Each entry says: of the buffer that the block writes as number 0, the stride of dimension 0 is 8
more than a multiple of 32. It runs after `compact_buffers`, when shapes are final.
"""

from __future__ import annotations

from typing import Any

from heddle.ir.expr import Expr, const
from heddle.ir.walk import pre_order
from heddle.tir.build import replace_buffers
from heddle.tir.nodes import Block, Buffer, PrimFunc

KEY = "storage_align"


def align_storage(func: PrimFunc) -> PrimFunc:
    """`func` with strides where blocks ask for them; parameters keep theirs."""
    wanted: dict[Buffer, dict[int, tuple[int, int]]] = {}
    for found in pre_order(func.body):
        if type(found) is Block and KEY in found.annotations:
            written = list(dict.fromkeys(region.buffer for region in found.writes))
            entries: Any = found.annotations[KEY]
            for number, axis, factor, offset in entries:
                if written[number] not in func.params:
                    wanted.setdefault(written[number], {})[axis] = (factor, offset)
    aligned = {
        buffer: buffer.replace(strides=_strides(buffer, axes)) for buffer, axes in wanted.items()
    }
    return replace_buffers(func, aligned)


def _strides(buffer: Buffer, axes: dict[int, tuple[int, int]]) -> tuple[Expr, ...]:
    strides: list[Expr] = []
    step: Expr = const(1)
    for axis in range(buffer.ndim - 1, -1, -1):
        if axis in axes:
            factor, offset = axes[axis]
            step = step + (offset - step) % factor
        strides.insert(0, step)
        step = step * buffer.shape[axis]
    return tuple(strides)
