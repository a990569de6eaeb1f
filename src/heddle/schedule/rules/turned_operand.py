# SPDX-License-Identifier: Apache-2.0
"""An operand of a product that lies along the reduction, where vectors are wanted across it.

Each task copies the panel of it that it walks over, turned by tiles in registers. All rows of the
product then share vectors that lie together, and no core reads what another has just turned.

    for i, j, k in grid(M, N, K):               for panel in parallel(N // 64):
        C[i, j] += x[i, k] * w[j, k]      ->        turned = w[panel * 64 : ..., :].T
                                                    for i, k, j in grid(M, K, 64):
                                                        C[...] += x[i, k] * turned[k, j]
"""

from __future__ import annotations

from heddle.ir.expr import as_int
from heddle.ir.walk import uses_var
from heddle.schedule.rules.analysis import (
    Contraction,
    contraction_of,
    is_contiguous,
    prefers_dots,
)
from heddle.schedule.schedule import BlockRef, LoopRef, Schedule
from heddle.target import Target

ROWS_PER_TURN = 96
"""Rows of the product that must share a turned panel: turning takes as long as some ten rows do."""

TURN_CYCLES = 0.35
"""Cycles that it takes to turn an element."""

_BITS = 32
"""Elements that are turned in registers."""


def takes_across(rows: int, depth: int, bits: int) -> bool:
    """Whether a product of so many rows takes a matrix that lies along its reduction, of `depth`
    elements of so many bits, as it lies: to turn it, or for dot products."""
    return bits == _BITS or prefers_dots(rows, depth)


def turn_operand(sch: Schedule, block: BlockRef, target: Target) -> BlockRef | None:
    """Let `block`, a contraction, read a copy of its operand `w` whose last dimension is that of
    the vectors. Returns the block that makes the copy; None where `w` need not or cannot turn."""
    facts = contraction_of(sch.block(block))
    if facts is None or not _can_turn(facts, target):
        return None
    reads = list(dict.fromkeys(region.buffer for region in sch.block(block).reads))
    copy = sch.cache_read(block, reads.index(facts.w.buffer), "global")
    names = [f"d{at}" for at in range(facts.w.buffer.ndim)]
    across = names[_vector_dim(facts)]
    turned = ", ".join([*(name for name in names if name != across), across])
    sch.transform_layout(copy, "write", 0, f"lambda {', '.join(names)}: ({turned})")
    return copy


def place_turned(sch: Schedule, copy: BlockRef, task: LoopRef, target: Target) -> None:
    """Make the part of the copy that one task reads in that task, by square tiles."""
    sch.compute_at(copy, task)
    lanes = target.vector_lanes(_BITS)
    sch.storage_align(copy, 0, len(sch.block(copy).iters) - 2, lanes, 0)
    loops = sch.get_loops(copy)
    *_, across, along = loops[loops.index(task) + 1 :]
    across, lane = sch.split(across, [None, lanes])
    along, unit = sch.split(along, [None, lanes])
    sch.reorder(across, along, unit, lane)
    sch.unroll(unit)
    sch.vectorize(lane)


def _vector_dim(facts: Contraction) -> int:
    var = facts.block.iters[facts.vector].var
    return next(at for at, index in enumerate(facts.w.indices) if uses_var(index, var))


def _can_turn(facts: Contraction, target: Target) -> bool:
    if facts.w_contiguous or facts.x_has_vector or len(facts.reduce) != 1 or facts.cols:
        return False
    w, lanes = facts.w, target.vector_lanes(_BITS)
    axes = [facts.block.iters[axis] for axis in (*facts.batch, facts.vector, *facts.reduce)]
    if [axis.var for axis in axes] != list(w.indices) or w.buffer.dtype.bits != _BITS:
        return False
    sizes = [as_int(axis.extent) for axis in facts.block.iters]
    shape = w.buffer.static_shape
    if None in sizes or shape is None or min(shape[-2:]) < lanes // 4:
        return False
    return is_contiguous(w, axes[-1].var)
