# SPDX-License-Identifier: Apache-2.0
"""The default schedule of products of low precision: the tile of a contraction, made of dot
product instructions of the target.

Operands packed for such an instruction (`op.conv2d_dot`, `op.matmul_dot`) are contractions whose
innermost reduction axis is the one that the instruction adds up. The loops are those of
`contraction`; the lanes and that axis become one instruction:

    for reduction axes
        for rows of the tile (unrolled)
            for vectors of the tile (unrolled)
                accumulators += dot(x, w)                       (tensorized)
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

from heddle.ir.dtype import DType
from heddle.ir.expr import as_int
from heddle.schedule.rules.analysis import Contraction, contraction_of, extent_of
from heddle.schedule.rules.contraction import ContractionPlan
from heddle.schedule.rules.epilogue import vectorize_epilogue
from heddle.schedule.rules.gathered_rows import gather_rows
from heddle.schedule.rules.machine import panel_width
from heddle.schedule.rules.tile_product import (
    has_tiles,
    panel_columns,
    rows_to_gather,
    schedule_tile_product,
    tile_product_of,
)
from heddle.schedule.schedule import BlockRef, Schedule
from heddle.target import Target
from heddle.tir import tensor_intrin
from heddle.tir.intrinsics_amx import STEPS, TILE_BYTES
from heddle.tir.nodes import Block
from heddle.tir.tensor_intrin import TensorIntrin

_CANDIDATES: Final = (
    *("x86.vpdpbusd.512", "x86.vpdpbusd.256", "x86.avxvnni.256", "x86.pmaddwd.quads.u8s8"),
    *("x86.dpbf16ps.512",),
)
"""Instructions that take one vector of accumulators at a time, the best first."""

_OPERANDS: Final = frozenset({("uint8", "int8"), ("bfloat16", "bfloat16")})


@dataclass(frozen=True, slots=True)
class DotProduct:
    """A contraction that `intrin` does; `step` is the axis that one instruction adds up."""

    facts: Contraction
    intrin: TensorIntrin
    step: int


def dot_intrinsic(target: Target, x: str, w: str) -> TensorIntrin | None:
    """The instruction of `target` for products of dtypes `x` and `w`, packed as `op.pack_dot`
    packs them, whose lanes fill a vector register. None when it has none."""
    if (x, w) not in _OPERANDS:
        return None
    for name in _CANDIDATES:
        found = tensor_intrin.get(name)
        left, right, _ = found.description.params
        (_, lanes), _ = found.nest.axes
        if (left.dtype.name, right.dtype.name) != (x, w):  # type: ignore[attr-defined]
            continue
        if found.features <= target.features and lanes == target.vector_lanes(32):
            return found
    return None


def dot_row(target: Target, x: str, w: str) -> int | None:
    """Channels that fill a row of a tile of products of dtypes `x` and `w`; None when `target` has
    no tiles for them."""
    return TILE_BYTES // DType.of(x).nbytes if has_tiles(target, x, w) else None


def dot_block(target: Target, x: str, w: str, channels: int) -> int:
    """Channels in a block of an image of `channels`, which is an operand of a product of dtypes
    `x` and `w`: a row of a tile where `target` has tiles and the channels fill it."""
    row = dot_row(target, x, w)
    return row if row is not None and channels % row == 0 else target.vector_lanes(32)


def dot_panel(
    target: Target, x: str, w: str, rows: int | None, columns: int | None, depth: int
) -> int | None:
    """Columns per panel of a matrix packed by `op.pack_dot` for a product of `rows` x `depth` by
    `depth` x `columns`; None when the target has no instruction for these dtypes.

    >>> from heddle.target import parse
    >>> dot_panel(parse("llvm -mcpu=cascadelake"), "uint8", "int8", 128, 768, 768)
    48
    >>> dot_panel(parse("llvm -mcpu=x86-64"), "uint8", "int8", 128, 768, 768)
    """
    intrin = dot_intrinsic(target, x, w)
    if intrin is None:
        return None
    (_, _), (_, each) = intrin.nest.axes
    if has_tiles(target, x, w) and rows != 1 and depth % (STEPS * each) == 0:
        return panel_columns(rows, columns)
    return panel_width(rows, columns, -(-depth // each), target)


def dot_product_of(block: Block, target: Target) -> DotProduct | None:
    """How an instruction of `target` computes `block`, a contraction of packed operands; None when
    none does."""
    facts = contraction_of(block)
    if facts is None or not facts.reduce or facts.x_has_vector:
        return None
    intrin = dot_intrinsic(target, facts.x.buffer.dtype.name, facts.w.buffer.dtype.name)
    if intrin is None:
        return None
    (_, lanes), (_, depth) = intrin.nest.axes
    step, vector = facts.reduce[-1], facts.extent(facts.vector)
    packed = facts.w.indices[-1] is block.iters[step].var and facts.extent(step) == depth
    width = as_int(facts.w.buffer.shape[-2])
    # Lanes may reach past the columns of the output, not past those of a panel.
    whole = vector is not None and vector % lanes == 0
    if not packed or width is None or width % lanes or not whole:
        return None
    others = tuple(axis for axis in facts.reduce if axis != step)
    return DotProduct(dataclasses.replace(facts, reduce=others), intrin, step)


def _row_steps(
    sch: Schedule, block: BlockRef, facts: Contraction, target: Target
) -> list[int | None]:
    """Steps of the row axes, after neighbours that are one long axis are fused."""
    trial = Schedule(sch.func)
    plan = ContractionPlan(trial, block, facts, target)
    rows = plan.fuse_pointwise_rows([plan.loops[axis] for axis in facts.rows])
    return [extent_of(trial, loop) for loop in rows]


def schedule_dot_product(
    sch: Schedule, block: BlockRef, epilogue: BlockRef, target: Target, dot: DotProduct
) -> None:
    """Tile `block`, let instructions do its lanes, keep its accumulators in registers, and compute
    `epilogue` from them."""
    rows = _row_steps(sch, block, dot.facts, target)
    size = rows_to_gather(dot.facts, rows, target)
    if size is not None:
        gather_rows(sch, block, epilogue, dot.facts, size, target)
        found = dot_product_of(sch.block(block), target)
        assert found is not None, "the operands are as they were"
        dot, rows = found, _row_steps(sch, block, found.facts, target)
    tiles = tile_product_of(dot.facts, dot.step, rows, target)
    if tiles is not None:
        schedule_tile_product(sch, block, epilogue, target, tiles)
        return
    plan = ContractionPlan(sch, block, dot.facts, target, steps=(dot.step,))
    tile_loop = plan.tile()
    *tiled, lanes = plan.tile_loops
    made = sch.tensorize(lanes, dot.intrin.name)
    sch.reverse_compute_at(epilogue, tile_loop)
    sch.set_scope(made, 0, "local")
    vectorize_epilogue(sch, epilogue, tile_loop, target)
    init = sch.decompose_reduction(made, plan.first_reduction)
    for name in (made, init):
        loops = sch.get_loops(name)
        for loop in loops[len(loops) - len(tiled) :]:
            sch.unroll(loop)
