# SPDX-License-Identifier: Apache-2.0
"""The channels of one group of a convolution as rows of a register tile.

What a convolution of groups loads of an image in the plain layout serves all output channels of the
group. As one axis of the output they hide that: the image has the axis, in part.

    for o, v in grid(96, W):                     for g, r, v in grid(32, 3, W):
        C[o, v] += x[o // 3, v] * w[o]     ->        C[g * 3 + r, v] += x[g, v] * w[g * 3 + r]
"""

from __future__ import annotations

from heddle.ir.expr import Expr, FloorDiv, Var, as_int
from heddle.ir.walk import post_order, uses_var
from heddle.schedule.rules.analysis import contraction_of
from heddle.schedule.schedule import BlockRef, Schedule
from heddle.tir.nodes import BufferLoad


def split_groups(sch: Schedule, block: BlockRef) -> None:
    """Split each axis of `block` that its vectors see by groups alone into groups and rows."""
    facts = contraction_of(sch.block(block))
    if facts is None:
        return
    names = [f"a{position}" for position in range(len(facts.block.iters))]
    images = list(names)
    for axis in facts.batch:
        size, extent = _group_size(facts.w, facts.block.iters[axis].var), facts.extent(axis)
        if size is not None and extent is not None and extent % size == 0:
            images[axis] = f"{names[axis]} // {size}, {names[axis]} % {size}"
    if images != names:
        sch.transform_block_layout(block, f"lambda {', '.join(names)}: ({', '.join(images)},)")


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
