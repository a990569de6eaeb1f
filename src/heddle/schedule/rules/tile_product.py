# SPDX-License-Identifier: Apache-2.0
"""The default schedule of products of low precision on processors with tile registers (AMX).

The loops are those of `contraction`; the innermost ones become products of tiles, up to 16 rows by
16 columns by 64 bytes of depth, of which a block of `R x C` shares what it loads:

    for remaining reduction axes
        for R row tiles, C column tiles (unrolled)
            accumulators += x tile * w tile                     (tensorized)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from heddle.ir.expr import Call, as_int
from heddle.ir.walk import post_order
from heddle.schedule.rules.analysis import Contraction, extent_of
from heddle.schedule.rules.contraction import ContractionPlan
from heddle.schedule.rules.epilogue import vectorize_epilogue
from heddle.schedule.rules.machine import RegisterTile
from heddle.schedule.schedule import BlockRef, Schedule
from heddle.target import Target
from heddle.tir.intrinsics_amx import COLUMNS, REGISTERS, STEPS, TILE_ROWS

_KINDS: Final = {
    ("uint8", "int8"): ("x86.amx.u8s8", "amx-int8"),
    ("bfloat16", "bfloat16"): ("x86.amx.bf16", "amx-bf16"),
}
_FEWEST_ROWS: Final = 4
"""With fewer rows than this in a tile, vector instructions are as fast."""

_LOADS_PER_CYCLE: Final = 2
_RIGHT_COST: Final = 2.5
"""What a row of the right operand, which comes from the second-level cache, costs in loads."""


_OVERLAP_LOST: Final = 0.25
"""The share of loads that products do not hide."""

_COPY_CYCLES: Final = 4
"""Cycles that it takes to copy a row of a tile."""


@dataclass(frozen=True, slots=True)
class TileProduct:
    """A contraction that tiles compute: `rows` of a tile, and how many tiles share operands."""

    facts: Contraction
    step: int
    intrin: str
    rows: int
    row_tiles: int
    column_tiles: int


def has_tiles(target: Target, x: str, w: str) -> bool:
    """Whether `target` multiplies tiles of dtypes `x` and `w`."""
    found = _KINDS.get((x, w))
    return found is not None and target.has("amx-tile") and target.has(found[1])


def panel_columns(rows: int | None, columns: int | None) -> int:
    """Columns of a panel of a packed matrix: those of one block of tiles, so that a task reads its
    panel as it lies."""
    widths = [n for n in (1, 2, 4) if columns is None or columns % (n * COLUMNS) == 0]
    shape = _block_shape(rows or 2 * TILE_ROWS, widths or [1])
    return COLUMNS * (shape[2] if shape is not None else 1)


def tile_product_of(
    facts: Contraction, step: int, row_steps: list[int | None], target: Target
) -> TileProduct | None:
    """How tiles compute a contraction of packed operands, whose axis `step` an instruction adds up
    and whose row axes have `row_steps`; None when they do not suit."""
    rows = row_steps[-1] if row_steps else 1
    lines = (row_steps[-2] if len(row_steps) > 1 else None) or 1
    counts = _column_counts(facts, target)
    shape = _block_shape(rows, counts, lines=lines) if rows is not None else None
    if shape is None:
        return None
    size, row_tiles, columns = shape
    intrin = f"{_KINDS[_dtypes(facts)][0]}.{size}"
    return TileProduct(facts, step, intrin, size, row_tiles, columns)


def rows_to_gather(facts: Contraction, row_steps: list[int | None], target: Target) -> int | None:
    """The size of tiles into which copying all rows pays; None when it does not, or where rows are
    read under a condition."""
    guarded = any(isinstance(found, Call) for found in post_order(facts.block.body))
    counts = [] if guarded else _column_counts(facts, target)
    sizes = [size for size in row_steps if size is not None]
    rows = math.prod(sizes)
    columns = math.prod(facts.extent(axis) or 1 for axis in (*facts.cols, facts.vector)) // COLUMNS
    if not counts or len(sizes) < len(row_steps) or rows < _FEWEST_ROWS:
        return None
    shape = _block_shape(sizes[-1], counts, lines=math.prod(sizes[-2:-1]))
    cost = math.inf if shape is None else _cycles(*shape)
    whole = {size: -(-rows // size) * size for size in range(_FEWEST_ROWS, TILE_ROWS + 1)}
    costs = {
        size: _cycles(*shape) * padded / rows + _COPY_CYCLES / columns
        for size, padded in whole.items()
        if (shape := _block_shape(padded, counts)) is not None and shape[0] == size
    }
    best = min(costs, key=lambda size: costs[size], default=None)
    return best if best is not None and costs[best] < cost else None


def _dtypes(facts: Contraction) -> tuple[str, str]:
    return facts.x.buffer.dtype.name, facts.w.buffer.dtype.name


def _column_counts(facts: Contraction, target: Target) -> list[int]:
    """How many tiles of columns a block may have; none where tiles do not suit the contraction."""
    vector = facts.extent(facts.vector)
    depth = facts.extent(facts.reduce[-1]) if facts.reduce else None
    if not has_tiles(target, *_dtypes(facts)) or vector is None or depth is None:
        return []
    width = as_int(facts.w.buffer.shape[-2])
    if width is None or width % COLUMNS or vector % COLUMNS or depth % STEPS:
        return []
    return [n for n in (1, 2, 4) if width % (n * COLUMNS) == 0 and vector % (n * COLUMNS) == 0]


def _block_shape(rows: int, counts: list[int], *, lines: int = 1) -> tuple[int, int, int] | None:
    """(rows of a tile, row tiles, column tiles) of the fastest block for so many rows; None when
    they divide into no tiles. `counts` are the numbers of column tiles to choose from. Rows that
    one tile holds (a line of a small image) may be taken with those of other `lines`."""
    shapes = [
        (size, row_tiles, columns)
        for size in range(_FEWEST_ROWS, TILE_ROWS + 1)
        if rows % size == 0
        for row_tiles in (1, 2, 3, 4)
        if (rows // size if size < rows else lines) % row_tiles == 0
        for columns in counts
        if row_tiles * columns + row_tiles + 1 <= REGISTERS
    ]
    return min(shapes, key=lambda shape: (_cycles(*shape), -math.prod(shape)), default=None)


def _cycles(rows: int, row_tiles: int, columns: int) -> float:
    """Cycles per row of the output for one step of a block: an instruction takes one for each row
    of its left operand."""
    products = rows * row_tiles * columns
    loads = rows * row_tiles + _RIGHT_COST * STEPS * columns
    cycles = loads / _LOADS_PER_CYCLE
    return (max(float(products), cycles) + _OVERLAP_LOST * cycles) / products


def schedule_tile_product(
    sch: Schedule, block: BlockRef, epilogue: BlockRef, target: Target, tiles: TileProduct
) -> None:
    """Tile `block` for tile registers, and compute `epilogue` from what they leave in the
    first-level cache."""
    shape = RegisterTile(tiles.rows * tiles.row_tiles, tiles.column_tiles)
    plan = ContractionPlan(
        sch, block, tiles.facts, target, steps=(tiles.step,), chosen=shape, vector=COLUMNS
    )
    reduce = [plan.loops[axis] for axis in tiles.facts.reduce]
    tile_loop = plan.tile()
    *inside, column, lanes = plan.tile_loops
    outer_step, inner_step = sch.split(reduce[-1], [None, STEPS])
    row_tiles, rows = sch.split(inside[-1], [None, tiles.rows])
    last = sch.get_loops(block)[-1]  # what one instruction adds up
    sch.reorder(outer_step, *inside[:-1], row_tiles, column, rows, lanes, inner_step, last)
    made = sch.tensorize(rows, tiles.intrin)
    sch.reverse_compute_at(epilogue, tile_loop)
    sch.set_scope(made, 0, "local")
    vectorize_epilogue(sch, epilogue, tile_loop, target, in_registers=False)
    plan.block, plan.first_reduction = made, outer_step if len(reduce) == 1 else reduce[0]
    init = sch.decompose_reduction(made, plan.first_reduction)
    plan.prefetch_next_panel()
    for name in (made, init):
        loops = sch.get_loops(name)
        for loop in loops[loops.index(tile_loop) + 1 :]:
            if loop not in (*reduce, outer_step) and (extent_of(sch, loop) or 99) <= TILE_ROWS:
                sch.unroll(loop)
