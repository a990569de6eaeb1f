# SPDX-License-Identifier: Apache-2.0
"""Taps of a window that fall into the margins of an image.

The first rows of a result meet the upper taps of a window in padding, the last ones the lower: with
seven taps four rows apart a seventh of all products on 47 rows are with zeros. A tile of registers
leaves out the taps that are zeros for all of its rows.
"""

from __future__ import annotations

from typing import Final

from heddle.ir.expr import as_int
from heddle.ir.walk import uses_var
from heddle.schedule.affine import Affine, affine, estimate
from heddle.schedule.boxes import loop_domain, loops_between
from heddle.schedule.primitives.skip import factor_of, margins_of
from heddle.schedule.rules.analysis import reduction_loops
from heddle.schedule.schedule import BlockRef, LoopRef, Schedule
from heddle.tir.nodes import Block, BufferLoad, IterVar

_WORTH: Final = 0.05
"""Share of the products that must be with padding for looking at each tap to pay."""


def skip_margins(sch: Schedule, block: BlockRef) -> None:
    """Let `block`, a tiled contraction without its `init`, leave out what is padding."""
    node = sch.block(block)
    *outer, _ = reduction_loops(sch, block)  # the innermost steps are too short to be looked at
    for position, buffer in enumerate(dict.fromkeys(region.buffer for region in node.reads)):
        margins, place = margins_of(sch.state, buffer), factor_of(node, buffer)
        if place is None:
            continue
        for loop in outer:
            shares = [
                _share(sch, node, place, axis, loop, margin) for axis, margin in margins.items()
            ]
            if max(shares, default=0.0) >= _WORTH:
                sch.skip_padding(block, position, loop)


def _share(
    sch: Schedule,
    block: Block,
    place: BufferLoad,
    axis: int,
    loop: LoopRef,
    margin: tuple[int, int | None],
) -> float:
    """The share of the iterations of `loop` in which all that is read along an axis is padding, as
    far as that depends on a row and a tap; 0 where it is not known."""
    index = affine(place.indices[axis])
    axes = [bound for bound in block.iters if uses_var(place.indices[axis], bound.var)]
    taps = [bound for bound in axes if uses_var(bound.binding, loop.var)]
    rows = [bound for bound in axes if bound not in taps]
    if len(taps) != 1 or len(rows) != 1:
        return 0.0
    (down, count), (apart, window) = _step(index, rows[0]), _step(index, taps[0])
    inner = loop_domain(loops_between(sch.state, sch.state.loop(loop.var), block))
    reach = estimate(rows[0].binding, inner)
    height = None if reach is None else as_int(reach.extent)
    if height is None or count is None or window is None:
        return 0.0
    low, high = margin
    outside = total = 0
    for row in range(0, count, height):
        for tap in range(window):
            first = row * down + tap * apart + index.constant
            last = first + (height - 1) * down
            outside += last < low or (high is not None and first >= high)
            total += 1
    return outside / max(1, total)


def _step(index: Affine, bound: IterVar) -> tuple[int, int | None]:
    """How far one step along an axis of a block moves an index, and the extent of the axis."""
    _, step = index.terms.get(bound.var, (bound.var, 0))
    return step, as_int(bound.extent)
