# SPDX-License-Identifier: Apache-2.0
"""`compact_buffers`: intermediate buffers shrink to the box that is alive at once.

The last step of a schedule: afterwards, accesses to shrunken buffers index by loop variables
directly, so that further primitives must not move those loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from heddle.ir.expr import Expr, Var, as_int, const
from heddle.ir.walk import pre_order, rewrite, substitute, uses_var
from heddle.schedule.affine import Affine, Box1, affine, is_product, union
from heddle.schedule.boxes import loop_domain, loops_between, needed_box, region_box
from heddle.schedule.domain import what_narrows
from heddle.schedule.primitives.private import (
    is_rolling,
    ordered_loops,
    starts_and_ends_inside,
)
from heddle.schedule.region import all_reads, expr_key
from heddle.schedule.state import State, edit, with_body
from heddle.tir.build import load as tir_load
from heddle.tir.build import shape_symbols
from heddle.tir.build import store as tir_store
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


def compact_buffers(func: PrimFunc, *, at: Var | None = None) -> PrimFunc:
    """Shrink each buffer of the root block that one loop encloses, and allocate it in that loop.

        C_local = alloc_buffer((128, 256))        for i_0, j_0 in grid(22, 4):
        for i_0, j_0 in grid(22, 4):        ->        C_local = allocate((6, 64))
            for i_1, j_1 in grid(6, 64):              for i_1, j_1 in grid(6, 64):
                C_local[i_0 * 6 + i_1, ...] = ...         C_local[i_1, j_1] = ...

    A buffer is left alone when its uses share no loop, or when one iteration reads elements that
    another has written. Vectorised and unrolled loops do not get allocations: the nearest other
    loop around them does. at: only the buffers that the loop over this variable allocates then.
    """
    body = func.body
    if type(body) is not Block:
        return func
    for buffer in body.alloc_buffers:
        func = _compact_one(func, buffer, at)
    return func


def _compact_one(func: PrimFunc, buffer: Buffer, at: Var | None) -> PrimFunc:
    state = State(func)
    writers, readers = state.writers.get(buffer, []), state.readers.get(buffer, [])
    users = list({block.name: block for block in (*writers, *readers)}.values())
    if not writers or not readers:
        return func
    site = _common_loop(state, users, ordered_loops(state, buffer))
    if site is None or (at is not None and site.var is not at):
        return func
    shrunk = _by_points(state, buffer, users, site) or _by_box(state, buffer, users, site)
    if shrunk is None:
        return func
    small, changes = shrunk
    inside = edit(site.body, changes)
    assert inside is not None
    root: Any = state.edited({site: with_body(site, Allocate(small, inside))}).body
    kept = tuple(other for other in root.alloc_buffers if other is not buffer)
    return func.replace(body=root.replace(alloc_buffers=kept))  # type: ignore[no-any-return]


Shrunk = tuple[Buffer, dict[Stmt, Stmt | None]]
"""The small buffer, and the blocks that use it instead."""


def _resized(buffer: Buffer, shape: Sequence[Expr]) -> Buffer:
    small: Buffer = buffer.replace(shape=tuple(shape), strides=None)
    return small


def _by_box(state: State, buffer: Buffer, users: Sequence[Block], site: For) -> Shrunk | None:
    """The buffer as the box that one iteration of `site` writes; it must hold what is read."""
    written = needed_box(state, buffer, state.writers[buffer], site, "writes")
    needed = needed_box(state, buffer, state.readers[buffer], site, "reads")
    parts = zip(written, needed, buffer.shape, strict=True)
    if not all(_is_whole(w, dim) or _holds(w, n) for w, n, dim in parts):
        return None
    # (The first iteration of a rolling loop, which is below the site, fills the window.)
    writers = [writer for writer in state.writers[buffer] if not is_rolling(writer)]
    partial = any(what_narrows(state, writer, below=site) for writer in writers)
    if partial and _fills(state, buffer, writers[0], written, site):
        partial = False
    if (partial or None in written) and not starts_and_ends_inside(state, site, buffer):
        return None  # the box may be a bound on scattered writes only
    allowed = {*shape_symbols(state.func), *(p for p in state.func.params if type(p) is Var)}
    box = [_sized(part, dim, allowed) for part, dim in zip(written, buffer.shape, strict=True)]
    small = _resized(buffer, [part.extent for part in box])

    def moved(block: Block) -> Callable[[Sequence[Expr]], tuple[Expr, ...]]:
        values: dict[Var, Expr] = {bound.var: bound.binding for bound in block.iters}
        return lambda indices: tuple(
            affine(substitute(index, values)).plus(part.low, -1).expr()
            for index, part in zip(indices, box, strict=True)
        )

    return small, {block: _redirected(block, buffer, small, moved(block)) for block in users}


def _fills(
    state: State, buffer: Buffer, first: Block, box: Sequence[Box1 | None], site: For
) -> bool:
    """Whether the first block that writes a buffer below `site` always writes all of the box, so
    that others need not."""
    if what_narrows(state, first, below=site):
        return False
    filled = needed_box(state, buffer, [first], site, "writes")
    return all(_holds(f, b) and b is not None for f, b in zip(filled, box, strict=True))


def _by_points(state: State, buffer: Buffer, users: Sequence[Block], site: For) -> Shrunk | None:
    """The buffer as one element per point of the loops below `site`, where the points are no box
    but every user runs through the same ones (loops that were fused and split again)."""
    places = [Var(f"p{position}") for position in range(_MOST_LOOPS)]
    key: Any = None
    exact = True
    if any(map(is_rolling, users)):
        return None  # some points are those of the iteration before
    around: dict[str, tuple[Expr, ...]] = {}
    shape: list[Expr] = []
    for user in users:
        loops = loops_between(state, site, user)
        values: dict[Var, Expr] = {bound.var: bound.binding for bound in user.iters}
        for region in (*all_reads(user), *user.writes):
            if region.buffer is not buffer:
                continue
            if any(as_int(part.extent) != 1 for part in region.ranges):
                return None  # boxes, not points
            indices = [substitute(part.min, values) for part in region.ranges]
            used = [n for n in loops if any(uses_var(index, n.var) for index in indices)]
            shape = [loop.extent for loop in used]
            if len(used) > _MOST_LOOPS or any(as_int(size) is None for size in shape):
                return None
            inner = loop_domain(loops)
            exact = exact and is_product(indices, region_box(region, values, inner), inner)
            renamed: dict[Var, Expr] = {
                n.var: place for n, place in zip(used, places, strict=False)
            }
            own = [expr_key(substitute(index, renamed)) for index in indices]
            own_key = [as_int(size) for size in shape], own
            if key not in (None, own_key):
                return None
            key = own_key
            around[user.name] = tuple(loop.var for loop in used)
    if exact:
        return None
    small = _resized(buffer, shape)
    changes: dict[Stmt, Stmt | None] = {}
    for user in users:
        variables = around[user.name]
        changes[user] = _redirected(user, buffer, small, lambda _indices, v=variables: v)  # type: ignore[misc]
    return small, changes


_MOST_LOOPS = 16


def _common_loop(state: State, users: Sequence[Block], ordered: set[Var]) -> For | None:
    """The innermost loop around all users that may hold an allocation: values pass between the
    iterations of those in `ordered`."""
    paths = [state.path(user)[:-1] for user in users]
    found: For | None = None
    for steps in zip(*paths, strict=False):
        if any(step is not steps[0] for step in steps):
            break
        step = steps[0]
        if type(step) is For:
            if step.kind in (ForKind.VECTORIZED, ForKind.UNROLLED) or step.var in ordered:
                break
            found = step
    return found


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


def _is_whole(box: Box1 | None, dim: Expr) -> bool:
    """Whether a box is a whole dimension: beyond it nothing is read, whatever a guarded tile at
    its end seems to reach."""
    if box is None or box.low.terms or box.low.constant:
        return False
    size, limit = as_int(box.extent), as_int(dim)
    return size is not None and size == limit


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


def _redirected(
    block: Block,
    old: Buffer,
    new: Buffer,
    moved: Callable[[Sequence[Expr]], tuple[Expr, ...]],
) -> Block:
    """`block` with its accesses to `old` turned into accesses to `new` at the indices `moved`."""

    def load(found: BufferLoad) -> Expr:
        if found.buffer is not old:
            return found
        return tir_load(new, moved(found.indices))

    def store(found: BufferStore) -> Stmt:
        if found.buffer is not old:
            return found
        return tir_store(new, found.value, moved(found.indices))

    def region(found: BufferRegion) -> BufferRegion:
        if found.buffer is not old:
            return found
        sizes = [part.extent for part in found.ranges]
        starts = moved([part.min for part in found.ranges])
        if len(starts) != len(sizes):
            sizes = [const(1)] * len(starts)
        return BufferRegion(new, tuple(map(Range, starts, sizes)))

    handlers: dict[type, Callable[[Any], Any]] = {
        BufferLoad: load,
        BufferStore: store,
        BufferRegion: region,
    }
    result: Block = rewrite(block, handlers)
    return result
