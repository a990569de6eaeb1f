# SPDX-License-Identifier: Apache-2.0
"""Primitives that stage a buffer in the order in which a block uses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from heddle.arith import detect_iter_map
from heddle.ir.expr import Expr, Var, as_int, const
from heddle.ir.structural import structural_equal
from heddle.ir.walk import free_vars, post_order, rewrite, substitute
from heddle.schedule.affine import Around
from heddle.schedule.boxes import loop_domain
from heddle.schedule.primitives.base import fail, primitive
from heddle.schedule.primitives.cache import buffer_names, buffer_of, check_scope, root_child
from heddle.schedule.primitives.index_map import extents_of, parse_index_map
from heddle.schedule.primitives.inline import add_buffers
from heddle.schedule.refs import BlockLike, BlockRef
from heddle.schedule.region import has_loops
from heddle.schedule.state import edit
from heddle.support.names import fresh_name
from heddle.tir.build import for_nest, load, make_block, point, seq, shape_symbols, store
from heddle.tir.nodes import (
    Block,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    IterKind,
    IterVar,
    Stmt,
)

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule


@primitive
def reindex(
    sch: Schedule, block: BlockLike, side: str, index: int, *, scope: str = "global"
) -> BlockRef:
    """Stage a buffer with one dimension for each iteration variable that a block accesses it with.

    What a convolution reads becomes its im2col matrix, and any access becomes plain:

    >>> sch = Schedule(windows())
    >>> sch.reindex("C", "read", 0)
    block `A_reindex`
    >>> print(sketch(sch.func))
    A_reindex = alloc((15, 4))
    for ax0, ax1 in grid(15, 4):
        A_reindex[ax0, ax1] = A[ax0 * 2 + ax1]
    for i, k in grid(15, 4):
        with init: C[i] = 0.0
        C[i] = C[i] + A_reindex[i, k]

    `side` ("read" or "write") and `index` choose the buffer among those of the block, which must
    access it at one place. Returns the block that copies.
    """
    return _staged(sch, "reindex", block, side, index, scope, None)


@primitive
def reindex_cache_read(
    sch: Schedule, block: BlockLike, read_index: int, scope: str, index_map: str
) -> BlockRef:
    """Stage what a block reads, at places given by a function of its iteration variables.

    >>> sch = Schedule(product())
    >>> sch.reindex_cache_read("C", 1, "global", "lambda i, j, k: (j // 16, k, j % 16)")
    block `B_global`
    >>> print(sketch(sch.func))
    B_global = alloc((2, 24, 16))
    for ax0, ax1 in grid(32, 24):
        B_global[ax0 // 16, ax1, ax0 % 16] = B[ax1, ax0]
    for i, j, k in grid(16, 32, 24):
        with init: C[i, j] = 0.0
        C[i, j] = C[i, j] + A[i, k] * B_global[j // 16, k, j % 16]

    `index_map` takes all iteration variables of the block and must use at least those that the
    block reads with. Returns the block that copies, to be moved by compute_at.
    """
    return _staged(sch, "reindex_cache_read", block, "read", read_index, scope, index_map)


@primitive
def reindex_cache_write(
    sch: Schedule, block: BlockLike, write_index: int, scope: str, index_map: str
) -> BlockRef:
    """Stage what a block writes, at places given by a function of its iteration variables.

    >>> sch = Schedule(product())
    >>> sch.reindex_cache_write("C", 0, "local", "lambda i, j, k: (j, i)")
    block `C_write`
    >>> print(sketch(sch.func))
    C_local = alloc((32, 16), scope="local")
    for i, j, k in grid(16, 32, 24):
        with init: C_local[j, i] = 0.0  # C
        C_local[j, i] = C_local[j, i] + A[i, k] * B[k, j]
    for ax0, ax1 in grid(16, 32):
        C[ax0, ax1] = C_local[ax1, ax0]  # C_write

    `index_map` takes all iteration variables of the block and must use those that the block writes
    with. Returns the block that copies, to be moved by reverse_compute_at.
    """
    return _staged(sch, "reindex_cache_write", block, "write", write_index, scope, index_map)


def _staged(
    sch: Schedule,
    name: str,
    block: BlockLike,
    side: str,
    index: int,
    scope: str,
    index_map: str | None,
) -> BlockRef:
    node = sch.block(block)
    check_scope(sch, name, scope)
    if side not in ("read", "write"):
        raise fail(sch, name, f'`side` must be "read" or "write", got "{side}"')
    regions = node.reads if side == "read" else node.writes
    buffer = buffer_of(sch, name, node, regions, index, f"{side}s")
    indices = _access(sch, name, node, buffer, side)
    used = [b for b in node.iters if b.var in set(_variables(indices))]
    if index_map is None:
        images: list[Expr] = [bound.var for bound in used]
    else:
        parameters, given = parse_index_map(sch, name, index_map, len(node.iters), "iterations")
        values: dict[Var, Expr] = {p: b.var for p, b in zip(parameters, node.iters, strict=True)}
        images = [substitute(image, values) for image in given]
    copied = _copied(sch, name, node, used, images)
    domain = {bound.var: (const(0), bound.extent) for bound in copied}
    found = detect_iter_map(images, domain)
    if not found:
        raise fail(sch, name, f"`{index_map}` puts several elements at one place: {found.reason}")
    _check_bounds(sch, name, node, buffer, indices, domain)
    shape = extents_of(sch, name, index_map or "", images, domain)
    suffix = "reindex" if index_map is None else scope
    title = fresh_name(f"{buffer.name}_{suffix}", buffer_names(sch.state))
    cached = Buffer(title, tuple(shape), buffer.dtype, None, scope)
    if side == "read":
        return _stage_read(sch, name, node, buffer, cached, indices, images, copied)
    return _stage_write(sch, name, node, buffer, cached, indices, images, copied)


def _variables(indices: Sequence[Expr]) -> list[Var]:
    return [var for index in indices for var in free_vars(index)]


def _access(sch: Schedule, name: str, node: Block, buffer: Buffer, side: str) -> tuple[Expr, ...]:
    """The one place at which a block reads or writes `buffer`."""
    if has_loops(node):
        raise fail(
            sch, name, f"block `{node.name}` accesses `{buffer.name}` in loops of its own", node
        )
    written = any(region.buffer is buffer for region in node.writes)
    if side == "read" and written:
        raise fail(sch, name, f"block `{node.name}` also writes `{buffer.name}`", node)
    found = [
        n
        for part in (node.init, node.body)
        if part is not None
        for n in post_order(part)
        if type(n) in (BufferLoad, BufferStore) and n.buffer is buffer  # type: ignore[attr-defined]
    ]
    first: tuple[Expr, ...] = found[0].indices  # type: ignore[attr-defined]
    for other in found[1:]:
        if not structural_equal(other.indices, first):  # type: ignore[attr-defined]
            raise fail(
                sch,
                name,
                f"block `{node.name}` accesses `{buffer.name}` at several places, "
                f"`{load(buffer, first)}` and `{load(buffer, other.indices)}`",  # type: ignore[attr-defined]
                node,
            )
    return first


def _copied(
    sch: Schedule, name: str, node: Block, used: list[IterVar], images: list[Expr]
) -> list[IterVar]:
    """The iteration variables that the staged buffer is indexed with; they must be enough."""
    placed = set(_variables(images))
    for bound in used:
        if bound.var not in placed and as_int(bound.extent) != 1:
            raise fail(
                sch,
                name,
                f"`index_map` does not use `{bound.var.name}`, with which block `{node.name}` "
                "accesses the buffer: different elements would share a place",
                node,
            )
    return [b for b in node.iters if b.var in placed or b in used]


def _check_bounds(
    sch: Schedule,
    name: str,
    node: Block,
    buffer: Buffer,
    indices: tuple[Expr, ...],
    domain: dict[Var, tuple[Expr, Expr]],
) -> None:
    around = Around(domain, shape_symbols(sch.func))
    for dim, (index, size) in enumerate(zip(indices, buffer.shape, strict=True)):
        if not around.nonnegative(index) or not around.nonnegative(size - 1 - index):
            raise fail(
                sch,
                name,
                f"block `{node.name}` accesses dimension {dim} of `{buffer.name}` at `{index}`, "
                "which leaves the buffer in a part of its iterations; pad the buffer first",
                node,
            )


def _fresh(copied: list[IterVar]) -> tuple[list[tuple[Var, Expr]], list[IterVar], dict[Var, Expr]]:
    """Loops over the iteration variables `copied`, theirs in a new block, and what they replace."""
    loops: list[tuple[Var, Expr]] = []
    iters: list[IterVar] = []
    values: dict[Var, Expr] = {}
    for number, bound in enumerate(copied):
        loop, var = Var(f"ax{number}"), Var(f"v{number}")
        loops.append((loop, bound.extent))
        iters.append(IterVar(bound.extent, IterKind.SPATIAL, loop, var))
        values[bound.var] = var
    return loops, iters, values


def _redirected(node: Block, buffer: Buffer, cached: Buffer, images: list[Expr]) -> Block:
    handlers: dict[type, Callable[[Any], Any]] = {
        BufferLoad: lambda n: load(cached, images) if n.buffer is buffer else n,
        BufferStore: lambda n: store(cached, n.value, images) if n.buffer is buffer else n,
        BufferRegion: lambda n: point(cached, images) if n.buffer is buffer else n,
    }
    result: Block = rewrite(node, handlers)
    return result


def _stage_read(
    sch: Schedule,
    name: str,
    node: Block,
    buffer: Buffer,
    cached: Buffer,
    indices: tuple[Expr, ...],
    images: list[Expr],
    copied: list[IterVar],
) -> BlockRef:
    writers = list(sch.state.writers.get(buffer, ()))
    place = root_child(sch, name, node, writers, f"writes `{buffer.name}`")
    loops, iters, values = _fresh(copied)
    source = [substitute(index, values) for index in indices]
    target = [substitute(image, values) for image in images]
    copy = make_block(
        sch.state.fresh_block_name(cached.name),
        iters,
        store(cached, load(buffer, source), target),
        reads=[point(buffer, source)],
        writes=[point(cached, target)],
    )
    changed = edit(place, {node: _redirected(node, buffer, cached, images)})
    assert changed is not None
    edited = sch.state.edited({place: seq(for_nest(loops, copy), changed)})
    sch.set_func(add_buffers(edited, cached))
    return BlockRef(copy.name)


def _stage_write(
    sch: Schedule,
    name: str,
    node: Block,
    buffer: Buffer,
    cached: Buffer,
    indices: tuple[Expr, ...],
    images: list[Expr],
    copied: list[IterVar],
) -> BlockRef:
    _check_written(sch, name, node, buffer, indices, copied)
    readers = [b for b in sch.state.readers.get(buffer, ()) if b is not node]
    place = root_child(sch, name, node, readers, f"reads `{buffer.name}`")
    loops, iters, values = _fresh(copied)
    source = [substitute(image, values) for image in images]
    target = [substitute(index, values) for index in indices]
    copy: Stmt = make_block(
        sch.state.fresh_block_name(f"{buffer.name}_write"),
        iters,
        store(buffer, load(cached, source), target),
        reads=[point(cached, source)],
        writes=[point(buffer, target)],
    )
    changed = edit(place, {node: _redirected(node, buffer, cached, images)})
    assert changed is not None
    edited = sch.state.edited({place: seq(changed, for_nest(loops, copy))})
    sch.set_func(add_buffers(edited, cached))
    return BlockRef(copy.name)  # type: ignore[attr-defined]


def _check_written(
    sch: Schedule,
    name: str,
    node: Block,
    buffer: Buffer,
    indices: tuple[Expr, ...],
    copied: list[IterVar],
) -> None:
    """Raise unless `node` alone writes the elements, each from nothing and all of them."""
    others = [b.name for b in sch.state.writers[buffer] if b is not node]
    if others:
        raise fail(
            sch,
            name,
            f"`{buffer.name}` is also written by {others}; call {name} before decomposing or "
            "peeling",
        )
    if any(region.buffer is buffer for region in node.reads):
        raise fail(sch, name, f"block `{node.name}` updates `{buffer.name}` in place", node)
    for bound in copied:
        if bound.kind is not IterKind.SPATIAL:
            raise fail(
                sch,
                name,
                f"`{bound.var.name}` of block `{node.name}` is a {bound.kind.value} variable: the "
                "result has no place for each of its steps (rfactor makes one)",
                node,
            )
    domain = {bound.var: (const(0), bound.extent) for bound in copied}
    if not detect_iter_map(list(indices), domain):
        raise fail(
            sch, name, f"block `{node.name}` may write an element of `{buffer.name}` twice", node
        )
    around = loop_domain(sch.state.loops(node))
    covered = detect_iter_map([b.binding for b in node.iters], around, node.predicate)
    if sch.state.is_parameter(buffer) and not covered.is_bijective:
        raise fail(
            sch,
            name,
            f"it is not clear that the loops around block `{node.name}` write all of "
            f"`{buffer.name}`; call {name} before moving or fusing loops",
            node,
        )
