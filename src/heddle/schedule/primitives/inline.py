# SPDX-License-Identifier: Apache-2.0
"""Primitives that merge an element-wise block into its neighbour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from heddle.ir.expr import Expr, IntImm, Var, as_int, const, logical_and
from heddle.ir.structural import structural_equal
from heddle.ir.walk import post_order, rewrite, substitute
from heddle.schedule.affine import Around, affine
from heddle.schedule.domain import what_narrows
from heddle.schedule.primitives.base import fail, primitive
from heddle.schedule.primitives.private import check_stays
from heddle.schedule.refs import BlockLike
from heddle.schedule.region import all_reads, has_loops, point_reads
from heddle.tir.build import point, shape_symbols
from heddle.tir.nodes import (
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    IterKind,
    IterVar,
    PrimFunc,
    Stmt,
)

if TYPE_CHECKING:
    from heddle.schedule.schedule import Schedule


def drop_buffers(func: PrimFunc, buffers: set[Buffer]) -> PrimFunc:
    """`func` without the allocations of `buffers` in its root block."""
    root: Any = func.body
    kept = tuple(buffer for buffer in root.alloc_buffers if buffer not in buffers)
    if len(kept) == len(root.alloc_buffers):
        return func
    return func.replace(body=root.replace(alloc_buffers=kept))  # type: ignore[no-any-return]


def add_buffers(func: PrimFunc, *buffers: Buffer) -> PrimFunc:
    """`func` with more allocations in its root block."""
    root: Any = func.body
    merged = (*root.alloc_buffers, *buffers)
    return func.replace(body=root.replace(alloc_buffers=merged))  # type: ignore[no-any-return]


def single_store(sch: Schedule, name: str, block: Block) -> BufferStore:
    """The store that is the whole of an element-wise block; an error otherwise."""
    if block.init is not None or any(b.kind is not IterKind.SPATIAL for b in block.iters):
        raise fail(
            sch,
            name,
            f"block `{block.name}` is a reduction; only element-wise blocks can be inlined "
            "(use compute_at or reverse_compute_at to bring a reduction closer)",
            block,
        )
    if type(block.body) is not BufferStore:
        raise fail(
            sch,
            name,
            f"block `{block.name}` must be one store, its body is a {type(block.body).__name__}",
            block,
        )
    return block.body


def intermediate(sch: Schedule, name: str, block: Block, buffer: Buffer) -> None:
    """Raise unless `buffer` lives inside the function and `block` alone writes it."""
    if sch.state.is_parameter(buffer):
        raise fail(
            sch,
            name,
            f"block `{block.name}` writes `{buffer.name}`, a parameter of the function: the "
            "caller needs it in memory",
            block,
        )
    others = [b.name for b in sch.state.writers.get(buffer, ()) if b.name != block.name]
    if others:
        raise fail(sch, name, f"`{buffer.name}` is also written by {others}")


def inverse_of(
    sch: Schedule, name: str, block: Block, indices: tuple[Expr, ...], what: str
) -> dict[Var, int]:
    """Which dimension gives each iteration variable: `indices` must be distinct variables (or
    constants). Variables that occur nowhere must have extent 1."""
    where: dict[Var, int] = {}
    for dim, index in enumerate(indices):
        if type(index) is Var and index not in where:
            where[index] = dim
        elif type(index) is not IntImm:
            raise fail(
                sch,
                name,
                f"block `{block.name}` {what} at index {dim} with an expression that is not one "
                "of its iteration variables, each used once: it cannot be inverted",
                block,
            )
    for bound in block.iters:
        if bound.var not in where and as_int(bound.extent) != 1:
            raise fail(
                sch,
                name,
                f"block `{block.name}`: `{bound.var.name}` does not occur in the indices with "
                f"which it {what}",
                block,
            )
    return where


@primitive
def compute_inline(sch: Schedule, block: BlockLike) -> None:
    """Put the expression of an element-wise block into its consumers, and drop the block.

    >>> sch = Schedule(chain())
    >>> sch.compute_inline("B")
    >>> print(sketch(sch.func))
    for i in range(32):
        C[i] = (A[i] + 1.0) * 2.0
    """
    node = sch.block(block)
    check_stays(sch, "compute_inline", node)
    store = single_store(sch, "compute_inline", node)
    buffer = store.buffer
    intermediate(sch, "compute_inline", node, buffer)
    where = inverse_of(sch, "compute_inline", node, store.indices, "writes")
    readers = [b for b in sch.state.readers.get(buffer, ()) if b is not node]
    if not readers:
        raise fail(
            sch, "compute_inline", f"nothing reads `{buffer.name}`, which `{node.name}` writes"
        )
    zero = const(0)

    def inlined(load: BufferLoad) -> Expr:
        if load.buffer is not buffer:
            return load
        values = {b.var: load.indices[where[b.var]] if b.var in where else zero for b in node.iters}
        value: Expr = substitute(store.value, values)
        return value

    changes: dict[Stmt, Stmt | None] = {node: None}
    for reader in readers:
        changes[reader] = _with_loads(sch, "compute_inline", reader, buffer, inlined)
    sch.set_func(drop_buffers(sch.state.edited(changes), {buffer}))


def _with_loads(sch: Schedule, name: str, reader: Block, buffer: Buffer, handler: Any) -> Block:
    """`reader` with each load of `buffer` replaced, and its read regions brought up to date."""
    if has_loops(reader):
        raise fail(
            sch, name, f"block `{reader.name}` reads `{buffer.name}` in loops of its own", reader
        )
    body = rewrite(reader.body, {BufferLoad: handler})
    init = None if reader.init is None else rewrite(reader.init, {BufferLoad: handler})
    written = [region.buffer for region in reader.writes]
    reads = point_reads((init, body), () if reader.init is None else written)
    result: Block = reader.replace(body=body, init=init, reads=tuple(reads))
    return result


@primitive
def reverse_compute_inline(sch: Schedule, block: BlockLike) -> None:
    """Put an element-wise consumer into the only producer of what it reads, and drop the consumer.

    >>> sch = Schedule(chain())
    >>> sch.reverse_compute_inline("C")
    >>> print(sketch(sch.func))
    for i in range(32):
        C[i] = (A[i] + 1.0) * 2.0  # B

    The producer must not be a reduction: its value is final only after the last step. Use
    reverse_compute_at for that.
    """
    name = "reverse_compute_inline"
    node = sch.block(block)
    check_stays(sch, name, node)
    store = single_store(sch, name, node)
    producer, load = _sole_producer(sch, name, node)
    target = single_store(sch, name, producer)
    buffer = target.buffer
    intermediate(sch, name, producer, buffer)
    inverse_of(sch, name, producer, target.indices, "writes")
    others = [b.name for b in sch.state.readers.get(buffer, ()) if b is not node]
    if others:
        raise fail(sch, name, f"`{buffer.name}` is also read by {others}")
    where = inverse_of(sch, name, node, load.indices, f"reads `{buffer.name}`")
    narrowed = what_narrows(sch.state, node)
    if narrowed:
        raise fail(
            sch,
            name,
            f"block `{node.name}` {narrowed}: it may not run for all that `{producer.name}` makes",
            node,
        )
    _check_same_domain(sch, name, node, where, buffer)
    values: dict[Var, Expr] = {
        b.var: target.indices[where[b.var]] if b.var in where else const(0) for b in node.iters
    }

    def replaced(found: BufferLoad) -> Expr:
        return target.value if found.buffer is buffer else found

    memo: dict[Any, Any] = dict(values)
    value = rewrite(store.value, {BufferLoad: replaced}, memo=memo)
    indices = tuple(rewrite(index, {BufferLoad: replaced}, memo=memo) for index in store.indices)
    body = store.replace(value=value, indices=indices)
    merged = producer.replace(
        iters=_narrowed(node, where, producer, target),
        body=body,
        reads=tuple(point_reads([body], ())),
        writes=(point(store.buffer, indices),),
        predicate=_coverage(node, where, buffer, producer, target),
    )
    changes: dict[Stmt, Stmt | None] = {producer: merged, node: None}
    sch.set_func(drop_buffers(sch.state.edited(changes), {buffer}))


def _sole_producer(sch: Schedule, name: str, node: Block) -> tuple[Block, BufferLoad]:
    """The block in the function whose result `node` reads, and the (one) access."""
    found: dict[str, Block] = {}
    for region in all_reads(node):
        for writer in sch.state.writers.get(region.buffer, ()):
            if writer is not node:
                found[writer.name] = writer
    if len(found) != 1:
        raise fail(
            sch,
            name,
            f"block `{node.name}` must read the result of exactly one block, it reads those of "
            f"{list(found) or 'none'}",
            node,
        )
    producer = next(iter(found.values()))
    written = {region.buffer for region in producer.writes}
    loads = [n for n in post_order(node.body) if type(n) is BufferLoad and n.buffer in written]
    if not loads or any(not structural_equal(n.indices, loads[0].indices) for n in loads):
        raise fail(
            sch,
            name,
            f"block `{node.name}` reads `{producer.name}` at several different places",
            node,
        )
    return producer, loads[0]


def _check_same_domain(
    sch: Schedule, name: str, node: Block, where: dict[Var, int], buffer: Buffer
) -> None:
    """Raise when `node` also computes elements that read nothing of `buffer`: the padding."""
    around = Around({}, shape_symbols(sch.func))
    for bound in node.iters:
        dim = where.get(bound.var)
        if dim is None:
            continue
        size = buffer.shape[dim]
        if not around.nonnegative(affine(size).plus(affine(bound.extent), -1)):
            raise fail(
                sch,
                name,
                f"variable `{bound.var.name}` of block `{node.name}` runs over "
                f"[0, {bound.extent}), but `{buffer.name}` has {size} elements there: the others "
                "would not be computed",
                node,
            )


def _narrowed(
    node: Block, where: dict[Var, int], producer: Block, target: BufferStore
) -> tuple[IterVar, ...]:
    """The producer's iteration variables, over what `node` reads of them."""
    extents = {target.indices[where[b.var]]: b.extent for b in node.iters if b.var in where}
    return tuple(
        bound.replace(extent=extents.get(bound.var, bound.extent)) for bound in producer.iters
    )


def _coverage(
    node: Block, where: dict[Var, int], buffer: Buffer, producer: Block, target: BufferStore
) -> Expr:
    """The producer's predicate, restricted to the elements that `node` reads."""
    guard: Expr = producer.predicate
    bindings = {b.var: b.binding for b in producer.iters}
    for bound in node.iters:
        dim = where.get(bound.var)
        if dim is not None and not structural_equal(bound.extent, buffer.shape[dim]):
            guard = logical_and(guard, substitute(target.indices[dim], bindings) < bound.extent)
    return guard
