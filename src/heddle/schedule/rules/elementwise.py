# SPDX-License-Identifier: Apache-2.0
"""The default schedule of blocks without a reduction: vectors inside, tasks outside.

Axes that every access walks in the same order are one long axis; its inner part becomes lanes and
its outer part tasks. Where accesses differ (broadcasts, transposes) the last axis becomes lanes
and the others tasks.
"""

from __future__ import annotations

from heddle.ir.expr import Expr, Var
from heddle.ir.walk import uses_var
from heddle.schedule.rules.analysis import extent_of, step_loads
from heddle.schedule.schedule import BlockRef, LoopRef, Schedule
from heddle.target import Target
from heddle.tir.nodes import Block, BufferStore

_UNROLLED_VECTORS = 4
"""Vectors in flight per step, enough to hide the latency of short expressions."""

_TASK_ELEMENTS = 1 << 14
"""Elements that are worth handing to another thread: about two microseconds of work."""


def schedule_elementwise(sch: Schedule, block: BlockRef, target: Target) -> None:
    """Make `block` vector code that runs on all cores."""
    loops = sch.get_loops(block)
    if not loops:
        return
    loops = _fuse_alike(sch, block, loops)
    *outer, last = loops
    size = vector_width(sch, block, target)
    outer += vectorize_loop(sch, last, size)
    parallelize(sch, outer)


def vector_width(sch: Schedule, block: BlockRef, target: Target) -> int:
    """Lanes for a block: of the widest element it computes with."""
    node = sch.block(block)
    widths = [region.buffer.dtype.bits for region in (*node.reads, *node.writes)]
    return target.vector_lanes(max([32, *widths]))


def vectorize_loop(sch: Schedule, loop: LoopRef, lanes: int) -> list[LoopRef]:
    """Turn the inner part of `loop` into lanes; returns the loops left outside of them."""
    extent = extent_of(sch, loop)
    if extent is not None and extent <= lanes:
        if extent > 1:
            sch.vectorize(loop)
        return [] if extent > 1 else [loop]
    wide = lanes * _UNROLLED_VECTORS
    if extent is not None and extent % wide == 0 and extent >= 2 * wide:
        outer, vectors, inner = sch.split(loop, [None, _UNROLLED_VECTORS, lanes])
        sch.unroll(vectors)
        sch.vectorize(inner)
        return [outer]
    outer, inner = sch.split(loop, [None, lanes])
    sch.vectorize(inner)
    return [outer]


def parallelize(sch: Schedule, loops: list[LoopRef]) -> LoopRef | None:
    """Fuse perfectly nested outer loops into one parallel loop."""
    if not loops:
        return None
    task = sch.fuse(*loops) if len(loops) > 1 else loops[0]
    sch.parallel(task)
    return task


def _fuse_alike(sch: Schedule, block: BlockRef, loops: list[LoopRef]) -> list[LoopRef]:
    """Fuse the longest run of trailing axes that all accesses walk together."""
    count = _alike_axes(sch.block(block))
    if count < 2:
        return loops
    return [*loops[:-count], sch.fuse(*loops[-count:])]


def _alike_axes(block: Block) -> int:
    """How many trailing axes every access either ends in, in order and whole, or does not have."""
    store = block.body
    if type(store) is not BufferStore:
        return 1
    axes = [axis.var for axis in block.iters]
    accesses = [(store.buffer, store.indices)]
    accesses += [(load.buffer, load.indices) for load in step_loads(block)]
    count = len(axes)
    for buffer, indices in accesses:
        count = min(count, _matching(axes, block, buffer.shape, indices))
    return max(count, 1)


def _matching(
    axes: list[Var], block: Block, shape: tuple[Expr, ...], indices: tuple[Expr, ...]
) -> int:
    """Trailing axes that `indices` ends in; all of them when it has none of the axes."""
    if not any(uses_var(index, set(axes)) for index in indices):
        return len(axes)
    count = 0
    while count < min(len(axes), len(indices)):
        position = -1 - count
        extent = block.iters[position].extent
        if indices[position] is not axes[position] or not _same(shape[position], extent):
            break
        count += 1
    rest = set(axes[len(axes) - count :])
    leaks = any(uses_var(index, rest) for index in indices[: len(indices) - count])
    return 0 if leaks else count


def _same(a: object, b: object) -> bool:
    return a is b or getattr(a, "value", object()) == getattr(b, "value", None)
