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
from heddle.ir.node import Node
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
    Stmt,
)

UNROLL_LIMIT: Final = 256
"""Longest loop that is unrolled."""

PROMOTE_LIMIT: Final = 16
"""Longest serial loop that is unrolled for the sake of a local buffer: tiles of a longer one leave
no registers, and keys of attention that happen to be few would be written out for every query."""

SIZE_LIMIT: Final = 1 << 12
"""Largest size of an unrolled loop, in stores, a loop inside that stays one being `LOOP_SIZE`:
nested copies multiply, and LLVM takes minutes over many thousand of them."""

LOOP_SIZE: Final = 4


def unroll(func: PrimFunc, target: Target) -> PrimFunc:
    """`func` with loops marked UNROLLED exactly where the code generator shall copy the body."""
    register_bytes = target.vector_registers * target.vector_bits // 8
    promoted = _register_loops(func, 2 * register_bytes)
    sizes: dict[Node, int] = {}

    def handle(loop: For) -> For:
        if loop.kind is ForKind.UNROLLED:
            limit = UNROLL_LIMIT
        elif loop.kind is ForKind.SERIAL and loop.var in promoted:
            limit = PROMOTE_LIMIT
        else:
            return loop
        extent = as_int(loop.extent)
        fits = extent is not None and extent <= limit
        fits = fits and extent * _size(loop.body, sizes) <= SIZE_LIMIT
        return loop.replace(kind=ForKind.UNROLLED if fits else ForKind.SERIAL)

    return func.replace(body=rewrite(func.body, {For: handle}))


def _size(node: Node, memo: dict[Node, int]) -> int:
    """How large a statement is with its unrolled loops written out; see `SIZE_LIMIT`."""
    if node not in memo:
        size = 1 if isinstance(node, BufferStore) else 0
        size += sum(_size(child, memo) for child in node.children() if isinstance(child, Stmt))
        if isinstance(node, For):
            unrolled = node.kind is ForKind.UNROLLED
            size = size * (as_int(node.extent) or 1) if unrolled else size + LOOP_SIZE
        memo[node] = size
    return memo[node]


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
