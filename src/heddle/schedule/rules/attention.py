# SPDX-License-Identifier: Apache-2.0
"""The default schedule of attention: two products with a softmax between them, as one loop nest.

    for batch, head, block of queries in parallel
        query     [depth, queries]     transposed once, so that queries are lanes
        scores    [keys, queries]      in register tiles, masked on the way out
        maximum, weights, sum          vector by vector, queries as lanes: nothing crosses lanes
        for tiles of queries
            mixed [queries, columns]   in registers, divided by the sum on the way out

The scores of one block of queries against all keys stay in the caches of the core; they are never
whole anywhere. What decides is the shape of the computation, not which operator it came from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from heddle.ir.walk import uses_var
from heddle.schedule.rules.analysis import (
    BlockKind,
    Contraction,
    block_kind,
    contraction_of,
    extent_of,
    reduction_loops,
)
from heddle.schedule.rules.elementwise import vectorize_loop
from heddle.schedule.rules.epilogue import vectorize_epilogue
from heddle.schedule.rules.machine import MATRIX_ROWS, RegisterTile, choose_tile, tile_cycles
from heddle.schedule.schedule import BlockRef, LoopRef, Schedule
from heddle.target import Target
from heddle.tir.nodes import BufferLoad

_QUERY_VECTORS = 4
"""Most vectors of queries in a block."""


@dataclass(frozen=True)
class Chain:
    """Two contractions, the second of which reads what a reduction makes of the first.

    Of the blocks from the first to the second, `masked` is the one that alone reads the scores, if
    any, `early` those before it, `between` the others, in program order. before: what feeds the
    first.
    """

    before: tuple[BlockRef, ...]
    scores: BlockRef
    early: tuple[BlockRef, ...]
    masked: BlockRef | None
    between: tuple[BlockRef, ...]
    mixed: BlockRef
    out: BlockRef


def find_chain(sch: Schedule) -> Chain | None:
    """The chain that the whole function is, or None."""
    blocks = sch.get_blocks()
    kinds = [block_kind(sch.block(block)) for block in blocks]
    products = [at for at, kind in enumerate(kinds) if kind is BlockKind.CONTRACTION]
    if BlockKind.OPAQUE in kinds or len(products) != 2 or products[1] != len(blocks) - 2:
        return None
    first, second = products
    between = blocks[first + 1 : second]
    if not any(block_kind(sch.block(block)) is BlockKind.REDUCTION for block in between):
        return None
    if any(kind is not BlockKind.ELEMENTWISE for kind in (*kinds[:first], kinds[-1])):
        return None
    written = [region.buffer for block in blocks[:-1] for region in sch.block(block).writes]
    if any(buffer in sch.func.params for buffer in written):
        return None  # the scores or weights are wanted too
    if sch.consumers(blocks[second]) != [blocks[-1]]:
        return None
    readers = sch.consumers(blocks[first])
    alone = len(readers) == 1 and block_kind(sch.block(readers[0])) is BlockKind.ELEMENTWISE
    masked = readers[0] if alone else None
    # What only the mask reads (a constant that is its own block) stands before it.
    head = between.index(masked) if masked is not None else 0
    early, rest = tuple(between[:head]), tuple(b for b in between[head:] if b != masked)
    ends = blocks[second], blocks[second + 1]
    chain = Chain(tuple(blocks[:first]), blocks[first], early, masked, rest, *ends)
    return chain if _lanes_are_rows(sch, chain) else None


def _lanes_are_rows(sch: Schedule, chain: Chain) -> bool:
    """Whether the lanes of the first product are the only rows of the second."""
    first, second = contraction_of(sch.block(chain.scores)), contraction_of(sch.block(chain.mixed))
    if first is None or second is None or first.x_has_vector or second.x_has_vector:
        return False
    plain = all(len(side) == 1 for side in (first.rows, second.rows, first.reduce, second.reduce))
    if not plain or first.cols or second.cols:
        return False
    row = second.block.iters[second.rows[0]].var
    return second.x.indices[-1] is row


def schedule_chain(sch: Schedule, chain: Chain, target: Target) -> None:
    """Compute everything per block of queries."""
    first, second = contraction_of(sch.block(chain.scores)), contraction_of(sch.block(chain.mixed))
    assert first is not None
    assert second is not None
    lanes = target.vector_lanes(max(32, first.block.writes[0].buffer.dtype.bits))
    block = _query_block(first, lanes, target)
    epilogue = chain.masked or sch.cache_write(chain.scores, 0, "local")
    head, task = _tile_mixed(sch, chain, second, block, target)
    for producer in reversed((*chain.before, chain.scores, *chain.early, epilogue, *chain.between)):
        sch.compute_at(producer, task, preserve_unit_loops=True)
        sch.set_scope(producer, 0, "local")
    for producer in chain.before:
        vectorize_loop(sch, sch.get_loops(producer)[-1], lanes)
    _tile_scores(sch, chain.scores, epilogue, task, block, lanes)
    for producer in (*chain.early, *chain.between):
        _vectorize_rows(sch, producer, task, lanes)
    _gather(sch, chain.scores, first.x, head, lanes)
    _gather(sch, chain.mixed, second.w, head, lanes)


def _gather(sch: Schedule, block: BlockRef, load: BufferLoad, head: LoopRef, lanes: int) -> None:
    """Copy what a head reads of its keys or values together: rows a pitch apart would fall into a
    few sets of the first-level cache, and every block of queries walks over them again."""
    reads = list(dict.fromkeys(region.buffer for region in sch.block(block).reads))
    copy = sch.cache_read(block, reads.index(load.buffer), "local")
    sch.compute_at(copy, head)
    vectorize_loop(sch, sch.get_loops(copy)[-1], lanes)


def _query_block(facts: Contraction, lanes: int, target: Target) -> RegisterTile:
    """The register tile of the first product: keys by vectors of queries. Its vectors are a block
    of queries: at least two where there are, for keys and values are walked once a block, and
    more while the scores of a block take no more than half of the first-level cache."""
    keys, queries = facts.extent(facts.rows[0]), facts.extent(facts.vector)
    vectors = None if queries is None else -(-queries // lanes)
    cache = target.caches[0].size if target.caches else 32 << 10
    fitting = cache // 2 // ((keys or 1 << 10) * lanes * 4)
    most = min(max(2, fitting), _QUERY_VECTORS, vectors or _QUERY_VECTORS)
    widths = range(min(2, most), most + 1)
    return choose_tile(keys, vectors, target, widths=widths, max_rows=MATRIX_ROWS)


def _tile_mixed(
    sch: Schedule, chain: Chain, facts: Contraction, block: RegisterTile, target: Target
) -> tuple[LoopRef, LoopRef]:
    """Tile the second product around its epilogue; returns the loop over heads, which is parallel,
    and the one over blocks of queries: the same where there are too few heads for the cores."""
    loops = sch.get_loops(chain.mixed)
    rows, column, reduce = (loops[at] for at in (facts.rows[0], facts.vector, facts.reduce[0]))
    heads = [loops[at] for at in facts.batch]
    lanes = target.vector_lanes(max(32, facts.block.writes[0].buffer.dtype.bits))
    queries, columns = block.vectors * lanes, facts.extent(facts.vector)
    lanes = lanes if columns is None else min(lanes, columns)
    tile = _mixed_tile(queries, None if columns is None else -(-columns // lanes), target)
    blocks, walked, inner = sch.split(rows, [None, queries // tile.rows, tile.rows])
    outer, several, lane = sch.split(column, [None, tile.vectors, lanes])
    sch.reorder(*heads, blocks, walked, outer, reduce, inner, several, lane)
    if _shares_evenly([extent_of(sch, head) for head in heads], target.cores):
        head, task = sch.fuse(*heads) if len(heads) > 1 else heads[0], blocks
    else:
        head = task = sch.fuse(*heads, blocks) if heads else blocks
    sch.parallel(head)
    sch.reverse_compute_at(chain.out, outer)
    sch.set_scope(chain.mixed, 0, "local")
    vectorize_epilogue(sch, chain.out, outer, target)
    _finish_tile(sch, chain.mixed, outer, reduce, [inner, several, lane])
    return head, task


def _shares_evenly(heads: list[int | None], cores: int) -> bool:
    """Whether heads alone keep the cores busy, all but an eighth of the time."""
    if not heads or None in heads:
        return False
    count = math.prod(extent or 1 for extent in heads)
    return -(-count // cores) * cores * 7 <= count * 8


def _mixed_tile(queries: int, vectors: int | None, target: Target) -> RegisterTile:
    """The register tile of the second product; its rows divide the block of queries."""
    tiles = [
        choose_tile(rows, vectors, target, max_rows=rows, row_step=rows)
        for rows in range(1, MATRIX_ROWS + 1)
        if queries % rows == 0
    ]
    return min(tiles, key=lambda tile: tile_cycles(queries, vectors or 1 << 10, tile, target))


def _finish_tile(
    sch: Schedule, block: BlockRef, around: LoopRef, reduce: LoopRef, tile: list[LoopRef]
) -> None:
    """Start the accumulators before the reduction; unroll the tile and vectorize its lanes."""
    init = sch.decompose_reduction(block, reduce)
    for *unrolled, lane in (tile, _inside(sch, init, around)):
        for loop in unrolled:
            sch.unroll(loop)
        sch.vectorize(lane)


def _tile_scores(
    sch: Schedule,
    scores: BlockRef,
    epilogue: BlockRef,
    task: LoopRef,
    block: RegisterTile,
    lanes: int,
) -> None:
    """Register tiles of keys by queries, and what follows them from the registers."""
    *_, keys, queries, reduce = _inside(sch, scores, task)
    outer, inner = sch.split(keys, [None, block.rows])
    vectors, lane = sch.split(queries, [None, lanes])
    sch.reorder(outer, reduce, inner, vectors, lane)
    sch.reverse_compute_at(epilogue, outer)
    _finish_tile(sch, scores, outer, reduce, [inner, vectors, lane])
    *rows, last = _inside(sch, epilogue, outer)
    more, last = sch.split(last, [None, lanes])
    for loop in (*rows, more):
        sch.unroll(loop)
    sch.vectorize(last)


def _inside(sch: Schedule, block: BlockRef, loop: LoopRef) -> list[LoopRef]:
    """The loops around a block that are inside of `loop`."""
    loops = sch.get_loops(block)
    return loops[loops.index(loop) + 1 :]


def _vectorize_rows(sch: Schedule, block: BlockRef, task: LoopRef, lanes: int) -> None:
    """Lanes along the queries; a reduction over the keys runs from vector to vector."""
    inner = _inside(sch, block, task)
    reduced = [loop for loop in reduction_loops(sch, block) if loop in inner]
    bound = sch.block(block).writes[0].ranges[-1].min
    axis = next(item for item in sch.block(block).iters if uses_var(bound, item.var))
    query = next(loop for loop in inner if uses_var(axis.binding, loop.var))
    vectors, lane = sch.split(query, [None, lanes])
    others = [loop for loop in inner if loop not in reduced and loop != query]
    sch.reorder(*others, *reduced, vectors, lane)
    tiles = [[vectors, lane]]
    if reduced:
        init = sch.decompose_reduction(block, reduced[0])
        around = sch.get_loops(init)
        tiles.append(around[-2:])
    for several, last in tiles:
        if extent_of(sch, several) is not None:
            sch.unroll(several)
        sch.vectorize(last)
