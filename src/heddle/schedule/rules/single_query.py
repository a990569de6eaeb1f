# SPDX-License-Identifier: Apache-2.0
"""The default schedule of attention for one query, a step of a decoder.

    for batch, head in parallel
        scores    [keys]       a dot product of contiguous vectors for each key
        maximum, weights, sum  keys as lanes
        mixed     [columns]    in registers over all keys, divided by the sum on the way out

With several queries these are the lanes (`attention.py`); one would leave the others idle. Keys and
values are walked once, as they lie: what bounds this is reading them. The scores of a head stay in
the caches of the core.
"""

from __future__ import annotations

from dataclasses import dataclass

from heddle.schedule.rules.analysis import (
    BlockKind,
    block_kind,
    contraction_of,
    extent_of,
    reduction_loops,
)
from heddle.schedule.rules.elementwise import vectorize_loop
from heddle.schedule.rules.epilogue import vectorize_epilogue
from heddle.schedule.rules.reduction import reduce_row
from heddle.schedule.schedule import BlockRef, Schedule
from heddle.target import Target

_KEYS_AT_ONCE = 4
"""Keys whose values are added before the next are looked at: loads in flight."""


@dataclass(frozen=True)
class SingleQuery:
    """producers: what the weights are computed from, in program order. mixed: the product of the
    weights, one row, with the values. out: what follows it."""

    producers: tuple[BlockRef, ...]
    mixed: BlockRef
    out: BlockRef


def find_single_query(sch: Schedule) -> SingleQuery | None:
    """The chain that the whole function is, or None."""
    blocks = sch.get_blocks()
    kinds = [block_kind(sch.block(block)) for block in blocks]
    if len(blocks) < 3 or kinds[-2:] != [BlockKind.CONTRACTION, BlockKind.ELEMENTWISE]:
        return None
    *producers, mixed, out = blocks
    reductions = kinds[:-2].count(BlockKind.REDUCTION)
    if reductions < 2 or reductions + kinds.count(BlockKind.ELEMENTWISE) != len(blocks) - 1:
        return None
    written = [region.buffer for block in blocks[:-1] for region in sch.block(block).writes]
    if any(buffer in sch.func.params for buffer in written) or sch.consumers(mixed) != [out]:
        return None
    facts = contraction_of(sch.block(mixed))
    if facts is None or facts.cols or facts.x_has_vector or len(facts.reduce) != 1:
        return None
    if not facts.w_contiguous or any(facts.extent(at) != 1 for at in facts.rows):
        return None
    made = [region.buffer for block in producers for region in sch.block(block).writes]
    if facts.x.buffer not in made:
        return None
    return SingleQuery(tuple(producers), mixed, out)


def schedule_single_query(sch: Schedule, chain: SingleQuery, target: Target) -> None:
    """Compute everything per head."""
    facts = contraction_of(sch.block(chain.mixed))
    assert facts is not None
    loops = sch.get_loops(chain.mixed)
    heads = [loops[at] for at in (*facts.batch, *facts.rows)]
    column, keys = loops[facts.vector], loops[facts.reduce[0]]
    lanes = target.vector_lanes(max(32, facts.block.writes[0].buffer.dtype.bits))
    extent = extent_of(sch, column)
    lanes = lanes if extent is None else min(lanes, extent)
    several = 1 if extent is None else min(-(-extent // lanes), target.vector_registers // 4)
    outer, vectors, lane = sch.split(column, [None, several, lanes])
    sch.reorder(*heads, outer, keys, vectors, lane)
    task = sch.fuse(*heads) if len(heads) > 1 else heads[0]
    sch.parallel(task)
    sch.reverse_compute_at(chain.out, outer)
    sch.set_scope(chain.mixed, 0, "local")
    vectorize_epilogue(sch, chain.out, outer, target)
    init = sch.decompose_reduction(chain.mixed, keys)
    started = sch.get_loops(init)
    for several_, last in ((vectors, lane), started[-2:]):
        sch.unroll(several_)
        sch.vectorize(last)
    for producer in reversed(chain.producers):
        sch.compute_at(producer, task, preserve_unit_loops=True)
        sch.set_scope(producer, 0, "local")
    for producer in chain.producers:
        inner = sch.get_loops(producer)
        inner = inner[inner.index(task) + 1 :]
        if reduction_loops(sch, producer):
            reduce_row(sch, producer, lanes)
            continue
        long = [loop for loop in inner if extent_of(sch, loop) != 1]
        if long:
            sch.reorder(*(loop for loop in inner if loop != long[-1]), long[-1])
            vectorize_loop(sch, long[-1], lanes)
