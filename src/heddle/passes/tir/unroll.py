# SPDX-License-Identifier: Apache-2.0
"""Decide which loops the code generator writes out as copies of their body.

Loops marked UNROLLED by a schedule stay marked when their extent is a small constant and become
serial otherwise. Besides, a buffer in registers cannot be indexed by a variable: loops that index
a small local buffer are unrolled too, or the accumulators of a tile would live in memory.

    local acc: Buffer((4,), scope="local")
    for i in range(4):                           for i in unrolled(4):
        C[i] = acc[i]                    ->          C[i] = acc[i]
"""

from __future__ import annotations

from typing import Final

from heddle.ir.expr import Var, as_int
from heddle.ir.walk import free_vars, pre_order, rewrite
from heddle.target import Target
from heddle.tir.build import element_count
from heddle.tir.nodes import (
    Allocate,
    Buffer,
    BufferLoad,
    BufferStore,
    For,
    ForKind,
    PrimFunc,
)

UNROLL_LIMIT: Final = 256
"""Longest loop that is unrolled."""

PROMOTE_LIMIT: Final = 64
"""Longest serial loop that is unrolled for the sake of a local buffer."""


def unroll(func: PrimFunc, target: Target) -> PrimFunc:
    """`func` with loops marked UNROLLED exactly where the code generator shall copy the body."""
    register_bytes = target.vector_registers * target.vector_bits // 8
    promoted = _register_loops(func, 2 * register_bytes)

    def handle(loop: For) -> For:
        extent = as_int(loop.extent)
        if loop.kind is ForKind.UNROLLED and (extent is None or extent > UNROLL_LIMIT):
            return loop.replace(kind=ForKind.SERIAL)
        if loop.kind is ForKind.SERIAL and loop.var in promoted:
            if extent is not None and extent <= PROMOTE_LIMIT:
                return loop.replace(kind=ForKind.UNROLLED)
        return loop

    return func.replace(body=rewrite(func.body, {For: handle}))


def _register_loops(func: PrimFunc, limit: int) -> set[Var]:
    """The variables that index local buffers of at most `limit` bytes."""
    small: set[Buffer] = set()
    for found in pre_order(func.body):
        if isinstance(found, Allocate) and found.buffer.scope == "local":
            count = element_count(found.buffer.shape)
            if count is not None and count * found.buffer.dtype.nbytes <= limit:
                small.add(found.buffer)
    variables: set[Var] = set()
    if small:
        for found in pre_order(func.body):
            if isinstance(found, (BufferLoad, BufferStore)) and found.buffer in small:
                variables.update(free_vars(found.indices[0]))
    return variables
