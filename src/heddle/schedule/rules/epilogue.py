# SPDX-License-Identifier: Apache-2.0
"""What follows a contraction inside its register tiles."""

from __future__ import annotations

from heddle.schedule.rules.analysis import extent_of
from heddle.schedule.schedule import BlockRef, LoopRef, Schedule
from heddle.target import Target


def vectorize_epilogue(
    sch: Schedule,
    epilogue: BlockRef,
    tile_loop: LoopRef,
    target: Target,
    *,
    in_registers: bool = True,
) -> None:
    """Make the last loop of the epilogue inside a tile lanes. Where the tile lies in registers, the
    others are unrolled; where it lies in memory, rows stay a loop, whose code is short."""
    loops = sch.get_loops(epilogue)
    inner = loops[loops.index(tile_loop) + 1 :]
    if not inner:
        return
    *outer, last = inner
    lanes = target.vector_lanes(32)
    extent = extent_of(sch, last)
    if extent is not None and (extent > lanes or extent.bit_count() > 1):
        vectors, last = sch.split(last, [None, lanes])  # what is left over is one vector, masked
        outer.append(vectors)
    for loop in outer if in_registers else outer[-1:]:
        sch.unroll(loop)
    sch.vectorize(last)
