# SPDX-License-Identifier: Apache-2.0
"""The default schedule of reductions and of what is computed from them (softmax, layer norm).

`final` is the last block of the kernel; its loops that index every reduced value are the rows.
Rows run on the cores; each row computes its reductions and then itself, so that intermediate
values stay in the first-level cache. Where the reduced axis is the contiguous one, it is split
into runs of vectors, each combined lane by lane and then across; else the contiguous axis is one of
the rows, and it becomes the lanes.
"""

from __future__ import annotations

from heddle.ir.walk import uses_var
from heddle.schedule.rules.analysis import (
    BlockKind,
    block_kind,
    extent_of,
    reduction_loops,
    step_loads,
)
from heddle.schedule.rules.elementwise import parallelize, vector_width, vectorize_loop
from heddle.schedule.schedule import BlockRef, LoopRef, Schedule
from heddle.target import Target
from heddle.tir.nodes import Block, IterKind

_RUN_VECTORS = 16
"""Vectors that a row reduction combines lane by lane before it combines the lanes."""


def schedule_reduction(
    sch: Schedule,
    producers: list[BlockRef],
    final: BlockRef,
    target: Target,
    *,
    shared: bool = True,
) -> None:
    """Compute `producers` (in program order) per row of `final`; rows are `shared` by the cores."""
    reductions = [p for p in producers if block_kind(sch.block(p)) is BlockKind.REDUCTION]
    rows, inner = _row_loops(sch, reductions, final)
    by_columns = not any(_reduces_contiguous(sch.block(block)) for block in reductions)
    lanes = min(vector_width(sch, block, target) for block in (*producers, final))
    if by_columns and rows and not inner:
        _by_columns(sch, producers, final, rows, lanes, shared=shared)
        return
    sch.reorder(*rows, *inner)
    task = parallelize(sch, rows or [sch.add_unit_loop(final)], shared=shared)
    assert task is not None
    for producer in reversed(producers):
        sch.compute_at(producer, task)
        sch.set_scope(producer, 0, "local")
    for block in (*producers, final):
        loops = _loops_below(sch, block, task)
        if block in reductions:
            reduce_row(sch, block, lanes)
        elif loops:
            last = sch.fuse(*loops) if len(loops) > 1 and block == final else loops[-1]
            vectorize_loop(sch, last, lanes)


def _row_loops(
    sch: Schedule, reductions: list[BlockRef], final: BlockRef
) -> tuple[list[LoopRef], list[LoopRef]]:
    """The loops of `final` that index reduced values, and the others."""
    block = sch.block(final)
    reduced = {sch.block(r).writes[0].buffer for r in reductions}
    loads = [load for load in step_loads(block) if load.buffer in reduced]
    rows: list[LoopRef] = []
    inner: list[LoopRef] = []
    for axis, loop in zip(block.iters, sch.get_loops(final), strict=True):
        used = [any(uses_var(index, axis.var) for index in load.indices) for load in loads]
        (rows if used and all(used) else inner).append(loop)
    return rows, inner


def _reduces_contiguous(block: Block) -> bool:
    """Whether the contiguous axis of some operand is reduced."""
    reduced = {axis.var for axis in block.iters if axis.kind is IterKind.REDUCTION}
    return any(
        load.indices and uses_var(load.indices[-1], reduced)
        for load in step_loads(block)
        if load.buffer.ndim > 0
    )


def _by_columns(
    sch: Schedule,
    producers: list[BlockRef],
    final: BlockRef,
    rows: list[LoopRef],
    lanes: int,
    *,
    shared: bool,
) -> None:
    """Lanes along the last row axis; the reduction runs inside each vector."""
    *outer, last = rows
    extent = extent_of(sch, last)
    inner = last
    if extent is None or extent > lanes:
        split_outer, inner = sch.split(last, [None, lanes])
        outer.append(split_outer)
    task = parallelize(sch, outer or [sch.add_unit_loop(final)], shared=shared)
    assert task is not None
    for producer in reversed(producers):
        sch.compute_at(producer, task)
        sch.set_scope(producer, 0, "local")
    sch.vectorize(inner)
    for producer in producers:
        inside = _loops_below(sch, producer, task)
        reduced = [loop for loop in inside if loop in reduction_loops(sch, producer)]
        spatial = [loop for loop in inside if loop not in reduced]
        if spatial and reduced:
            sch.reorder(*spatial[:-1], *reduced, spatial[-1])
            init = sch.decompose_reduction(producer, reduced[0])
            sch.vectorize(sch.get_loops(init)[-1])
        elif reduced:
            sch.decompose_reduction(producer, reduced[0])
        if spatial:
            sch.vectorize(spatial[-1])


def reduce_row(sch: Schedule, block: BlockRef, lanes: int) -> None:
    """Let vectors accumulate along the reduced axis; each run of vectors is summed once."""
    loops = reduction_loops(sch, block)
    if not loops:
        return
    sch.decompose_reduction(block, loops[0])
    run = lanes * _RUN_VECTORS
    tail, size = [loops[-1]], extent_of(sch, loops[-1])
    for loop in reversed(loops[:-1]):
        extent = extent_of(sch, loop)
        if size is None or extent is None or size * extent > run:
            break
        tail.insert(0, loop)
        size *= extent
    axis = sch.fuse(*tail) if len(tail) > 1 else tail[0]
    if size is None or size > run:
        _, axis = sch.split(axis, [None, run])
    sch.vectorize(axis)


def _loops_below(sch: Schedule, block: BlockRef, loop: LoopRef) -> list[LoopRef]:
    loops = sch.get_loops(block)
    return loops[loops.index(loop) + 1 :] if loop in loops else loops
