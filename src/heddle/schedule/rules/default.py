# SPDX-License-Identifier: Apache-2.0
"""The strategy of the default schedule: inline, group, and hand each group to its rule."""

from __future__ import annotations

from heddle.ir.expr import Call, Expr, as_int
from heddle.ir.walk import post_order, uses_var
from heddle.schedule.rules.analysis import (
    BlockKind,
    block_kind,
    contraction_of,
    extent_of,
    reduction_loops,
)
from heddle.schedule.rules.attention import find_chain, schedule_chain
from heddle.schedule.rules.contraction import schedule_contraction
from heddle.schedule.rules.depth_parts import split_into_parts
from heddle.schedule.rules.dot_product import dot_product_of, schedule_dot_product
from heddle.schedule.rules.dot_rows import schedule_dot_rows, takes_dot_rows
from heddle.schedule.rules.elementwise import parallelize, schedule_elementwise
from heddle.schedule.rules.reduction import schedule_reduction
from heddle.schedule.rules.single_query import find_single_query, schedule_single_query
from heddle.schedule.rules.turned_operand import turn_operand
from heddle.schedule.rules.whole_vectors import fill_vectors
from heddle.schedule.rules.winograd import schedule_winograd, winograd_stages
from heddle.schedule.schedule import BlockRef, Schedule
from heddle.support import InternalError
from heddle.target import Target
from heddle.tir.nodes import Block, BufferRegion, BufferStore, IterKind, PrimFunc

_CHEAP_CALLS = frozenset({"if_then_else", "fabs", "floor", "ceil", "trunc", "round", "sqrt", "fma"})


def default_schedule(func: PrimFunc, target: Target) -> Schedule:
    """A schedule of `func` for `target`, from analytic rules alone."""
    sch = Schedule(func)
    chain = find_chain(sch)
    if chain is not None:
        schedule_chain(sch, chain, target)
        return sch
    single = find_single_query(sch)
    if single is not None:
        schedule_single_query(sch, single, target)
        return sch
    stages = winograd_stages(sch)
    if stages is not None:
        schedule_winograd(sch, stages, target)
        return sch
    _inline_cheap(sch)
    for group in _groups(sch):
        _schedule_group(sch, group, target)
    return sch


def _inline_cheap(sch: Schedule) -> None:
    """Inline each elementwise block into its consumers, unless it feeds a contraction (which reads
    every element many times) or would repeat costly work."""
    for block in sch.get_blocks():
        node = sch.block(block)
        if block_kind(node) is not BlockKind.ELEMENTWISE or _is_output(sch, node):
            continue
        consumers = [sch.block(c) for c in sch.consumers(block)]
        if not consumers or any(type(c.body) is not BufferStore for c in consumers):
            continue
        if any(_reads_often(c) for c in consumers):
            continue
        reduces = any(_has_reduction(c) for c in consumers)
        if _is_costly(node) and (len(consumers) > 1 or (reduces and not _read_once(consumers[0]))):
            continue
        sch.compute_inline(block)


def _reads_often(consumer: Block) -> bool:
    """Whether a block reads each element of its operands for many outputs: a contraction, unless
    it is a depthwise convolution, whose few taps cost no more than a padded copy of the input."""
    facts = contraction_of(consumer)
    return facts is not None and not (facts.x_has_vector and not facts.cols)


def _is_output(sch: Schedule, block: Block) -> bool:
    return any(region.buffer in sch.func.params for region in block.writes)


def _has_reduction(block: Block) -> bool:
    return any(axis.kind is IterKind.REDUCTION for axis in block.iters)


def _line_axis(sch: Schedule, block: BlockRef) -> int | None:
    """The axis of what `block` writes along which a convolution, its only consumer, walks lines of
    an image. Where cores share out lines, not channels, each then reads what it wrote itself."""
    node, consumers = sch.block(block), sch.consumers(block)
    facts = contraction_of(sch.block(consumers[0])) if len(consumers) == 1 else None
    if facts is None or type(node.body) is not BufferStore:
        return None
    load = next((x for x in (facts.x, facts.w) if x.buffer is node.body.buffer), None)
    if load is None or [axis.var for axis in node.iters] != list(node.body.indices):
        return None
    spatial = {axis.var for axis in facts.block.iters if axis.kind is IterKind.SPATIAL}
    walked = [at for at, index in enumerate(load.indices) if uses_var(index, spatial)]
    lines = [at for at in walked if as_int(node.iters[at].extent) != 1]
    return lines[0] if lines else None


def _read_once(consumer: Block) -> bool:
    """Whether a reduction reads each element of its operand once (a row sum does, a pooling
    window does not: the same element falls into several windows)."""
    return all(
        any(index is axis.var for region in consumer.reads for index in _starts(region))
        for axis in consumer.iters
    )


def _starts(region: BufferRegion) -> list[Expr]:
    return [dim.min for dim in region.ranges]


def _is_costly(block: Block) -> bool:
    return any(
        isinstance(found, Call) and found.name not in _CHEAP_CALLS
        for found in post_order(block.body)
    )


def _groups(sch: Schedule) -> list[list[BlockRef]]:
    """Blocks that are scheduled together, in program order.

    A contraction goes with its epilogue; reductions go with the blocks they feed, up to the block
    that writes an output or feeds a contraction; any other block is alone.
    """
    groups: list[list[BlockRef]] = []
    pending: list[BlockRef] = []
    for block in sch.get_blocks():
        kind = block_kind(sch.block(block))
        if kind is BlockKind.CONTRACTION:
            groups.append([block])
        elif groups and not pending and _is_epilogue(sch, groups[-1], block):
            groups[-1].append(block)
        else:
            pending.append(block)
            if _ends_group(sch, block):
                groups.append(pending)
                pending = []
    if pending:
        groups.append(pending)
    return groups


def _ends_group(sch: Schedule, block: BlockRef) -> bool:
    if _is_output(sch, sch.block(block)):
        return True
    consumers = sch.consumers(block)
    return any(block_kind(sch.block(c)) is BlockKind.CONTRACTION for c in consumers)


def _is_epilogue(sch: Schedule, group: list[BlockRef], block: BlockRef) -> bool:
    """Whether `block` is the elementwise consumer of the contraction that `group` holds."""
    head = sch.block(group[0])
    if len(group) != 1 or block_kind(head) is not BlockKind.CONTRACTION or _is_output(sch, head):
        return False
    elementwise = block_kind(sch.block(block)) is BlockKind.ELEMENTWISE
    return elementwise and sch.consumers(group[0]) == [block]


def _is_empty(sch: Schedule, block: BlockRef) -> bool:
    """Whether a block writes no element at all (a reduction of none does write one)."""
    summed = reduction_loops(sch, block)
    return any(extent_of(sch, i) == 0 for i in sch.get_loops(block) if i not in summed)


def _schedule_group(sch: Schedule, group: list[BlockRef], target: Target) -> None:
    kinds = [block_kind(sch.block(block)) for block in group]
    if _is_empty(sch, group[0]):
        return
    if kinds[0] is BlockKind.CONTRACTION:
        dot = dot_product_of(sch.block(group[0]), target)
        epilogue = group[1] if len(group) > 1 else None
        turned = None
        if dot is None:
            turned = turn_operand(sch, group[0], target)
            epilogue = fill_vectors(sch, group[0], epilogue, target)
        if epilogue is None:
            epilogue = sch.cache_write(group[0], 0, "local")
        if dot is not None:
            schedule_dot_product(sch, group[0], epilogue, target, dot)
        else:
            parts = split_into_parts(sch, group[0], epilogue, target, turned=turned is not None)
            schedule_contraction(sch, *parts, target, turned)
        return
    if BlockKind.OPAQUE in kinds:
        for block in group:
            _spread_rows(sch, block)
        return
    if BlockKind.REDUCTION not in kinds:
        for block in group:
            schedule_elementwise(sch, block, target, first=_line_axis(sch, block))
        return
    final = group[-1]
    if kinds[-1] is not BlockKind.ELEMENTWISE:
        copy = sch.cache_write(final, 0, "local")
        group = [*group, copy]
    if group[-1] not in sch.get_blocks():
        raise InternalError(f"cache_write of `{final}` made no block")
    if takes_dot_rows(sch, group, target):
        schedule_dot_rows(sch, group[0], group[1], target)
        return
    schedule_reduction(sch, group[:-1], group[-1], target)


def _spread_rows(sch: Schedule, block: BlockRef) -> None:
    """Run the rows of a hand-written block side by side: it is left as written otherwise."""
    node = sch.block(block)
    loops = sch.get_loops(block)
    bound = [axis.binding for axis in node.iters if axis.kind is IterKind.SPATIAL]
    if loops and len(bound) == len(node.iters) and bound == [sch.loop(item).var for item in loops]:
        parallelize(sch, loops)
