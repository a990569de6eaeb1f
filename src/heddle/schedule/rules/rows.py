# SPDX-License-Identifier: Apache-2.0
"""Neighbouring row axes of a contraction as one long axis.

A 1x1 convolution of stride one is a matrix product: image lines follow one another in memory, in
what it reads and in what it writes, so that a register tile may run over the end of a line.

    for h, v in grid(35, 35):                    for hv in range(1225):
        C[h, v, ...] += x[h, v, ...] * ...   ->      C[hv, ...] += x[hv // 35, hv % 35, ...] * ...
    for h, v in grid(35, 35):                    for hv in range(1225):
        D[h, v, ...] = f(C[h, v, ...])               D[hv // 35, hv % 35, ...] = f(C[hv, ...])
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from heddle.ir.expr import Var, as_int
from heddle.ir.walk import uses_var
from heddle.schedule.rules.analysis import Contraction, contraction_of, step_loads
from heddle.schedule.schedule import BlockRef, Schedule
from heddle.tir.nodes import Block, BufferLoad, IterKind


def flatten_rows(
    sch: Schedule, block: BlockRef, epilogue: BlockRef, *, gathered: bool = False
) -> None:
    """Make one axis of each pair of neighbouring row axes of `block` that its row operand (unless
    its rows are to be `gathered`) and its output walk alike, in `epilogue` as well, which must be
    the only block that reads the output."""
    while (pair := _pair(sch, block, epilogue, gathered=gathered)) is not None:
        _flatten(sch, block, epilogue, *pair)


def _pair(
    sch: Schedule, block: BlockRef, epilogue: BlockRef, *, gathered: bool
) -> tuple[int, int] | None:
    """The dimension of the output that holds the first of two axes to flatten, and the extent of
    the second; None when there are none."""
    node = sch.block(block)
    facts = contraction_of(node)
    output = node.writes[0].buffer
    if facts is None or sch.state.is_parameter(output):
        return None
    read = next((load for load in step_loads(sch.block(epilogue)) if load.buffer is output), None)
    written = [part.min for part in node.writes[0].ranges]
    if read is None:
        return None
    spatial = {a.var for a in sch.block(epilogue).iters if a.kind is IterKind.SPATIAL}
    for place, (first, second) in enumerate(pairwise(written)):
        if not _are_rows(facts, first, second, gathered=gathered):
            continue
        after = read.indices[place : place + 2]
        width = as_int(output.shape[place + 1])
        lines = as_int(output.shape[place])
        if lines == 1 or width is None or lines is None or not set(after) <= spatial:
            continue
        if (
            _extents(node, (first, second))
            == _extents(sch.block(epilogue), after)
            == [lines, width]
        ):
            return place, width
    return None


def _are_rows(facts: Contraction, first: object, second: object, *, gathered: bool) -> bool:
    """Whether two indices of the output are row axes that follow one another in `x`, whole, or will
    once they are `gathered`."""
    rows = [facts.block.iters[axis].var for axis in facts.rows]
    if first not in rows or second not in rows:
        return False
    assert isinstance(first, Var)
    assert isinstance(second, Var)
    return gathered or _follow(facts.x, first, second, facts.block)


def _follow(load: BufferLoad, first: Var, second: Var, block: Block) -> bool:
    """Whether `load` has two plain neighbouring indices, the second over a whole dimension."""
    places = [i for i, index in enumerate(load.indices) if index is second]
    if len(places) != 1 or places[0] == 0 or load.indices[places[0] - 1] is not first:
        return False
    others = [n for i, n in enumerate(load.indices) if i not in (places[0] - 1, places[0])]
    if any(uses_var(index, {first, second}) for index in others):
        return False
    width = as_int(load.buffer.shape[places[0]])
    return width is not None and [width] == _extents(block, (second,))


def _extents(block: Block, axes: Sequence[object]) -> list[int | None]:
    found = {axis.var: as_int(axis.extent) for axis in block.iters}
    return [found.get(axis) for axis in axes]  # type: ignore[call-overload]


def _flatten(sch: Schedule, block: BlockRef, epilogue: BlockRef, place: int, width: int) -> None:
    node = sch.block(block)
    output = node.writes[0].buffer
    axes = [part.min for part in node.writes[0].ranges][place : place + 2]
    read = next(load for load in step_loads(sch.block(epilogue)) if load.buffer is output)
    after = read.indices[place : place + 2]
    dims = [f"d{position}" for position in range(output.ndim)]
    sch.transform_layout(block, "write", 0, _merged(dims, place, place + 1, width))
    for ref, pair in ((block, axes), (epilogue, after)):
        iters = [axis.var for axis in sch.block(ref).iters]
        names = [f"a{position}" for position in range(len(iters))]
        first, second = (iters.index(axis) for axis in pair)  # type: ignore[arg-type]
        sch.transform_block_layout(ref, _merged(names, first, second, width))


def _merged(names: list[str], first: int, second: int, width: int) -> str:
    """An index map that puts `first * width + second` in the place of `first`."""
    images = list(names)
    images[first] = f"{names[first]} * {width} + {names[second]}"
    del images[second]
    return f"lambda {', '.join(names)}: ({', '.join(images)},)"
