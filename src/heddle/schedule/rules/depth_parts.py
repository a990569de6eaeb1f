# SPDX-License-Identifier: Apache-2.0
"""Deep sums of products with few outputs, computed in parts that are added up after.

A few rows and columns make a few tiles, which share out badly among cores; and a panel of columns
that is very deep leaves the second-level cache before the next rows walk over it. In parts of the
depth there are more tiles, and panels stay where they are:

    for i, j, k in grid(32, 64, 4096):           for p, i, j, k in grid(8, 32, 64, 512):
        C[i, j] += x[i, k] * w[k, j]      ->         P[p, i, j] += x[i, p * 512 + k] * ...
    for i, j in grid(32, 64):                    for i, j in grid(32, 64):
        D[i, j] = f(C[i, j])                         D[i, j] = f(sum of P[:, i, j])
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from heddle.schedule.rules.analysis import contraction_of
from heddle.schedule.rules.contraction import ContractionPlan
from heddle.schedule.rules.machine import (
    bytes_per_cycle,
    choose_tile,
    matrix_rows,
    tile_cycles,
    worth_threads,
)
from heddle.schedule.rules.reduction import schedule_reduction
from heddle.schedule.rules.turned_operand import TURN_CYCLES
from heddle.schedule.schedule import BlockRef, Schedule
from heddle.target import Target

_MOST_PARTS = 64

_LEAST_DEPTH = 128
"""Steps of a part: what a tile costs before and after its steps is then little."""

_WORTH = 0.9
"""Predicted share of the time in one go below which parts pay."""

_CLOSE = 1.05
"""Times the least predicted time that fewer parts may take."""


@dataclass(frozen=True, slots=True)
class ProductShape:
    """`batch` products of `rows` x `depth`, `pitch` elements apart, by `depth` x `vectors`. `panel`
    is the width of packed panels in vectors, None where the right operand lies plain; it may be
    `turned` by each task."""

    batch: int
    rows: int
    depth: int
    vectors: int
    pitch: int = 1
    panel: int | None = None
    turned: bool = False


def split_into_parts(
    sch: Schedule,
    block: BlockRef,
    epilogue: BlockRef,
    target: Target,
    *,
    turned: bool = False,
) -> tuple[BlockRef, BlockRef]:
    """Let parts of the depth of `block`, a contraction, be computed side by side where that is
    predicted to take less time. Returns the contraction that is left to schedule, and the block
    that takes its values: `block` and `epilogue` themselves where there is but one part."""
    shape = _shape(sch, block, target, turned)
    parts = part_count(shape, target) if shape is not None else 1
    if shape is None or parts == 1:
        return block, epilogue
    part, _ = sch.split(sch.get_loops(block)[-1], [parts, None])
    partial = sch.rfactor(block, part, axis=0)
    shared = worth_threads(parts * shape.batch * shape.rows * shape.vectors)
    schedule_reduction(sch, [block], epilogue, target, shared=shared)
    return partial, sch.cache_write(partial, 0, "local")


def _shape(sch: Schedule, block: BlockRef, target: Target, turned: bool) -> ProductShape | None:
    """The sizes of a matrix product; None for other contractions, and where one is 0 or unknown."""
    facts = contraction_of(sch.block(block))
    if facts is None or facts.x_has_vector or facts.reduce != (len(facts.block.iters) - 1,):
        return None
    sizes = [facts.extent(axis) for axis in range(len(facts.block.iters))]
    known = [size for size in sizes if size]
    if len(known) < len(sizes):
        return None
    plan = ContractionPlan(sch, block, facts, target)
    columns = known[facts.vector] * math.prod(known[axis] for axis in facts.cols)
    return ProductShape(
        batch=math.prod(known[axis] for axis in facts.batch),
        rows=math.prod(known[axis] for axis in facts.rows),
        depth=known[-1],
        vectors=-(-columns // plan.lanes),
        pitch=plan.row_pitch(),
        panel=plan.panel_vectors(),
        turned=turned,
    )


def part_count(shape: ProductShape, target: Target) -> int:
    """Into how many parts of their depth, all of one size, to split products.

    >>> from heddle.target import parse
    >>> target = parse("llvm -mcpu=skylake-avx512 -cores=16")
    >>> part_count(ProductShape(batch=1, rows=5, depth=4096, vectors=1), target) > 1
    True
    >>> part_count(ProductShape(batch=1, rows=512, depth=512, vectors=32), target)
    1
    """
    counts = [n for n in range(2, _MOST_PARTS + 1) if shape.depth % n == 0]
    cycles = {n: _cycles(shape, n, target) for n in counts if shape.depth >= n * _LEAST_DEPTH}
    least = min(cycles.values(), default=math.inf)
    if least > _WORTH * _cycles(shape, 1, target):
        return 1
    return next(n for n in counts if cycles[n] < _CLOSE * least)


def _cycles(shape: ProductShape, parts: int, target: Target) -> float:
    """Cycles of the busiest core. A tile waits for what it reads where that takes longer than its
    arithmetic, and for a third of it otherwise."""
    depth = shape.depth // parts
    tile = choose_tile(
        shape.rows,
        shape.vectors,
        target,
        depth=depth,
        widths=range(1, 9) if shape.panel is None else [shape.panel],
        max_rows=matrix_rows(shape.pitch, target),
        streamed=shape.turned,
    )
    columns, rows = -(-shape.vectors // tile.vectors), -(-shape.rows // tile.rows)
    turning = 0.0
    if shape.turned:
        turning = TURN_CYCLES * depth * tile.vectors * target.vector_lanes(32)
        rows = min(rows, -(-target.cores // (shape.batch * parts * columns)))
    tiles = rows * columns
    tasks = -(-shape.batch * parts * tiles // target.cores)
    work = depth * tile_cycles(shape.rows, shape.vectors, tile, target) / tiles
    # Vectors of a plain row lie across the borders of cache lines.
    vectors = tile.vectors + (shape.panel is None)
    panel, left = depth * vectors * target.vector_bits // 8, depth * tile.rows * 4
    arrival = panel / bytes_per_cycle(panel, target) + left / bytes_per_cycle(left, target)
    sums = 2 * parts * shape.batch * shape.rows * shape.vectors if parts > 1 else 0
    return tasks * (max(work + arrival / 3, arrival) + turning) + sums / target.cores
