# SPDX-License-Identifier: Apache-2.0
"""`read_at` and `write_at`: staging a buffer right inside a loop."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from heddle.schedule.primitives.base import primitive
from heddle.schedule.primitives.cache import cache_read, cache_write
from heddle.schedule.primitives.move import compute_at, reverse_compute_at
from heddle.schedule.refs import BlockLike, BlockRef, LoopRef

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule

# One step of the trace, not two: the functions inside the primitives.
_cache_read = inspect.unwrap(cache_read)
_cache_write = inspect.unwrap(cache_write)
_compute_at = inspect.unwrap(compute_at)
_reverse_compute_at = inspect.unwrap(reverse_compute_at)


@primitive
def read_at(
    sch: Schedule, loop: LoopRef, block: BlockLike, read_index: int, scope: str
) -> BlockRef:
    """Copy what one iteration of a loop needs of a buffer, at its start, for a block to read.

    >>> sch = Schedule(product())
    >>> i, j, k = sch.get_loops("C")
    >>> sch.read_at(i, "C", 0, "local")
    block `A_local`
    >>> print(sketch(sch.func))
    A_local = alloc((16, 24), scope="local")
    for i in range(16):
        for ax1 in range(24):
            A_local[i, ax1] = A[i, ax1]
        for j, k in grid(32, 24):
            with init: C[i, j] = 0.0
            C[i, j] = C[i, j] + A_local[i, k] * B[k, j]

    It is cache_read and then compute_at, in one step. Returns the copying block.
    """
    made: BlockRef = _cache_read(sch, block, read_index, scope)
    _compute_at(sch, made, loop)
    return made


@primitive
def write_at(
    sch: Schedule, loop: LoopRef, block: BlockLike, write_index: int, scope: str
) -> BlockRef:
    """Let a block compute in a buffer of its own, and copy that at the end of each iteration.

    >>> sch = Schedule(product())
    >>> i, j, k = sch.get_loops("C")
    >>> sch.write_at(i, "C", 0, "local")
    block `C_write`
    >>> print(sketch(sch.func))
    C_local = alloc((16, 32), scope="local")
    for i in range(16):
        for j, k in grid(32, 24):
            with init: C_local[i, j] = 0.0  # C
            C_local[i, j] = C_local[i, j] + A[i, k] * B[k, j]
        for ax1 in range(32):
            C[i, ax1] = C_local[i, ax1]  # C_write

    It is cache_write and then reverse_compute_at, in one step. Returns the copying block.
    """
    made: BlockRef = _cache_write(sch, block, write_index, scope)
    _reverse_compute_at(sch, made, loop)
    return made
