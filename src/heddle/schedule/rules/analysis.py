# SPDX-License-Identifier: Apache-2.0
"""What kind of work a block does: the facts that the default schedules are computed from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from heddle.ir.expr import Add, Call, Cast, Expr, FloorDiv, FloorMod, Max, Min, Mul, Var, as_int
from heddle.ir.walk import post_order, uses_var
from heddle.schedule.schedule import BlockRef, LoopRef, Schedule
from heddle.tir.nodes import Block, BufferLoad, BufferStore, IterKind, IterVar

_FEW_ROWS = 4
"""Rows for which turning an operand that lies along the reduction never pays."""

_STEPS_PER_ROW = 16
"""Reduction steps for each row from which it does not pay either, up to `_MOST_DOT_ROWS`: dot
products then add up their lanes in less time than the turning takes."""

_MOST_DOT_ROWS = 16
"""Dot products load a vector for every second multiply-add, twice what panels need: what turning
costs for each element is made up for from so many rows on."""


def prefers_dots(rows: int, depth: int) -> bool:
    """Whether a product of so many rows with a matrix that lies along the reduction of `depth` is
    best done as dot products."""
    return rows <= _FEW_ROWS or (rows <= _MOST_DOT_ROWS and depth >= _STEPS_PER_ROW * rows)


_MOST_STEPS = 4
"""Longest axis that a dot product instruction adds up."""


class BlockKind(Enum):
    """ELEMENTWISE: no reduction; REDUCTION: one; CONTRACTION: a sum of products of two loads;
    OPAQUE: anything else, left as written."""

    ELEMENTWISE = "elementwise"
    REDUCTION = "reduction"
    CONTRACTION = "contraction"
    OPAQUE = "opaque"


def block_kind(block: Block) -> BlockKind:
    """The kind of a block, from its iteration variables and its body."""
    if type(block.body) is not BufferStore:
        return BlockKind.OPAQUE
    kinds = {axis.kind for axis in block.iters}
    if IterKind.ORDERED in kinds:
        return BlockKind.OPAQUE
    if IterKind.REDUCTION not in kinds:
        return BlockKind.ELEMENTWISE
    return BlockKind.CONTRACTION if contraction_of(block) else BlockKind.REDUCTION


@dataclass(frozen=True)
class Contraction:
    """A block `out[...] += x[...] * w[...]`, its operands named by the part they play.

    `w` is the operand that is contiguous along `vector`, the last axis of the output, and is
    loaded as vectors; `x` is the other one, broadcast over lanes unless it also has `vector`.
    `rows` are the spatial axes that `w` does not have (its vectors are reused along them), `cols`
    those that `x` does not have, without `vector`; `batch` are the spatial axes of both. Axes are
    positions in `block.iters`, outermost first.
    """

    block: Block
    x: BufferLoad
    w: BufferLoad
    vector: int
    rows: tuple[int, ...]
    cols: tuple[int, ...]
    batch: tuple[int, ...]
    reduce: tuple[int, ...]
    x_has_vector: bool
    w_contiguous: bool

    def extent(self, axis: int) -> int | None:
        """The extent of an axis, or None when it is symbolic."""
        return as_int(self.block.iters[axis].extent)


def _strip_casts(value: Expr) -> Expr:
    while isinstance(value, Cast):
        value = value.value
    return value


def _operand(value: Expr) -> Expr:
    """The load behind casts and behind the guard of a padded edge."""
    value = _strip_casts(value)
    if isinstance(value, Call) and value.name == "if_then_else":
        return _strip_casts(value.args[1])
    return value


def _step(block: Block) -> Expr | None:
    """What the body of a reduction block adds, multiplies or compares per step."""
    store = block.body
    if type(store) is not BufferStore or not isinstance(store.value, (Add, Mul, Max, Min)):
        return None
    combine = store.value
    if isinstance(combine.a, BufferLoad) and combine.a.buffer is store.buffer:
        return combine.b
    return None


def contraction_of(block: Block) -> Contraction | None:
    """The contraction that a block computes with vectors along its output, or None."""
    facts = _product_of(block)
    return None if facts is None or _is_row_by_row(facts) else facts


def dot_rows_of(block: Block) -> Contraction | None:
    """The few rows of dot products that a block computes, or None: `w` lies along the reduction."""
    facts = _product_of(block)
    return facts if facts is not None and _is_row_by_row(facts) else None


def _product_of(block: Block) -> Contraction | None:
    step = _step(block)
    store = block.body
    if step is None or type(store) is not BufferStore or type(store.value) is not Add:
        return None
    product = _strip_casts(step)
    if not isinstance(product, Mul) or not store.indices:
        return None
    a, b = _operand(product.a), _operand(product.b)
    if not (isinstance(a, BufferLoad) and isinstance(b, BufferLoad)):
        return None
    spatial = [i for i, axis in enumerate(block.iters) if axis.kind is IterKind.SPATIAL]
    last = _strip_casts(store.indices[-1])
    vector = next((i for i in spatial if block.iters[i].var is last), None)
    if vector is None or as_int(block.iters[vector].extent) == 1:
        return None  # a dot product: a reduction like others
    var = block.iters[vector].var
    x, w, contiguous = _roles(a, b, var)
    in_x = {i for i in spatial if _has(x, block.iters[i])}
    in_w = {i for i in spatial if _has(w, block.iters[i])}
    others = [i for i in spatial if i != vector]
    return Contraction(
        block,
        x,
        w,
        vector,
        rows=tuple(i for i in others if i not in in_w),
        cols=tuple(i for i in others if i in in_w and i not in in_x),
        batch=tuple(i for i in others if i in in_w and i in in_x),
        reduce=tuple(i for i, n in enumerate(block.iters) if n.kind is IterKind.REDUCTION),
        x_has_vector=vector in in_x,
        w_contiguous=contiguous,
    )


def _is_row_by_row(facts: Contraction) -> bool:
    """Whether few rows meet an operand that lies along the reduction, as they do themselves: dot
    products of what lies together then beat gathering vectors."""
    if facts.w_contiguous:
        return False
    rows = [facts.extent(i) for i in facts.rows]
    along = facts.block.iters[facts.reduce[-1]]
    depth = as_int(along.extent)
    if (depth or _MOST_STEPS + 1) <= _MOST_STEPS:
        return False  # packed for an instruction
    operands = (facts.x, facts.w)
    known = math.prod(size or _FEW_ROWS + 1 for size in rows)
    if not prefers_dots(known, 0 if depth is None or None in rows else depth):
        return False
    return all(is_contiguous(load, along.var) for load in operands)


def _has(load: BufferLoad, axis: IterVar) -> bool:
    return any(uses_var(index, axis.var) for index in load.indices)


def _roles(a: BufferLoad, b: BufferLoad, vector: Var) -> tuple[BufferLoad, BufferLoad, bool]:
    """(x, w, whether w is contiguous along `vector`)."""
    good_a, good_b = is_contiguous(a, vector), is_contiguous(b, vector)
    if good_a and good_b:
        # Both move along the vector (a depthwise convolution): the smaller one is the weight.
        axes = [len({v for i in load.indices for v in _vars(i)}) for load in (a, b)]
        return (a, b, True) if axes[0] >= axes[1] else (b, a, True)
    if good_a != good_b:
        return (b, a, True) if good_a else (a, b, True)
    has_a = any(uses_var(index, vector) for index in a.indices)
    return (b, a, False) if has_a else (a, b, False)


def _vars(index: Expr) -> set[Var]:
    return {found for found in post_order(index) if isinstance(found, Var)}


def is_contiguous(load: BufferLoad, var: Var) -> bool:
    """Whether consecutive values of `var` load consecutive elements (panels `v // c, v % c` of a
    packed operand count: vectors do not cross panels)."""
    if not load.indices:
        return False
    last, rest = load.indices[-1], load.indices[:-1]
    if not _unit_stride(last, var):
        return False
    return all(
        not uses_var(index, var) or (isinstance(index, FloorDiv) and isinstance(last, FloorMod))
        for index in rest
    )


def _unit_stride(index: Expr, var: Var) -> bool:
    if index is var:
        return True
    if isinstance(index, FloorMod):
        return index.a is var
    if isinstance(index, Add):
        in_a, in_b = uses_var(index.a, var), uses_var(index.b, var)
        return in_a != in_b and _unit_stride(index.a if in_a else index.b, var)
    return False


def extent_of(sch: Schedule, loop: LoopRef) -> int | None:
    """The extent of a loop, or None when it is symbolic."""
    return as_int(sch.loop(loop).extent)


def reduction_loops(sch: Schedule, block: BlockRef) -> list[LoopRef]:
    """The loops around a block that carry its reductions, outermost first."""
    bindings = [a.binding for a in sch.block(block).iters if a.kind is IterKind.REDUCTION]
    return [
        loop
        for loop in sch.get_loops(block)
        if any(uses_var(binding, loop.var) for binding in bindings)
    ]


def step_loads(block: Block) -> list[BufferLoad]:
    """The loads in the body of a block, except those of what it writes."""
    body = block.body
    if type(body) is not BufferStore:
        return []
    return [
        found
        for found in post_order(body.value)
        if isinstance(found, BufferLoad) and found.buffer is not body.buffer
    ]
