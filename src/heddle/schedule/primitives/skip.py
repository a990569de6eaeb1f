# SPDX-License-Identifier: Apache-2.0
"""`skip_padding`: sums of products leave out what is padding."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from heddle.ir.expr import Add, Call, Cast, Expr, Mul, Select, Var, logical_not, logical_or
from heddle.ir.structural import structural_equal
from heddle.ir.walk import post_order, substitute, uses_var
from heddle.schedule.affine import estimate
from heddle.schedule.boxes import loop_domain, loops_between
from heddle.schedule.domain import slack
from heddle.schedule.primitives.base import fail, primitive
from heddle.schedule.primitives.cache import buffer_of
from heddle.schedule.refs import BlockLike, LoopRef
from heddle.schedule.state import State
from heddle.tir.nodes import Block, Buffer, BufferLoad, BufferStore, ForKind, IfThenElse
from heddle.tir.predicate import conjuncts

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule


@primitive
def skip_padding(sch: Schedule, block: BlockLike, read_index: int, loop: LoopRef) -> None:
    """Leave out the iterations of a loop in which a sum of products meets nothing but padding.

    >>> sch = Schedule(padded_windows())
    >>> i, k = sch.get_loops("C")
    >>> i_0, i_1 = sch.split(i, [None, 8])
    >>> sch.reorder(i_0, k, i_1)
    >>> sch.decompose_reduction("C", k)
    block `C_init`
    >>> sch.skip_padding("C", 1, k)
    >>> print(sketch(sch.func))
    P = alloc((40,))
    for i in range(40):
        P[i] = T.if_then_else(3 < i and i < 36, A[i - 4], 0.0)
    for i_0 in range(4):
        for i_1 in range(8):
            C[i_0 * 8 + i_1] = 0.0  # C_init
        for k in range(9):
            if not (i_0 * 8 + k + 7 < 4 or i_0 * 8 + k >= 36):
                for i_1 in range(8):
                    C[i_0 * 8 + i_1] = C[i_0 * 8 + i_1] + P[i_0 * 8 + i_1 + k] * W[k]

    The buffer must be written by one block, that stores `if_then_else(inside, value, 0)`, and
    `block`, without its `init`, must add products with it. What it is multiplied by counts as
    finite. `read_index` counts the distinct buffers that the block reads, its sum among them. The
    loop must be serial, and move the block along an axis that is padded.
    """
    name = "skip_padding"
    node, around = sch.block(block), sch.state.loop(loop.var)
    buffer = buffer_of(sch, name, node, node.reads, read_index, "reads")
    if around not in sch.state.loops(node):
        raise fail(sch, name, f"{loop} is not around block `{node.name}`", loop, node)
    if around.kind is not ForKind.SERIAL:
        raise fail(sch, name, f"{loop} is {around.kind.value}; choose a serial loop", loop)
    place = factor_of(node, buffer)
    if place is None:
        raise fail(
            sch,
            name,
            f"block `{node.name}` must add products with `{buffer.name}`, without its init",
            node,
        )
    margins = margins_of(sch.state, buffer)
    if not margins:
        raise fail(sch, name, f"`{buffer.name}` is not written with zeros around it", node)
    bindings: dict[Var, Expr] = {bound.var: bound.binding for bound in node.iters}
    inner = loop_domain(loops_between(sch.state, around, node))
    outside: list[Expr] = []
    for axis, (low, high) in margins.items():
        index = substitute(place.indices[axis], bindings)
        box = estimate(index, inner) if uses_var(index, around.var) else None
        if box is None:
            continue
        first = box.low.expr()
        if low:
            outside.append(first + (box.extent - 1) < low)
        if high is not None:
            outside.append(first >= high)
    if not outside:
        raise fail(sch, name, f"{loop} does not move `{buffer.name}` along a padded axis", loop)
    # As one condition, for which no loop is split: what it guards is long.
    body = IfThenElse(logical_not(functools.reduce(logical_or, outside)), around.body)
    sch.change({around: around.replace(body=body)})


def factor_of(block: Block, buffer: Buffer) -> BufferLoad | None:
    """Where a block that adds products, its `init` apart, reads `buffer` as a factor."""
    store = block.body
    if type(store) is not BufferStore or block.init is not None or type(store.value) is not Add:
        return None
    total, step = store.value.a, _without_casts(store.value.b)
    if not isinstance(total, BufferLoad) or total.buffer is not store.buffer:
        return None
    if not structural_equal(total.indices, store.indices) or not isinstance(step, Mul):
        return None
    for factor in (step.a, step.b):
        load = _without_casts(factor)
        if isinstance(load, BufferLoad) and load.buffer is buffer:
            return load
    return None


def margins_of(state: State, buffer: Buffer) -> dict[int, tuple[int, int | None]]:
    """By the axes of a buffer, from where up to where its elements are not zeros around a value
    that was padded; empty unless one block wrote it so."""
    writers = state.writers.get(buffer)
    if writers is None or len(writers) != 1 or writers[0].init is not None:
        return {}
    store = writers[0].body
    if type(store) is not BufferStore:
        return {}
    condition = _condition(store.value)
    if condition is None:
        return {}
    found: dict[int, tuple[int, int | None]] = {}
    for part in conjuncts(condition):
        room = slack(part)
        if room is None or len(room.terms) != 1:
            continue
        ((atom, count),) = room.terms.values()
        axes = [axis for axis, index in enumerate(store.indices) if index is atom]
        if len(axes) != 1 or abs(count) != 1:
            continue
        low, high = found.get(axes[0], (0, None))
        if count > 0:
            low = max(low, -room.constant)
        else:
            high = room.constant + 1 if high is None else min(high, room.constant + 1)
        found[axes[0]] = low, high
    return found


def _condition(value: Expr) -> Expr | None:
    """Where a value is not zero: the condition of `if_then_else(inside, value, 0)`."""
    if isinstance(value, Select):
        inside, other = value.condition, value.b
    elif isinstance(value, Call) and value.name == "if_then_else":
        inside, _, other = value.args
    else:
        return None
    reads = any(isinstance(found, BufferLoad) for found in post_order(inside))
    return None if reads or getattr(other, "value", None) != 0 else inside


def _without_casts(value: Expr) -> Expr:
    while isinstance(value, Cast):
        value = value.value
    return value
