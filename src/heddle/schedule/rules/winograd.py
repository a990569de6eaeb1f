# SPDX-License-Identifier: Apache-2.0
"""The default schedule of Winograd convolutions.

A kernel has six stages: the padded input, `lines` and `data` (the two halves of the transform of
the input), `products`, `halves` and the output (the two halves of the transform back), which
elementwise work may follow. The transforms are unrolled and keep what passes between their halves
in registers. What passes between them and the products lies in memory, in one of two ways
(`winograd_model` says which):

blocks: every task takes a block of tiles through all stages, so that transformed values stay in the
second-level cache; each block reads all weights.

    for block of tiles in parallel
        for input channels, tiles: data
        for column tile
            for a * a points, rows of tiles: products
            for tiles: output

whole: the image goes through three parallel loops; the weights are read once.

    for input channels, rows of tiles in parallel: data
    for a * a points, column tile in parallel, rows of tiles: products
    for rows of tiles, output channels in parallel: output
"""

from __future__ import annotations

from dataclasses import dataclass

from heddle.ir.expr import as_int
from heddle.schedule.rules.analysis import (
    BlockKind,
    Contraction,
    block_kind,
    contraction_of,
    extent_of,
)
from heddle.schedule.rules.winograd_model import WinogradPlan, WinogradShape, best_plan
from heddle.schedule.schedule import BlockRef, LoopRef, Schedule
from heddle.target import Target


@dataclass(frozen=True, slots=True)
class WinogradStages:
    """The blocks of a Winograd convolution, and its sizes."""

    pad: BlockRef | None
    lines: BlockRef
    data: BlockRef
    products: BlockRef
    halves: BlockRef
    output: BlockRef
    shape: WinogradShape


def winograd_stages(sch: Schedule) -> WinogradStages | None:
    """The stages of the Winograd convolution that a function computes, or None.

    It is a contraction over two axes of points, between elementwise blocks of one consumer each.
    """
    found = [b for b in sch.get_blocks() if block_kind(sch.block(b)) is BlockKind.CONTRACTION]
    facts = contraction_of(sch.block(found[0])) if len(found) == 1 else None
    if facts is None or len(facts.batch) != 2 or len(facts.block.iters) != 9:
        return None
    products = found[0]
    before = [_only(sch.producers(products))]
    while before[-1] is not None and len(before) < 3:
        before.append(_only(sch.producers(before[-1])))
    data, lines, pad = (*before, None, None)[:3]
    halves = _only(sch.consumers(products))
    output = None if halves is None else _only(sch.consumers(halves))
    if data is None or lines is None or halves is None or output is None:
        return None
    shape = _shape_of(sch, facts, halves, output)
    return (
        None if shape is None else WinogradStages(pad, lines, data, products, halves, output, shape)
    )


def _only(blocks: list[BlockRef]) -> BlockRef | None:
    return blocks[0] if len(blocks) == 1 else None


def _shape_of(
    sch: Schedule, facts: Contraction, halves: BlockRef, output: BlockRef
) -> WinogradShape | None:
    """The sizes of the convolution; None where one that matters is symbolic."""
    iters = facts.block.iters
    points, _, blocks, batch, rows, columns, lanes, in_blocks, in_lanes = (
        as_int(axis.extent) for axis in iters
    )
    tile = as_int(sch.block(halves).iters[0].extent)
    if len(sch.block(output).iters) != 5:
        return None
    known = (tile, points, in_blocks, in_lanes, blocks, lanes, rows, columns)
    if any(size is None for size in known):
        return None
    return WinogradShape(*known, batch=batch)  # type: ignore[arg-type]


def schedule_winograd(
    sch: Schedule, stages: WinogradStages, target: Target, plan: WinogradPlan | None = None
) -> None:
    """Schedule the stages by `plan`, by default the one that the model of the core likes best."""
    plan = best_plan(stages.shape, target) if plan is None else plan
    final = _join_epilogue(sch, stages.output)
    _Winograd(sch, stages, final, plan, target).run()


def _join_epilogue(sch: Schedule, output: BlockRef) -> BlockRef:
    """Make one block of the elementwise work on the output; `output` when there is none."""
    while True:
        after = sch.consumers(output)
        if not after:
            return output
        rest = [block for block in after if sch.consumers(block)]
        if not rest:
            return after[0]
        for block in rest:
            sch.compute_inline(block)


@dataclass(frozen=True, slots=True)
class _Winograd:
    sch: Schedule
    stages: WinogradStages
    final: BlockRef
    plan: WinogradPlan
    target: Target

    def run(self) -> None:
        """Apply the plan."""
        if self.plan.whole:
            self._whole()
        else:
            self._blocks()

    # -- all stages per block of tiles -------------------------------------------------------

    def _blocks(self) -> None:
        sch, plan, stages = self.sch, self.plan, self.stages
        n, ob, th, tw, inner = self._tiles_of_output()
        th, line = sch.split(th, [None, plan.block_rows])
        tw, column = sch.split(tw, [None, plan.block_columns])
        ob, vector = sch.split(ob, [None, plan.register.vectors])
        sch.reorder(n, th, tw, ob, line, column, vector, *inner)
        task = self._parallel(n, th, tw)
        self._transform_back(vector)
        copy = sch.cache_write(stages.products, 0, "local")
        self._move(copy, ob)
        k, v, vector, image, line, column, lane = self._below(copy, ob)
        self._register_tiles(copy, [k, v, image], [line, column, vector, lane])
        self._move(stages.data, task)
        k, v, *outer, lane = self._below(stages.data, task)
        sch.reorder(*outer, k, v, lane)
        self._transform(outer)

    def _register_tiles(self, copy: BlockRef, outer: list[LoopRef], axes: list[LoopRef]) -> None:
        """Compute the products inside `outer`, one register tile after another. `axes` are the
        other loops around `copy`: rows of tiles, tiles, vectors of channels, lanes."""
        sch, products, tile = self.sch, self.stages.products, self.plan.register
        line, column, vector, lane = axes
        width = extent_of(sch, column) or 1
        if tile.rows > width:
            lines, line = sch.split(line, [None, tile.rows // width])
            walked, rows = [lines], [line, column]
        else:
            columns, column = sch.split(column, [None, tile.rows])
            walked, rows = [line, columns], [column]
        sch.reorder(*outer, *walked, *rows, vector, lane)
        at = walked[-1]
        self._move(products, at)
        *spatial, blocks, depth = self._below(products, at)
        _, _, vectors, _, line, column, lanes = spatial
        sch.reorder(blocks, depth, line, column, vectors, lanes)
        init = sch.decompose_reduction(products, blocks)
        for block in (products, init, copy):
            inside = self._below(block, at)
            self._unroll([loop for loop in inside if loop not in (blocks, depth)])

    # -- stage after stage ---------------------------------------------------------------------

    def _whole(self) -> None:
        sch, stages = self.sch, self.stages
        copy = sch.cache_write(stages.products, 0, "local")
        n, ob, th, tw, inner = self._tiles_of_output()
        sch.reorder(n, ob, th, tw, *inner)
        self._transform_back(tw)
        self._parallel(n, ob, th)
        k, v, block, image, line, column, lane = sch.get_loops(stages.data)
        sch.reorder(block, image, line, column, k, v, lane)
        self._transform([block, image, line, column])
        self._parallel(block, image, line)
        k, v, ob, image, line, column, lane = sch.get_loops(copy)
        ob, vector = sch.split(ob, [None, self.plan.register.vectors])
        self._register_tiles(copy, [k, v, ob, image], [line, column, vector, lane])
        self._parallel(k, v, ob)

    # -- transforms ----------------------------------------------------------------------------

    def _tiles_of_output(self) -> tuple[LoopRef, LoopRef, LoopRef, LoopRef, list[LoopRef]]:
        """The loops of the last block: image, channels, tiles, and those inside a tile."""
        sch, size = self.sch, self.stages.shape.tile
        n, ob, h, w, oc = sch.get_loops(self.final)
        th, i = sch.split(h, [None, size])
        tw, j = sch.split(w, [None, size])
        return n, ob, th, tw, [i, j, oc]

    def _transform(self, outer: list[LoopRef]) -> None:
        """Transform the input inside `outer` (..., rows of tiles, tiles), the last loops around a
        tile of `data`."""
        sch, stages = self.sch, self.stages
        self._move(stages.lines, outer[-1])
        sch.set_scope(stages.lines, 0, "local")
        if stages.pad is not None:
            self._move(stages.pad, outer[-2])
            sch.vectorize(sch.get_loops(stages.pad)[-1])
        for block in (stages.lines, stages.data):
            self._unroll(self._below(block, outer[-1]))

    def _transform_back(self, loop: LoopRef) -> None:
        """Compute the output inside `loop`, the last one around a tile of it."""
        sch, stages = self.sch, self.stages
        blocks = [stages.halves, self.final]
        if self.final != stages.output:
            self._move(stages.output, loop)
            sch.set_scope(stages.output, 0, "local")
            blocks.append(stages.output)
        self._move(stages.halves, loop)
        sch.set_scope(stages.halves, 0, "local")
        for block in blocks:
            self._unroll(self._below(block, loop))

    def _unroll(self, loops: list[LoopRef]) -> None:
        """The last loop becomes lanes, the others are unrolled."""
        *outer, lanes = loops
        for loop in outer:
            self.sch.unroll(loop)
        if extent_of(self.sch, lanes) != 1:
            self.sch.vectorize(lanes)

    def _parallel(self, *loops: LoopRef) -> LoopRef:
        """One parallel loop of several. Guards of edges are no reason to double what is in it."""
        task = self.sch.fuse(*loops)
        self.sch.parallel(task)
        self.sch.annotate(task, "partition", False)
        return task

    def _move(self, block: BlockRef, loop: LoopRef) -> None:
        """Compute a block inside `loop`, with a loop for each of its axes."""
        self.sch.compute_at(block, loop, preserve_unit_loops=True)

    def _below(self, block: BlockRef, loop: LoopRef) -> list[LoopRef]:
        loops = self.sch.get_loops(block)
        return loops[loops.index(loop) + 1 :]
