# SPDX-License-Identifier: Apache-2.0
"""The channels of one group of a convolution as rows of a register tile.

What a convolution of groups loads of an image in the plain layout serves all output channels of the
group. As one axis of the output they hide that: the image has the axis, in part.

    for o, v in grid(96, W):                     for g, r, v in grid(32, 3, W):
        C[o, v] += x[o // 3, v] * w[o]     ->        C[g, r, v] += x[g, v] * w[g * 3 + r]
    for o, v in grid(96, W):                     for g, r, v in grid(32, 3, W):
        D[o, v] = f(C[o, v])                         D[g * 3 + r, v] = f(C[g, r, v])
"""

from __future__ import annotations

from collections.abc import Sequence

from heddle.ir.expr import Expr, FloorDiv, Var, as_int
from heddle.ir.walk import post_order, uses_var
from heddle.schedule.rules.analysis import Contraction, contraction_of, step_loads
from heddle.schedule.schedule import BlockRef, Schedule
from heddle.tir.nodes import Block, BufferLoad


def split_groups(sch: Schedule, block: BlockRef, epilogue: BlockRef) -> None:
    """Split an axis of `block` that its vectors see by groups alone into groups and rows, and with
    it that axis of its output and of `epilogue`, the only block that reads the output."""
    facts = contraction_of(sch.block(block))
    if facts is None or sch.state.is_parameter(facts.block.writes[0].buffer):
        return
    for axis in facts.batch:
        size, extent = _group_size(facts.w, facts.block.iters[axis].var), facts.extent(axis)
        if size is None or extent is None or extent % size:
            continue
        places = _places(facts, axis, sch.block(epilogue))
        if places is not None:
            (dim, after), output = places, facts.block.writes[0].buffer
            count = len(sch.block(epilogue).iters)
            sch.transform_layout(block, "write", 0, _split("d", output.ndim, dim, size))
            sch.transform_block_layout(block, _split("a", len(facts.block.iters), axis, size))
            sch.transform_block_layout(epilogue, _split("a", count, after, size))
            return


def _split(letter: str, count: int, axis: int, size: int) -> str:
    """An index map of so many axes that takes one apart."""
    names = [f"{letter}{position}" for position in range(count)]
    images = list(names)
    images[axis] = f"{names[axis]} // {size}, {names[axis]} % {size}"
    return f"lambda {', '.join(names)}: ({', '.join(images)},)"


def _places(facts: Contraction, axis: int, epilogue: Block) -> tuple[int, int] | None:
    """The dimension of the output that an axis of the contraction is, and the axis of its epilogue
    that reads it; None unless they walk the same elements."""
    output = facts.block.writes[0]
    bound = facts.block.iters[axis]
    read = next((load for load in step_loads(epilogue) if load.buffer is output.buffer), None)
    dim = _position([part.min for part in output.ranges], bound.var)
    if read is None or dim is None:
        return None
    after = _position([found.var for found in epilogue.iters], read.indices[dim])
    extents = (bound.extent, output.buffer.shape[dim])
    if after is None:
        return None
    sizes = {as_int(extent) for extent in (*extents, epilogue.iters[after].extent)}
    return (dim, after) if len(sizes) == 1 else None


def _position(items: Sequence[Expr], wanted: Expr) -> int | None:
    return next((at for at, item in enumerate(items) if item is wanted), None)


def _group_size(load: BufferLoad, var: Var) -> int | None:
    """The constant by which `var` is divided wherever `load` uses it; None unless it always is."""
    sizes = {_divisor(index, var) for index in load.indices if uses_var(index, var)}
    size = sizes.pop() if len(sizes) == 1 else None
    return size if size is not None and size > 1 else None


def _divisor(index: Expr, var: Var) -> int | None:
    nodes = list(post_order(index))
    found = [node for node in nodes if isinstance(node, FloorDiv) and node.a is var]
    if len(found) != 1 or sum(node is var for node in nodes) != 1:
        return None
    return as_int(found[0].b)
