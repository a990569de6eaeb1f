# SPDX-License-Identifier: Apache-2.0
"""The default schedule of blocks without a reduction: vectors inside, tasks outside.

Axes that every access walks in the same order are one long axis; its inner part becomes lanes and
its outer part tasks. Where accesses differ (broadcasts, transposes) the last axis becomes lanes
and the others tasks.
"""

from __future__ import annotations

import math

from heddle.ir.expr import Call, Expr, Var
from heddle.ir.walk import post_order, uses_var
from heddle.schedule.rules.analysis import extent_of, is_contiguous, step_loads
from heddle.schedule.rules.machine import worth_threads
from heddle.schedule.schedule import BlockRef, LoopRef, Schedule
from heddle.target import Target
from heddle.tir.nodes import Block, BufferLoad, BufferStore

_UNROLLED_VECTORS = 4
"""Vectors in flight per step, enough to hide the latency of short expressions."""

_CALL_ACCESSES = 16
"""What a call of a function costs, in loads of a vector."""

_ENOUGH_TASKS = 128
"""Parallel iterations that balance over any cores: further loops stay inside them."""


def schedule_elementwise(
    sch: Schedule, block: BlockRef, target: Target, *, first: int | None = None
) -> None:
    """Make `block` vector code that runs on all cores, which share out the axis `first` where it is
    given and no part of the vectors."""
    loops = sch.get_loops(block)
    lead = None if first is None else loops[first]
    if not loops:
        return
    shared = worth_threads(_cycles(sch, block, loops, target))
    if _schedule_transposed(sch, block, loops, target, shared=shared):
        return
    loops = _fuse_alike(sch, block, loops)
    *outer, last = loops
    size = vector_width(sch, block, target)
    outer += vectorize_loop(sch, last, size)
    if lead in outer[:-1]:
        outer = [lead, *(loop for loop in outer if loop != lead)]
        sch.reorder(*outer)
    parallelize(sch, _tasks(sch, outer), shared=shared)


def _cycles(sch: Schedule, block: BlockRef, loops: list[LoopRef], target: Target) -> float | None:
    """Cycles that `block` takes on one core, None where a size is not known."""
    node, count = sch.block(block), 1
    for loop in loops:
        extent = extent_of(sch, loop)
        if extent is None:
            return None
        count *= extent
    calls = sum(isinstance(n, Call) and n.name != "if_then_else" for n in post_order(node.body))
    accesses = 1 + len(step_loads(node)) + _CALL_ACCESSES * calls
    return count / vector_width(sch, block, target) * accesses


def _tasks(sch: Schedule, loops: list[LoopRef]) -> list[LoopRef]:
    """As many of the outer loops as give enough tasks: each iteration of a fused loop finds its
    indices by divisions."""
    tasks, count = 1, 0
    while count < len(loops) and tasks < _ENOUGH_TASKS:
        tasks *= extent_of(sch, loops[count]) or 1
        count += 1
    return loops[:count]


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


def parallelize(sch: Schedule, loops: list[LoopRef], *, shared: bool = True) -> LoopRef | None:
    """Fuse perfectly nested outer loops into one loop, which is parallel where it is `shared`."""
    if not loops:
        return None
    task = sch.fuse(*loops) if len(loops) > 1 else loops[0]
    if shared:
        sch.parallel(task)
    return task


def _schedule_transposed(
    sch: Schedule, block: BlockRef, loops: list[LoopRef], target: Target, *, shared: bool
) -> bool:
    """Where the block reads along another axis than it writes, let square tiles of both axes be the
    inner loops: the tiles are transposed in registers (`passes.tir.transpose_tiles`)."""
    node = sch.block(block)
    axes = _transposed_axes(node)
    lanes = target.vector_lanes(32)
    if axes is None or vector_width(sch, block, target) != lanes:
        return False
    runs = [loops[at - 1 : at + 1] if _walked_as_one(node, at) else [loops[at]] for at in axes]
    sizes = [math.prod(extent_of(sch, loop) or 0 for loop in run) for run in runs]
    if min(sizes) < lanes // 4:
        return False
    sides = [sch.fuse(*run) if len(run) > 1 else run[0] for run in runs]
    outer = [loop for loop in sch.get_loops(block) if loop not in sides]
    for at, size in enumerate(sizes):
        if size > lanes:
            rest, sides[at] = sch.split(sides[at], [None, lanes])
            outer.append(rest)
    sch.reorder(*outer, *sides)
    unit, lane = sides
    sch.unroll(unit)
    sch.vectorize(lane)
    parallelize(sch, outer, shared=shared)
    return True


def _transposed_axes(block: Block) -> tuple[int, int] | None:
    """The axis along which the block reads and the one along which it writes, where these differ
    and elements have 32 bits."""
    store = block.body
    if type(store) is not BufferStore or not store.indices:
        return None
    positions = {axis.var: at for at, axis in enumerate(block.iters)}
    lane = store.indices[-1]
    if lane not in positions:
        return None
    loads = [load for load in step_loads(block) if load.buffer.dtype.bits == 32]
    for load in loads:
        if any(uses_var(index, lane) for index in load.indices) and not is_contiguous(load, lane):
            for axis in block.iters:
                if is_contiguous(load, axis.var):
                    return positions[axis.var], positions[lane]
    return None


def _walked_as_one(block: Block, at: int) -> bool:
    """Whether every access has an axis and the one before it side by side, or neither."""
    store = block.body
    if at == 0 or type(store) is not BufferStore:
        return False
    first, second = block.iters[at - 1], block.iters[at]
    accesses: list[BufferStore | BufferLoad] = [store, *step_loads(block)]
    for access in accesses:
        pair = {first.var, second.var}
        used = [n for n, index in enumerate(access.indices) if uses_var(index, pair)]
        if not used:
            continue
        if len(used) != 2 or used[1] != used[0] + 1:
            return False
        a, b = (access.indices[n] for n in used)
        if a is not first.var or b is not second.var:
            return False
        if not _same(access.buffer.shape[used[1]], second.extent):
            return False
    return True


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
