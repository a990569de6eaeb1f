# SPDX-License-Identifier: Apache-2.0
"""The default schedule of contractions: matrix products and convolutions of every kind.

One scheme serves all. The last output axis becomes vector lanes; a register tile of
`rows x vectors` accumulators is kept over the whole reduction and handed to the epilogue in
registers; tiles are walked so that the panel of `w` stays in the second-level cache while the
rows go by; what is left outside runs on the cores:

    for batch, row chunk, column tile in parallel
        for remaining rows
            accumulators = 0
            for reduction axes
                for rows of the tile (unrolled)
                    for vectors of the tile (unrolled)
                        for lanes (vectorized)
            epilogue(accumulators)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from heddle.ir.expr import as_int
from heddle.ir.walk import uses_var
from heddle.schedule.pipeline import PREFETCH_AHEAD
from heddle.schedule.rules.analysis import Contraction, contraction_of, extent_of, reduction_loops
from heddle.schedule.rules.elementwise import vectorize_loop
from heddle.schedule.rules.epilogue import vectorize_epilogue
from heddle.schedule.rules.group_rows import split_groups
from heddle.schedule.rules.machine import (
    RegisterTile,
    choose_matrix_tile,
    choose_tile,
    matrix_rows,
    shares_rows,
    step_cycles,
    tile_cycles,
    worth_threads,
)
from heddle.schedule.rules.margins import skip_margins
from heddle.schedule.rules.rows import flatten_rows
from heddle.schedule.rules.turned_operand import ROWS_PER_TURN, place_turned
from heddle.schedule.schedule import BlockRef, LoopRef, Schedule
from heddle.target import Target
from heddle.tir.build import element_count
from heddle.tir.nodes import BufferLoad, IterVar

_TASKS_PER_CORE = 8
"""Chunks of work per core to aim for, so that a late core costs an eighth of its share."""

_PREFETCH_FROM_TILES = 2
"""Row tiles that must walk over a panel for the next one to arrive meanwhile."""

_PREFETCH_STEPS = 16
"""Reduction steps between prefetches."""

_PREFETCH_AHEAD_BYTES = 1536
"""How far ahead of its use a panel of `w` is fetched into the first-level cache: what arrives from
the second-level one during its latency, several times."""

_STEPS_AHEAD = 32
"""Reduction steps ahead of its use that a window of another plane is fetched: what comes from the
third-level cache then has some hundred cycles."""

_PAGE_BYTES = 4096
"""Bytes of a page of memory, at whose end hardware stops to fetch ahead."""

_MOST_TAPS = 8
"""Longest row of the window of a depthwise convolution that is unrolled."""

_DEPTHWISE_ROWS = 8
"""Most outputs of a depthwise tile: enough to hide the latency of a multiply-add."""

_PACK_AFTER_TILES = 4
"""Row tiles that must share a strided panel before copying it together pays."""


def schedule_contraction(
    sch: Schedule,
    block: BlockRef,
    epilogue: BlockRef,
    target: Target,
    turned: BlockRef | None = None,
) -> None:
    """Tile `block`, keep its accumulators in registers, and compute `epilogue` from them.

    `epilogue` is the only consumer of the block's output: an elementwise block, or the copy made
    by `cache_write`. The output buffer of `block` moves to the scope "local". `turned` is the block
    that makes the operand `w` by turning another (`turn_operand`).
    """
    split_groups(sch, block, epilogue)
    flatten_rows(sch, block, epilogue)
    facts = contraction_of(sch.block(block))
    assert facts is not None, "the caller checks the kind of the block"
    plan = ContractionPlan(sch, block, facts, target, turned=turned)
    tile_loop = plan.tile()
    sch.reverse_compute_at(epilogue, tile_loop)
    sch.set_scope(block, 0, "local")
    plan.align_rows()
    vectorize_epilogue(sch, epilogue, tile_loop, target)
    init = sch.decompose_reduction(block, plan.first_reduction)
    plan.prefetch_next_panel()
    plan.prefetch_ahead()
    plan.prefetch_planes()
    plan.unroll_taps()
    plan.annotate_tile(plan.tile_loops)
    after = sch.get_loops(init)
    plan.annotate_tile(after[after.index(tile_loop) + 1 :])
    skip_margins(sch, block)


@dataclass
class ContractionPlan:
    """The loops of one contraction while its schedule is made. `steps` are axes of a reduction that
    stay inside the lanes: an instruction does them. `chosen` is the register tile where the caller
    knows it, its vectors, of `vector` lanes, along the vector axis. `turned` makes `w`, if any
    block does."""

    sch: Schedule
    block: BlockRef
    facts: Contraction
    target: Target
    steps: tuple[int, ...] = ()
    chosen: RegisterTile | None = None
    vector: int | None = None
    turned: BlockRef | None = None

    def __post_init__(self) -> None:
        self.loops = self.sch.get_loops(self.block)
        self.lanes = self._lanes()

    def _lanes(self) -> int:
        if self.vector is not None:
            return self.vector
        bits = self.facts.block.writes[0].buffer.dtype.bits
        lanes = self.target.vector_lanes(max(bits, 32))
        extent = self.facts.extent(self.facts.vector)
        return lanes if extent is None else min(lanes, extent)

    def tile(self) -> LoopRef:
        """Split and order the loops; returns the loop around one register tile."""
        sch, facts = self.sch, self.facts
        row_loops = [self.loops[i] for i in facts.rows]
        col_loops = [self.loops[i] for i in facts.cols]
        batch = [self.loops[i] for i in facts.batch]
        reduce = [self.loops[i] for i in facts.reduce]
        row_loops = self.fuse_pointwise_rows(row_loops)
        tile, vector_in_axis = self._choose(row_loops, col_loops)
        col_outer, col_vectors, lane = self._split_columns(col_loops, tile, vector_in_axis)
        inside = self._walks_columns_inside(row_loops, tile)
        shared = batch if inside else [*batch, *col_outer]
        tasks = math.prod(extent_of(sch, loop) or _TASKS_PER_CORE for loop in shared)
        self.column_tiles = math.prod(extent_of(sch, loop) or 1 for loop in col_outer)
        chunks, row_outer, row_inner = self._split_rows(row_loops, tile, tasks)
        self.row_tiles = math.prod(extent_of(sch, loop) or 1 for loop in row_outer)
        self.first_reduction = reduce[0]
        self.tile_loops = [*row_inner, col_vectors, lane]
        # Shared rows are the outer loop. Otherwise the larger operand goes by once, in it.
        rows_first = self.shares_rows or self._row_blocks() > 1
        columns_first = not rows_first and self._bytes(facts.w) > self._bytes(facts.x)
        outer = [*batch, *col_outer, *chunks] if columns_first else [*batch, *chunks, *col_outer]
        walked = row_outer
        if inside:
            outer, walked = [*batch, *chunks], [*row_outer, *col_outer]
        inner = [self.loops[i] for i in self.steps]
        sch.reorder(*outer, *walked, *reduce, *self.tile_loops, *inner)
        task = sch.fuse(*outer) if len(outer) > 1 else outer[0]
        if worth_threads(self._cycles(tile)):
            sch.parallel(task)
        if self.turned is not None:
            place_turned(sch, self.turned, task, self.target)
        elif row_outer and self._should_pack(row_outer):
            self._pack(task)
        return walked[-1] if walked else task

    def _cycles(self, tile: RegisterTile) -> float | None:
        """Cycles that the whole contraction takes on one core, None where a size is not known."""
        facts, steps = self.facts, 1
        for axis in (*facts.batch, *facts.rows, *facts.cols, facts.vector, *facts.reduce):
            extent = facts.extent(axis)
            if extent is None:
                return None
            steps *= -(-extent // self.lanes) if axis == facts.vector else extent
        return steps / (tile.rows * tile.vectors) * step_cycles(tile, self.target)

    def _walks_columns_inside(self, row_loops: list[LoopRef], tile: RegisterTile) -> bool:
        """Whether a tile of rows should walk all columns before the next: where all of `w` stays in
        the nearest cache, `x` then comes from memory, and the output goes there, in one go."""
        rows = math.prod(extent_of(self.sch, loop) or 1 for loop in row_loops)
        enough = rows >= tile.rows * _TASKS_PER_CORE * self.target.cores
        return enough and 2 * self._bytes(self.facts.w) <= self._cache(0)

    def _rows_worth_sharing(self) -> bool:
        return shares_rows(self._bytes(self.facts.x), self._bytes(self.facts.w), self.target)

    def _should_pack(self, row_outer: list[LoopRef]) -> bool:
        """Whether `w` is walked in long strides, often enough that copying a panel of it together
        pays: its rows, a pitch apart, would evict one another from the caches."""
        facts = self.facts
        dims = facts.w.buffer.static_shape
        if self.panel_vectors() is not None or dims is None or facts.x_has_vector:
            return False
        if self.steps:
            return False  # packed for an instruction
        pitch = dims[-1] * facts.w.buffer.dtype.nbytes
        depth = self._depth()
        tiles = math.prod(extent_of(self.sch, loop) or _PACK_AFTER_TILES for loop in row_outer)
        strided = pitch > 8 * self.lanes * facts.w.buffer.dtype.nbytes or not facts.w_contiguous
        return strided and pitch * depth > self._cache(0) and tiles >= _PACK_AFTER_TILES

    def _cache(self, level: int) -> int:
        """Bytes of a cache of one core."""
        caches = self.target.caches
        return caches[min(level, len(caches) - 1)].size if caches else 32 << 10

    def _pack(self, task: LoopRef) -> None:
        """Copy the panel of `w` that one task uses to a dense buffer of its own."""
        sch, w = self.sch, self.facts.w.buffer
        buffers = [region.buffer for region in sch.block(self.block).reads]
        copy = sch.cache_read(self.block, buffers.index(w), "global")
        sch.compute_at(copy, task)
        sch.storage_align(copy, 0, w.ndim - 2, self.lanes, 0)
        loops = sch.get_loops(copy)
        vectorize_loop(sch, loops[-1], self.lanes)

    def fuse_pointwise_rows(self, row_loops: list[LoopRef]) -> list[LoopRef]:
        """Neighbouring row axes that `x` and the output index alike (a 1x1 convolution of stride
        one) are one long axis."""
        facts = self.facts
        axes = [facts.block.iters[i] for i in facts.rows]
        fused: list[LoopRef] = []
        plain: list[bool] = []
        for axis, loop in zip(axes, row_loops, strict=True):
            is_plain = any(index is axis.var for index in facts.x.indices)
            if fused and is_plain and plain[-1] and self._adjacent(axis, axes):
                fused[-1] = self.sch.fuse(fused[-1], loop)
            else:
                fused.append(loop)
                plain.append(is_plain)
        return fused

    def _adjacent(self, axis: IterVar, axes: list[IterVar]) -> bool:
        """Whether `axis` follows the row axis before it in both `x` and the output, with the
        same extent as the dimension of `x`, so that fusing them keeps indices linear."""
        position = axes.index(axis)
        before = axes[position - 1]
        x, out = self.facts.x, self.facts.block.writes[0]
        places = [i for i, index in enumerate(x.indices) if index is axis.var]
        if len(places) != 1 or places[0] == 0 or x.indices[places[0] - 1] is not before.var:
            return False
        dim = as_int(x.buffer.shape[places[0]])
        starts = [r.min for r in out.ranges]
        place = next((i for i, start in enumerate(starts) if start is axis.var), 0)
        return dim == as_int(axis.extent) and place > 0 and starts[place - 1] is before.var

    def _choose(
        self, row_loops: list[LoopRef], col_loops: list[LoopRef]
    ) -> tuple[RegisterTile, bool]:
        """The register tile, and whether its vectors lie along the vector axis itself (else
        along the last column axis)."""
        facts, target = self.facts, self.target
        if self.chosen is not None:
            return self.chosen, True
        vector_extent = facts.extent(facts.vector)
        rows = extent_of(self.sch, row_loops[-1]) if row_loops else 1
        if facts.x_has_vector:
            return choose_tile(rows, 1, target, max_rows=_DEPTHWISE_ROWS), True
        if vector_extent is not None and vector_extent < 2 * self.lanes and col_loops:
            return self._choose_blocked(row_loops, rows, extent_of(self.sch, col_loops[-1])), False
        panel = self.panel_vectors()
        if panel is not None:
            if rows is not None and self._rows_worth_sharing():
                rows = -(-rows // target.cores)
            return choose_matrix_tile(rows, panel, self._depth(), target, widths=[panel]), True
        count = None if vector_extent is None else -(-vector_extent // self.lanes)
        most = matrix_rows(self.row_pitch(), target)
        tile = choose_tile(
            rows,
            count,
            target,
            depth=self._depth(),
            max_rows=most,
            streamed=self.turned is not None,
        )
        return tile, True

    def _choose_blocked(
        self, row_loops: list[LoopRef], rows: int | None, blocks: int | None
    ) -> RegisterTile:
        """The tile of a blocked convolution: its vectors are whole blocks of channels, a divisor of
        their number where it has one; short rows of the image are taken several at a time."""
        target = self.target
        widths = [n for n in range(1, 9) if (blocks or 1) % n == 0]
        uneven = widths == [1] and (blocks or 1) > 1
        choose = partial(
            choose_tile,
            vector_count=blocks,
            target=target,
            depth=self._depth(),
            widths=range(1, 9) if uneven else widths,  # some are left over for a tile of fewer
            streamed=uneven and 2 * self._bytes(self.facts.w) > self._cache(0),
        )
        tile = choose(rows)
        if len(row_loops) < 2 or rows is None or tile.rows != rows:
            return tile
        lines = extent_of(self.sch, row_loops[-2])
        if lines is None or lines < 2:
            return tile
        several = choose(rows * lines, row_step=rows)
        alone = lines * tile_cycles(rows, blocks or 1, tile, target)
        together = tile_cycles(rows * lines, blocks or 1, several, target)
        return several if together < alone else tile

    def _depth(self) -> int:
        """Steps of the whole reduction; symbolic axes count as one."""
        return math.prod(self.facts.extent(axis) or 1 for axis in self.facts.reduce)

    def row_pitch(self) -> int:
        """Elements from one row of `x` to the next; 1 where that is not known."""
        facts = self.facts
        shape = facts.x.buffer.static_shape
        if shape is None or not facts.rows:
            return 1
        row = facts.block.iters[facts.rows[-1]].var
        used = [at for at, index in enumerate(facts.x.indices) if uses_var(index, row)]
        return math.prod(shape[used[-1] + 1 :]) if used else 1

    def panel_vectors(self) -> int | None:
        """Vectors in a panel of a packed operand, None when it is not packed."""
        w, var = self.facts.w, self.facts.block.iters[self.facts.vector].var
        if sum(uses_var(index, var) for index in w.indices) < 2:
            return None
        width = as_int(w.buffer.shape[-1 - len(self.steps)])
        return None if width is None or width % self.lanes else width // self.lanes

    def _split_columns(
        self, col_loops: list[LoopRef], tile: RegisterTile, in_axis: bool
    ) -> tuple[list[LoopRef], LoopRef, LoopRef]:
        """(outer column loops, the unrolled loop over vectors, the lanes)."""
        sch, lane = self.sch, self.loops[self.facts.vector]
        if in_axis:
            outer, vectors, lanes = sch.split(lane, [None, tile.vectors, self.lanes])
            return [*col_loops, outer], vectors, lanes
        outer, vectors = sch.split(col_loops[-1], [None, tile.vectors])
        extent = self.facts.extent(self.facts.vector)
        if extent == self.lanes:
            return [*col_loops[:-1], outer], vectors, lane
        more, lanes = sch.split(lane, [None, self.lanes])
        return [*col_loops[:-1], outer, more], vectors, lanes

    def _split_rows(
        self, row_loops: list[LoopRef], tile: RegisterTile, tasks: int
    ) -> tuple[list[LoopRef], list[LoopRef], list[LoopRef]]:
        """(loops that become tasks, loops walked inside a task, the unrolled rows of a tile).

        Every core gets a share of the rows where that pays: it then finds in its own cache the
        rows that it wrote in the layer before. More tasks are made of rows where the `tasks` that
        other axes give are too few.
        """
        sch = self.sch
        self.shares_rows = False
        if not row_loops:
            return [], [], []
        *outer, last = row_loops
        width = extent_of(sch, last)
        inside: list[LoopRef] = []
        if width is not None and tile.rows > width:  # several short rows of an image
            lines, line = sch.split(outer[-1], [None, tile.rows // width])
            outer, inside = [*outer[:-1], lines], [line]
        tiles, inner = sch.split(last, [None, min(tile.rows, width or tile.rows)])
        inside.append(inner)
        chunks: list[LoopRef] = []
        walked: list[LoopRef] = []
        cores = self.target.cores
        wanted = math.ceil(_TASKS_PER_CORE * cores / tasks)
        row_tiles = math.prod(extent_of(sch, loop) or 1 for loop in (*outer, tiles))
        self.shares_rows = row_tiles >= cores and self._rows_worth_sharing()
        if self.shares_rows:
            wanted = max(wanted, cores)
        wanted = max(wanted, min(self._row_blocks(), row_tiles))
        if self.turned is not None:
            worth = row_tiles * tile.rows // ROWS_PER_TURN
            wanted = max(min(wanted, worth), math.ceil(cores / tasks))
        for loop in (*outer, tiles):
            extent = extent_of(sch, loop)
            if wanted <= 1:
                walked.append(loop)
            elif extent is None or extent <= wanted:
                chunks.append(loop)
                wanted = math.ceil(wanted / (extent or wanted))
            else:
                even = min(d for d in range(wanted, extent + 1) if extent % d == 0)
                parts = even if even < 2 * wanted else wanted  # a short last chunk does less harm
                chunk, rest = sch.split(loop, [parts, None])
                chunks.append(chunk)
                walked.append(rest)
                wanted = 1
        return chunks, walked, inside

    def _row_blocks(self) -> int:
        """Blocks of rows that each meet all columns before the next does. Rows that a core cannot
        keep in its second-level cache come from afar for each panel of columns; in blocks that fit
        they come once, and the panels, fewer bytes, once for each block."""
        x, w = self._bytes(self.facts.x), self._bytes(self.facts.w)
        blocks = -(-x // (self._cache(1) // 2))
        return blocks if blocks * w < self.column_tiles * x else 1

    def _bytes(self, load: BufferLoad) -> int:
        """Bytes of an operand of one batch; unknown sizes count as large."""
        count = element_count(load.buffer.shape)
        batch = math.prod(self.facts.extent(axis) or 1 for axis in self.facts.batch)
        return (1 << 30 if count is None else count) * load.buffer.dtype.nbytes // batch

    def prefetch_next_panel(self) -> None:
        """Fetch the next panel of `w` while the rows walk over this one: weights come from memory,
        and there is time for them while a panel is used from the second-level cache."""
        sch, facts = self.sch, self.facts
        panel = self._bytes(facts.w) // max(1, self.column_tiles)
        enough_rows = self.row_tiles >= _PREFETCH_FROM_TILES
        if facts.batch or not enough_rows or 2 * panel > self._cache(1):
            return
        place = self._place_of_w()
        if self._bytes(facts.w) < self._cache(1) // 4 or place is None:
            return
        loops = [n for n in reduction_loops(sch, self.block) if extent_of(sch, n) != 1]
        if self.vector is None:
            if len(loops) == 1 and (extent_of(sch, loops[0]) or 1) % _PREFETCH_STEPS == 0:
                loops = list(sch.split(loops[0], [None, _PREFETCH_STEPS]))
            loops = loops[:-1][-1:]
        if loops:
            sch.prefetch(self.block, place, loops[-1])

    def prefetch_ahead(self) -> None:
        """Fetch the vectors of `w` some steps before they are used, where they come from the
        second-level cache: the hardware follows few streams, and not across their ends."""
        sch, facts = self.sch, self.facts
        panel = self._bytes(facts.w) // max(1, self.column_tiles)
        if facts.batch or facts.x_has_vector or 2 * panel <= self._cache(0):
            return
        loops = [n for n in reduction_loops(sch, self.block) if extent_of(sch, n) != 1]
        place = self._place_of_w()
        if loops and place is not None:
            *rows, vectors = (extent_of(sch, loop) or 1 for loop in self.tile_loops[:-1])
            height = math.prod(rows)
            if height * vectors < height + 2 * vectors:
                return  # few rows: loads bound a step, and a fetch is one more
            step = vectors * self.lanes * facts.w.buffer.dtype.nbytes
            sch.prefetch_ahead(self.block, place, loops[-1], max(1, _PREFETCH_AHEAD_BYTES // step))

    def prefetch_planes(self) -> None:
        """Fetch what some of the next planes of an image are read for, where each channel, or block
        of channels, is a plane of its own: no hardware follows from one to the next."""
        sch, facts = self.sch, self.facts
        if len(facts.reduce) < 2:
            return
        loop = reduction_loops(sch, self.block)[0]
        if PREFETCH_AHEAD in sch.loop(loop).annotations:
            return  # it fetches `w`
        reads = list(dict.fromkeys(region.buffer for region in sch.block(self.block).reads))
        for load in (facts.w, facts.x):
            if load.buffer in reads and self._walks_planes(load):
                steps = self._depth() // (extent_of(sch, loop) or 1)
                distance = -(-_STEPS_AHEAD // max(1, steps))
                sch.prefetch_ahead(self.block, reads.index(load.buffer), loop, distance)
                return

    def _walks_planes(self, load: BufferLoad) -> bool:
        """Whether the outermost step of the reduction leads to another page, far beyond what is
        read of this one."""
        facts, dims = self.facts, load.buffer.static_shape
        first, *others = (facts.block.iters[axis] for axis in facts.reduce)
        used = [at for at, index in enumerate(load.indices) if index is first.var]
        if dims is None or len(used) != 1:
            return False
        size = load.buffer.dtype.nbytes
        step = math.prod(dims[used[0] + 1 :]) * size
        read = self.lanes * size
        for axis in others:
            if any(uses_var(index, axis.var) for index in load.indices):
                read *= as_int(axis.extent) or 1
        return step >= max(_PAGE_BYTES, 2 * read)

    def _place_of_w(self) -> int | None:
        """Which of the buffers that the block reads is `w`; None unless it is a parameter of the
        function, which comes from memory."""
        reads = list(dict.fromkeys(region.buffer for region in self.sch.block(self.block).reads))
        w = self.facts.w.buffer
        return reads.index(w) if w in reads and w in self.sch.func.params else None

    def align_rows(self) -> None:
        """Let each row of accumulators begin with a whole vector: a tile under masks then stays in
        registers like the others."""
        written = self.sch.block(self.block).writes[0].buffer
        extent = self.facts.extent(self.facts.vector)
        if written.ndim > 1 and extent is not None and extent % self.lanes:
            self.sch.storage_align(self.block, 0, written.ndim - 2, self.lanes, 0)

    def unroll_taps(self) -> None:
        """Unroll a row of the window of a depthwise convolution: neighbours share its loads."""
        if self.facts.x_has_vector and not self.facts.cols:
            last = reduction_loops(self.sch, self.block)[-1]
            if (extent_of(self.sch, last) or _MOST_TAPS + 1) <= _MOST_TAPS:
                self.sch.unroll(last)

    def annotate_tile(self, loops: list[LoopRef]) -> None:
        """Unroll the rows and vectors of a tile, vectorize its lanes."""
        *outer, lanes = loops
        for loop in outer:
            self.sch.unroll(loop)
        self.sch.vectorize(lanes)
