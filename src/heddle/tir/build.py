# SPDX-License-Identifier: Apache-2.0
"""Building and taking apart loop-level IR."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from heddle.ir.dtype import BOOL, DType
from heddle.ir.expr import Call, Expr, ExprLike, Var, as_expr, as_int, cast, const
from heddle.ir.node import Node
from heddle.ir.walk import post_order, pre_order, rewrite
from heddle.support import UserError
from heddle.tir.nodes import (
    Block,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    For,
    ForKind,
    IterKind,
    IterVar,
    PrimFunc,
    Range,
    Seq,
    Stmt,
)

NodeT = TypeVar("NodeT", bound=Node)
TRUE = const(True, BOOL)


def decl_buffer(
    shape: Iterable[ExprLike],
    dtype: str | DType = "float32",
    name: str = "buffer",
    *,
    scope: str = "global",
    strides: Iterable[ExprLike] | None = None,
    alignment: int = 64,
) -> Buffer:
    """A new buffer of `shape` elements; see `Buffer` for scope, strides and alignment."""
    dims = tuple(as_expr(dim) for dim in shape)
    steps = None if strides is None else tuple(as_expr(step) for step in strides)
    if steps is not None and len(steps) != len(dims):
        raise UserError(f"buffer `{name}`: {len(dims)} dimensions but {len(steps)} strides")
    return Buffer(name, dims, DType.of(dtype), steps, scope, alignment)


def load(buffer: Buffer, indices: ExprLike | Sequence[ExprLike]) -> BufferLoad:
    """`buffer[indices]`"""
    return buffer[indices]


def store(buffer: Buffer, value: ExprLike, indices: ExprLike | Sequence[ExprLike]) -> BufferStore:
    """`buffer[indices] = value`; a Python number takes the buffer's dtype."""
    checked = buffer.checked_indices(indices)
    lanes = checked[-1].dtype.lanes if checked else 1
    dtype = buffer.dtype.with_lanes(lanes)
    stored = value if isinstance(value, Expr) else const(value, dtype)
    if stored.dtype is not dtype:
        raise UserError(
            f"store to buffer `{buffer.name}` of {dtype}: the value is {stored.dtype}; cast it",
            span=stored.span,
        )
    return BufferStore(buffer, stored, checked)


def seq(*stmts: Stmt) -> Stmt:
    """Statements in order; nested sequences are flattened, a single statement stays itself."""
    flat: list[Stmt] = []
    for stmt in stmts:
        flat.extend(stmt.stmts if isinstance(stmt, Seq) else (stmt,))
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


def loop(var: Var, extent: ExprLike, body: Stmt, kind: ForKind = ForKind.SERIAL) -> For:
    """`for var in range(extent): body`"""
    return For(const(0, var.dtype), as_expr(extent), kind, var, body)


def for_nest(loops: Iterable[tuple[Var, ExprLike]], body: Stmt) -> Stmt:
    """Serial loops from 0, the first outermost, around `body`."""
    for var, extent in reversed(list(loops)):
        body = loop(var, extent, body)
    return body


def point(buffer: Buffer, indices: Sequence[Expr]) -> BufferRegion:
    """The region of one element."""
    one = const(1)
    return BufferRegion(buffer, tuple(Range(index, one) for index in indices))


def full_region(buffer: Buffer) -> BufferRegion:
    """The region of the whole buffer."""
    zero = const(0)
    return BufferRegion(buffer, tuple(Range(zero, dim) for dim in buffer.shape))


def spatial(extent: ExprLike, binding: Expr, name: str) -> IterVar:
    """A spatial iteration variable of a block."""
    return IterVar(as_expr(extent), IterKind.SPATIAL, binding, Var(name))


def reduction(extent: ExprLike, binding: Expr, name: str) -> IterVar:
    """A reduction iteration variable of a block."""
    return IterVar(as_expr(extent), IterKind.REDUCTION, binding, Var(name))


def make_block(
    name: str,
    iters: Iterable[IterVar],
    body: Stmt,
    *,
    reads: Iterable[BufferRegion],
    writes: Iterable[BufferRegion],
    init: Stmt | None = None,
    alloc_buffers: Iterable[Buffer] = (),
    predicate: Expr = TRUE,
) -> Block:
    """A block; see `Block`."""
    return Block(
        name,
        tuple(iters),
        predicate,
        tuple(alloc_buffers),
        tuple(reads),
        tuple(writes),
        init,
        body,
    )


def prim_func(
    params: Sequence[Buffer | Var],
    body: Stmt,
    *,
    name: str = "main",
    alloc_buffers: Iterable[Buffer] = (),
) -> PrimFunc:
    """A loop-level function whose root block holds `alloc_buffers` and `body`."""
    root = make_block("root", (), body, reads=(), writes=(), alloc_buffers=alloc_buffers)
    return PrimFunc(tuple(params), root, {"name": name})


def collect(root: Node, kind: type[NodeT]) -> list[NodeT]:
    """All nodes of exactly the class `kind` below `root`, parents first."""
    return [found for found in pre_order(root) if type(found) is kind]


def buffer_params(func: PrimFunc) -> list[Buffer]:
    """The buffer parameters in order."""
    return [param for param in func.params if isinstance(param, Buffer)]


def written_buffers(root: Node) -> set[Buffer]:
    """The buffers that some store below `root` writes, or a C function that has their address."""
    found: set[Buffer] = set()
    for node in pre_order(root):
        if type(node) is BufferStore:
            found.add(node.buffer)
        elif type(node) is Call and node.name == "address_of":
            found.update(load.buffer for load in node.args if type(load) is BufferLoad)
    return found


def shape_symbols(func: PrimFunc) -> tuple[Var, ...]:
    """Symbolic dimensions, strides and offsets of the buffer parameters that are no parameters
    themselves, in order of first occurrence: the hidden int64 arguments of the compiled function.
    None is negative."""
    found: dict[Var, None] = {}
    for buffer in buffer_params(func):
        for dim in buffer.layout:
            found.update((n, None) for n in post_order(dim) if isinstance(n, Var))
    return tuple(var for var in found if var not in func.params)


def row_major_strides(shape: Sequence[Expr]) -> tuple[Expr, ...]:
    """Element strides of a dense row-major buffer."""
    strides: list[Expr] = []
    step: Expr = const(1)
    for dim in reversed(shape):
        strides.append(step)
        step = step * cast(dim, "int64")
    return tuple(reversed(strides))


def replace_buffers(root: NodeT, buffers: Mapping[Buffer, Buffer]) -> NodeT:
    """`root` with every use and definition of the given buffers replaced by another buffer."""
    if not buffers:
        return root

    def retarget(found: Any) -> Any:
        new = buffers.get(found.buffer)
        return found if new is None else found.replace(buffer=new)

    handlers = {BufferLoad: retarget, BufferStore: retarget, BufferRegion: retarget}
    result: NodeT = rewrite(root, handlers, memo=dict(buffers))
    return result


def element_count(shape: Sequence[Expr]) -> int | None:
    """The number of elements of a static shape, or None."""
    count = 1
    for dim in shape:
        size = as_int(dim)
        if size is None:
            return None
        count *= size
    return count
