# SPDX-License-Identifier: Apache-2.0
"""The default schedule of few rows times a matrix that lies along the reduction.

Dot products of what lies together: the reduction becomes lanes, and a tile of all rows by several
columns is kept in registers, so that the matrix goes by once and every vector of it meets all rows:

    for batch, columns in parallel (and tiles of rows)
        accumulators [rows, columns of the tile, lanes] = 0
        for the reduction, a vector at a time
            for rows, columns of the tile (unrolled)
                for lanes (vectorized)
        for rows, columns of the tile (unrolled)
            the sum of the lanes, and what follows
"""

from __future__ import annotations

import math

from heddle.ir.expr import Var
from heddle.ir.walk import uses_var
from heddle.schedule.rules.analysis import Contraction, dot_rows_of, extent_of, step_loads
from heddle.schedule.rules.machine import RegisterTile, step_cycles, worth_threads
from heddle.schedule.schedule import BlockRef, LoopRef, Schedule
from heddle.target import Target
from heddle.tir.nodes import BufferLoad

_MOST_ROWS = 4
"""Rows of a tile: more of them would leave fewer columns to share what is loaded of them."""

_MOST_COLUMNS = 8
"""Columns of a tile: each is a stream from memory."""


def takes_dot_rows(sch: Schedule, blocks: list[BlockRef], target: Target) -> bool:
    """Whether `blocks` are dot products of few rows and the elementwise block that follows."""
    if len(blocks) != 2:
        return False
    facts, final = dot_rows_of(sch.block(blocks[0])), sch.block(blocks[1])
    if facts is None or len(facts.reduce) != 1 or facts.cols:
        return False
    depth, lanes = facts.extent(facts.reduce[0]), _lanes(facts, target)
    known = [facts.extent(axis) for axis in (*facts.rows, facts.vector)]
    if depth is None or None in known or _are_many(facts, facts.rows[:-1]):
        return False
    along = facts.block.iters[facts.reduce[0]].var
    if depth % lanes and not all(_is_plain(load, along) for load in (facts.x, facts.w)):
        return False
    made = facts.block.writes[0]
    axes = [facts.block.iters[axis].var for axis in _spatial(facts)]
    if [dim.min for dim in made.ranges] != axes or facts.x.buffer is facts.w.buffer:
        return False
    reads = [load.indices for load in step_loads(final) if load.buffer is made.buffer]
    return reads == [tuple(axis.var for axis in final.iters)]


def schedule_dot_rows(sch: Schedule, block: BlockRef, final: BlockRef, target: Target) -> None:
    """Keep tiles of `block` in registers, and compute `final` from them."""
    facts = dot_rows_of(sch.block(block))
    assert facts is not None
    tile, lanes = _tile(facts, target), _lanes(facts, target)
    _fill_steps(sch, block, facts, lanes)
    _, lane = sch.split(sch.get_loops(block)[-1], [None, lanes])
    partial = sch.rfactor(block, lane, axis=len(_spatial(facts)))
    outer = dict(zip(_spatial(facts), sch.get_loops(final), strict=True))
    rows, batch = ([outer[axis] for axis in axes] for axes in (facts.rows, facts.batch))
    columns, several = sch.split(outer[facts.vector], [None, tile.vectors])
    sch.reorder(*batch, columns, *rows, several)
    task = around = sch.fuse(*batch, columns) if batch else columns
    if rows and (extent_of(sch, rows[-1]) or 1) > tile.rows:
        around, rows[-1] = sch.split(rows[-1], [None, tile.rows])
    if worth_threads(_cycles(facts, tile, lanes, target)):
        sch.parallel(task)
    for producer in (block, partial):
        sch.compute_at(producer, around)
        sch.set_scope(producer, 0, "local")
    *tiled, steps, lane = _inside(sch, partial, around)
    sch.reorder(steps, *tiled, lane)
    init = sch.decompose_reduction(partial, steps)
    sums = _inside(sch, block, around)
    total = sch.decompose_reduction(block, sums[-1])
    for loop in (*tiled, *_inside(sch, init, around)[:-1], *sums[:-1], *rows):
        sch.unroll(loop)
    for loop in (lane, _inside(sch, init, around)[-1], sums[-1]):
        sch.vectorize(loop)
    for loop in (*_inside(sch, total, around), several):
        sch.unroll(loop)


def _fill_steps(sch: Schedule, block: BlockRef, facts: Contraction, lanes: int) -> None:
    """Let the reduction have whole vectors: it ends in zeros."""
    before = sch.get_blocks()
    axes = range(len(facts.block.iters))
    sch.pad_einsum(block, [lanes if axis in facts.reduce else 1 for axis in axes])
    for copy in sch.get_blocks():
        if copy not in before:
            sch.compute_inline(copy)


def _tile(facts: Contraction, target: Target) -> RegisterTile:
    """All rows, or some, by as many columns as leave registers for what is loaded."""
    rows = math.prod(facts.extent(axis) or 1 for axis in facts.rows)
    if rows > _MOST_ROWS:
        rows = 2 if target.vector_registers < 4 * _MOST_ROWS else _MOST_ROWS
    columns = next(n for n in (8, 4, 2, 1) if n == 1 or rows * n <= target.vector_registers // 2)
    return RegisterTile(rows, min(columns, _MOST_COLUMNS))


def _are_many(facts: Contraction, axes: tuple[int, ...]) -> bool:
    return any(facts.extent(axis) != 1 for axis in axes)


def _lanes(facts: Contraction, target: Target) -> int:
    return target.vector_lanes(max(32, facts.block.writes[0].buffer.dtype.bits))


def _spatial(facts: Contraction) -> list[int]:
    return sorted((*facts.batch, *facts.rows, facts.vector))


def _cycles(facts: Contraction, tile: RegisterTile, lanes: int, target: Target) -> float | None:
    """Cycles that the whole takes on one core, None where a size is not known."""
    tiles = 1
    for axis in (*facts.batch, *facts.rows, facts.vector, *facts.reduce):
        extent = facts.extent(axis)
        if extent is None:
            return None
        tiles *= -(-extent // lanes) if axis in facts.reduce else extent
    return tiles / (tile.rows * tile.vectors) * step_cycles(tile, target)


def _inside(sch: Schedule, block: BlockRef, task: LoopRef) -> list[LoopRef]:
    loops = sch.get_loops(block)
    return loops[loops.index(task) + 1 :]


def _is_plain(load: BufferLoad, var: Var) -> bool:
    """Whether `load` is indexed with `var` as it is."""
    return all(index is var for index in load.indices if uses_var(index, var))
