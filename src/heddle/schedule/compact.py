# SPDX-License-Identifier: Apache-2.0
"""`compact_buffers`: intermediate buffers shrink to the box that is alive at once.

The last step of a schedule: afterwards, accesses to shrunken buffers index by loop variables
directly, so that further primitives must not move those loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from heddle.ir.expr import Expr, Var, as_int
from heddle.ir.walk import pre_order, rewrite, substitute
from heddle.schedule.affine import Affine, Box1, affine, union
from heddle.schedule.primitives.move import region_box
from heddle.schedule.state import State, edit, with_body
from heddle.tir.build import shape_symbols
from heddle.tir.nodes import (
    Allocate,
    Block,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    For,
    ForKind,
    PrimFunc,
    Range,
    Stmt,
)

Box = list[Box1]


def compact_buffers(func: PrimFunc) -> PrimFunc:
    """Shrink each buffer of the root block that one loop encloses, and allocate it in that loop.

        C_local = alloc_buffer((128, 256))        for i_0, j_0 in grid(22, 4):
        for i_0, j_0 in grid(22, 4):        ->        C_local = allocate((6, 64))
            for i_1, j_1 in grid(6, 64):              for i_1, j_1 in grid(6, 64):
                C_local[i_0 * 6 + i_1, ...] = ...         C_local[i_1, j_1] = ...

    A buffer is left alone when its uses share no loop, or when one iteration reads elements that
    another has written. Vectorised and unrolled loops do not get allocations: the nearest other
    loop around them does.
    """
    body = func.body
    if type(body) is not Block:
        return func
    for buffer in body.alloc_buffers:
        func = _compact_one(func, buffer)
    return func


def _compact_one(func: PrimFunc, buffer: Buffer) -> PrimFunc:
    state = State(func)
    writers, readers = state.writers.get(buffer, []), state.readers.get(buffer, [])
    users = list({block.name: block for block in (*writers, *readers)}.values())
    if not writers or not readers:
        return func
    site = _common_loop(state, users)
    if site is None:
        return func
    written = _box(state, buffer, writers, site, lambda block: block.writes)
    needed = _box(state, buffer, readers, site, lambda block: block.reads)
    if not all(_holds(w, n) for w, n in zip(written, needed, strict=True)):
        return func
    allowed = set(shape_symbols(func)) | {p for p in func.params if type(p) is Var}
    box = [_sized(part, dim, allowed) for part, dim in zip(written, buffer.shape, strict=True)]
    small = Buffer(
        buffer.name,
        tuple(part.extent for part in box),
        buffer.dtype,
        None,
        buffer.scope,
        buffer.alignment,
        span=buffer.span,
    )
    changes: dict[Stmt, Stmt | None] = {
        block: _rebased(block, buffer, small, box) for block in users
    }
    inside = edit(site.body, changes)
    assert inside is not None
    root: Any = state.edited({site: with_body(site, Allocate(small, inside))}).body
    kept = tuple(other for other in root.alloc_buffers if other is not buffer)
    return func.replace(body=root.replace(alloc_buffers=kept))  # type: ignore[no-any-return]


def _common_loop(state: State, users: Sequence[Block]) -> For | None:
    """The innermost loop around all users that may hold an allocation."""
    paths = [state.path(user)[:-1] for user in users]
    found: For | None = None
    for steps in zip(*paths, strict=False):
        if any(step is not steps[0] for step in steps):
            break
        step = steps[0]
        if type(step) is For:
            if step.kind in (ForKind.VECTORIZED, ForKind.UNROLLED):
                break
            found = step
    return found


def _box(
    state: State, buffer: Buffer, users: Sequence[Block], site: For, regions: Any
) -> list[Box1 | None]:
    """What `users` touch of `buffer` in one iteration of `site`; None for a whole dimension."""
    total: list[Box1 | None] | None = None
    for user in users:
        path = state.path(user)
        inner = {
            stmt.var: (stmt.min, stmt.extent)
            for stmt in path[path.index(site) + 1 :]
            if type(stmt) is For
        }
        values: dict[Var, Expr] = {bound.var: bound.binding for bound in user.iters}
        for region in regions(user):
            if region.buffer is buffer:
                part = region_box(region, values, inner)
                total = (
                    part
                    if total is None
                    else [
                        None if a is None or b is None else union(a, b)
                        for a, b in zip(total, part, strict=True)
                    ]
                )
    return [None] * buffer.ndim if total is None else total


def _holds(outer: Box1 | None, inner: Box1 | None) -> bool:
    """Whether `outer` certainly holds `inner` (None is the whole dimension)."""
    if outer is None:
        return True
    if inner is None:
        return False
    merged = union(outer, inner)
    if merged is None:
        return False
    distance = merged.low.plus(outer.low, -1)
    longer = affine(merged.extent).plus(affine(outer.extent), -1)
    return not (distance.terms or distance.constant or longer.terms or longer.constant)


def _sized(part: Box1 | None, dim: Expr, allowed: set[Var]) -> Box1:
    """A box whose extent can be allocated: no larger than the dimension, known before the loop."""
    whole = Box1(Affine({}, 0), dim)
    if part is None:
        return whole
    size, limit = as_int(part.extent), as_int(dim)
    if size is not None:
        return whole if limit is not None and size >= limit else part
    variables = {found for found in pre_order(part.extent) if type(found) is Var}
    return part if variables <= allowed else whole


def _rebased(block: Block, old: Buffer, new: Buffer, box: Box) -> Block:
    """`block` with its accesses to `old` turned into accesses to `new`, which starts at `box`."""
    values: dict[Var, Expr] = {bound.var: bound.binding for bound in block.iters}

    def shifted(index: Expr, part: Box1) -> Expr:
        return affine(substitute(index, values)).plus(part.low, -1).expr()

    def indices(given: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(shifted(index, part) for index, part in zip(given, box, strict=True))

    def load(found: BufferLoad) -> Expr:
        return found if found.buffer is not old else BufferLoad(new, indices(found.indices))

    def store(found: BufferStore) -> Stmt:
        if found.buffer is not old:
            return found
        return BufferStore(new, found.value, indices(found.indices), span=found.span)

    def region(found: BufferRegion) -> BufferRegion:
        if found.buffer is not old:
            return found
        ranges = tuple(
            Range(shifted(part.min, by), part.extent)
            for part, by in zip(found.ranges, box, strict=True)
        )
        return BufferRegion(new, ranges)

    handlers = {BufferLoad: load, BufferStore: store, BufferRegion: region}
    # Bindings and predicate hold no accesses; the rest is rewritten as one block.
    result: Block = rewrite(block, handlers)
    return result
