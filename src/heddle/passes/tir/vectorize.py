# SPDX-License-Identifier: Apache-2.0
"""Vectorized loops become vector statements.

    for i in vectorized(64):                       A[ramp(0, 1, 16)] = B[ramp(0, 1, 16)] * 2
        A[i] = B[i] * 2                      ->    A[ramp(16, 1, 16)] = B[ramp(16, 1, 16)] * 2
                                                   ... (four native vectors)

* A loop longer than the native vector is cut into native vectors, statement by statement (the
  iterations are independent, so the order between statements does not matter); what is left over
  is cut into halves: 16, 8, 4, 2, 1.
* Loops inside stay outside of the vectors: `for k` around a vector statement.
* A condition that differs between lanes masks the statement (`IfThenElse` with a vector condition).
  Where one comparison tells that every lane takes part, that case gets its own unmasked copy.
* A buffer allocated inside gets one element per lane.
* A store whose place does not depend on the loop must be a reduction `s = s op f(i)`; it becomes
  `s = s op vector_reduce_op(f(lanes))`.

A loop that is none of this runs serially.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from heddle.ir.dtype import DType
from heddle.ir.expr import (
    LT,
    Add,
    And,
    BinaryExpr,
    Broadcast,
    Call,
    Cast,
    Expr,
    Let,
    Max,
    Min,
    Mul,
    Ramp,
    Var,
    all_of,
    as_int,
    const,
    if_then_else,
    logical_not,
)
from heddle.ir.structural import structural_equal
from heddle.ir.walk import post_order, pre_order, rewrite, substitute, uses_var
from heddle.passes.tir.ramps import broadcast, narrows_index, widen
from heddle.support import InternalError
from heddle.target import Target
from heddle.tir.build import seq
from heddle.tir.nodes import (
    Allocate,
    Buffer,
    BufferLoad,
    BufferStore,
    For,
    ForKind,
    IfThenElse,
    LetStmt,
    PrimFunc,
    Seq,
    Stmt,
)
from heddle.tir.predicate import conjuncts

REDUCERS: Final = {Add: "sum", Mul: "prod", Max: "max", Min: "min"}


class _NotVectorizable(Exception):
    """The loop does something that has no vector form; it stays a loop."""


def vectorize(func: PrimFunc, target: Target) -> PrimFunc:
    """`func` (flat) without vectorized loops."""

    def handle(loop: For) -> Stmt:
        if loop.kind is not ForKind.VECTORIZED:
            return loop
        extent = as_int(loop.extent)
        if extent is None:
            return loop.replace(kind=ForKind.SERIAL)
        if extent == 1:
            return substitute(loop.body, {loop.var: loop.min})
        try:
            return _LoopVectorizer(loop, extent, target.vector_bits).run()
        except _NotVectorizable:
            return loop.replace(kind=ForKind.SERIAL)

    return func.replace(body=rewrite(func.body, {For: handle}))


def verify_vectorized(func: PrimFunc) -> None:
    """Raise `InternalError` when a vectorized loop is left."""
    for found in pre_order(func.body):
        if isinstance(found, For) and found.kind is ForKind.VECTORIZED:
            raise InternalError(f"loop `{found.var.name}` is left after vectorize")


class _LoopVectorizer:
    """One vectorized loop: `var` over [low, low + extent)."""

    def __init__(self, loop: For, extent: int, vector_bits: int) -> None:
        self.var = loop.var
        self.low = loop.min
        self.extent = extent
        self.vector_bits = vector_bits
        self.body = loop.body
        self.conditions: list[Expr] = []  # differing between lanes, around the current statement

    def run(self) -> Stmt:
        for found in pre_order(self.body):
            if isinstance(found, (BufferLoad, BufferStore)):
                if any(index.dtype.lanes > 1 for index in found.indices):
                    raise _NotVectorizable  # vectors inside vectors
            if isinstance(found, Call) and found.name in ("call_extern", "address_of"):
                raise _NotVectorizable  # C functions take scalars, and are called in order
        return self.stmt(self._widen_allocations(self.body))

    def _widen_allocations(self, body: Stmt) -> Stmt:
        """Buffers allocated in the body get one element per lane, the lane innermost."""
        lanes = const(self.extent)
        wide: dict[Buffer, Buffer] = {}
        for found in pre_order(body):
            if isinstance(found, Allocate):
                old = found.buffer
                wide[old] = old.replace(shape=(old.shape[0] * lanes,))
        if not wide:
            return body
        lane = self.var - self.low

        def load(found: BufferLoad) -> BufferLoad:
            new = wide.get(found.buffer)
            return found if new is None else BufferLoad(new, (found.indices[0] * lanes + lane,))

        def store(found: BufferStore) -> BufferStore:
            new = wide.get(found.buffer)
            if new is None:
                return found
            return BufferStore(new, found.value, (found.indices[0] * lanes + lane,))

        handlers = {BufferLoad: load, BufferStore: store}
        widened: Stmt = rewrite(body, handlers, memo=dict(wide))
        return widened

    # -- statements ------------------------------------------------------------------------------

    def stmt(self, stmt: Stmt) -> Stmt:
        handler = _HANDLERS.get(type(stmt))
        if handler is None:
            raise _NotVectorizable
        return handler(self, stmt)

    def sequence(self, stmt: Seq) -> Stmt:
        return seq(*(self.stmt(part) for part in stmt.stmts))

    def allocate(self, stmt: Allocate) -> Stmt:
        return Allocate(stmt.buffer, self.stmt(stmt.body))

    def loop(self, stmt: For) -> Stmt:
        if uses_var(stmt.min, self.var) or uses_var(stmt.extent, self.var):
            raise _NotVectorizable
        if any(uses_var(condition, stmt.var) for condition in self.conditions):
            raise InternalError(f"loop variable `{stmt.var.name}` occurs outside of its loop")
        kind = ForKind.SERIAL if stmt.kind is ForKind.PARALLEL else stmt.kind
        return stmt.replace(body=self.stmt(stmt.body), kind=kind)

    def let(self, stmt: LetStmt) -> Stmt:
        if uses_var(stmt.value, self.var):
            return self.stmt(substitute(stmt.body, {stmt.var: stmt.value}))
        return stmt.replace(body=self.stmt(stmt.body))

    def branch(self, stmt: IfThenElse) -> Stmt:
        if not uses_var(stmt.condition, self.var):
            otherwise = None if stmt.otherwise is None else self.stmt(stmt.otherwise)
            return stmt.replace(then=self.stmt(stmt.then), otherwise=otherwise)
        if stmt.otherwise is None and type(stmt.condition) is And:
            # What all lanes share is asked once, outside: under a mask alone, a load that they
            # share would run where no lane does.
            shared = [part for part in conjuncts(stmt.condition) if self.is_shared(part)]
            if shared:
                rest = [part for part in conjuncts(stmt.condition) if part not in shared]
                inner = self.branch(stmt.replace(condition=all_of(*rest)))
                return stmt.replace(condition=all_of(*shared), then=inner)
        written = {n.buffer for n in pre_order(stmt) if isinstance(n, BufferStore)}
        for found in pre_order(stmt.condition):
            if isinstance(found, BufferLoad) and found.buffer in written:
                raise _NotVectorizable
        parts = [self.under(stmt.condition, stmt.then)]
        if stmt.otherwise is not None:
            parts.append(self.under(logical_not(stmt.condition), stmt.otherwise))
        return seq(*parts)

    def is_shared(self, condition: Expr) -> bool:
        """Whether a condition is the same in all lanes, and may be asked at any time."""
        return not _loads(condition) and not uses_var(condition, self.var)

    def under(self, condition: Expr, body: Stmt) -> Stmt:
        self.conditions.append(condition)
        try:
            return self.stmt(body)
        finally:
            self.conditions.pop()

    def store(self, stmt: BufferStore) -> Stmt:
        if not uses_var(stmt.indices[0], self.var):
            return self.reduction(stmt)
        return seq(*self.chunks(stmt, lambda store: store))

    # -- one statement, cut into native vectors --------------------------------------------------

    def chunks(self, stmt: BufferStore, finish: Callable[[BufferStore], Stmt]) -> list[Stmt]:
        made: list[Stmt] = []
        for start, lanes in chunk_lanes(self.extent, native_lanes(stmt, self.vector_bits)):
            store = self.at(stmt, start, lanes)
            made.append(self.masked(finish(store), start, lanes))
        return made

    def at(self, root: BufferStore, start: int, lanes: int) -> BufferStore:
        index = self.value(root.indices[0], start, lanes)
        value = self.value(root.value, start, lanes)
        if lanes > 1:
            index, value = broadcast(index, lanes), broadcast(value, lanes)
        return BufferStore(root.buffer, value, (index,))

    def value(self, root: Expr, start: int, lanes: int) -> Expr:
        """The expression for `lanes` iterations from `start`."""
        first = self.low + const(start)
        place = first if lanes == 1 else Ramp(first, const(1), lanes)
        result: Expr = rewrite(_inline_lets(root, self.var), widen, memo={self.var: place})
        return result

    def masked(self, stmt: Stmt, start: int, lanes: int) -> Stmt:
        """`stmt` under the conditions of the lanes."""
        if not self.conditions:
            return stmt
        mask: Expr | None = None
        for condition in self.conditions:
            part = broadcast(self.value(condition, start, lanes), lanes)
            mask = part if mask is None else And(mask, part)
        assert mask is not None
        full = all_lanes(mask)
        if isinstance(mask, Broadcast):
            return IfThenElse(mask.value, stmt)
        if lanes == 1 or full is None:
            return IfThenElse(mask, stmt)
        return IfThenElse(full, stmt, IfThenElse(mask, stmt))

    # -- reductions over the lanes ---------------------------------------------------------------

    def reduction(self, stmt: BufferStore) -> Stmt:
        kind, step = _reduction_step(stmt)
        if kind is None or step is None:
            if uses_var(stmt.value, self.var) or self.conditions or _reads(stmt.value, stmt.buffer):
                raise _NotVectorizable
            return stmt  # the same value to the same place in every iteration
        for found in pre_order(step):
            if isinstance(found, BufferLoad) and found.buffer is stmt.buffer:
                raise _NotVectorizable
        dtype = stmt.buffer.dtype
        for condition in self.conditions:
            step = if_then_else(condition, step, _identity(kind, dtype))
        native = native_lanes(stmt, self.vector_bits)
        wide: dict[int, Expr] = {}
        for start, lanes in chunk_lanes(self.extent, native):
            part = broadcast(self.value(step, start, lanes), lanes)
            wide[lanes] = kind(wide[lanes], part) if lanes in wide else part
        total: Expr = BufferLoad(stmt.buffer, stmt.indices)
        for lanes, part in wide.items():
            if lanes > 1:
                part = Call(f"vector_reduce_{REDUCERS[kind]}", (part,), dtype)
            total = kind(total, part)
        return BufferStore(stmt.buffer, total, stmt.indices)


_HANDLERS: Final = {
    Seq: _LoopVectorizer.sequence,
    Allocate: _LoopVectorizer.allocate,
    For: _LoopVectorizer.loop,
    LetStmt: _LoopVectorizer.let,
    IfThenElse: _LoopVectorizer.branch,
    BufferStore: _LoopVectorizer.store,
}


def chunk_lanes(extent: int, native: int) -> list[tuple[int, int]]:
    """(start, lanes) of the vectors that cover `extent` iterations.

    >>> chunk_lanes(21, 8)
    [(0, 8), (8, 8), (16, 4), (20, 1)]
    """
    chunks = []
    start, lanes = 0, native
    while start < extent:
        while lanes > extent - start:
            lanes //= 2
        chunks.append((start, lanes))
        start += lanes
    return chunks


def native_lanes(stmt: BufferStore, vector_bits: int) -> int:
    """Lanes of one vector register for the widest element that a statement computes with. Indices
    that only a condition compares do not count: that is one mask, often the same all along."""
    bits = stmt.buffer.dtype.bits
    stack: list[Expr] = [stmt.value]
    seen: set[Expr] = set()
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        bits = max(bits, 8 if value.dtype.is_bool else value.dtype.bits)
        if isinstance(value, Cast) and narrows_index(value):
            continue  # lanes count in the narrow type from the start
        if isinstance(value, BufferLoad):
            continue
        parts = [child for child in value.children() if isinstance(child, Expr)]
        if isinstance(value, Call) and value.name == "if_then_else" and not _loads(parts[0]):
            parts = parts[1:]
        stack.extend(parts)
    return max(1, vector_bits // bits)


def all_lanes(mask: Expr) -> Expr | None:
    """A scalar condition under which every lane of `mask` is true, when one is easy to tell."""
    if isinstance(mask, Broadcast):
        return mask.value
    if isinstance(mask, And):
        a, b = all_lanes(mask.a), all_lanes(mask.b)
        return None if a is None or b is None else a & b
    if isinstance(mask, LT) and isinstance(mask.a, Ramp) and isinstance(mask.b, Broadcast):
        stride = as_int(mask.a.stride)
        if stride is not None and stride >= 0:
            return mask.a.base + stride * (mask.a.lanes - 1) < mask.b.value
    return None


def _reduction_step(stmt: BufferStore) -> tuple[type[BinaryExpr] | None, Expr | None]:
    """(op, x) of a statement `s = s op x`."""
    value = stmt.value
    kind = type(value)
    if kind not in REDUCERS or not isinstance(value, BinaryExpr):
        return None, None
    for accumulator, step in ((value.a, value.b), (value.b, value.a)):
        if isinstance(accumulator, BufferLoad) and accumulator.buffer is stmt.buffer:
            if structural_equal(accumulator.indices, stmt.indices):
                return kind, step
    return None, None


def _identity(kind: type[BinaryExpr], dtype: DType) -> Expr:
    if kind is Add or kind is Mul:
        return const(0 if kind is Add else 1, dtype)
    if dtype.is_float:
        return const(float("-inf") if kind is Max else float("inf"), dtype)
    return const(dtype.min_value if kind is Max else dtype.max_value, dtype)


def _loads(root: Expr) -> bool:
    return any(isinstance(n, BufferLoad) for n in pre_order(root))


def _reads(root: Expr, buffer: Buffer) -> bool:
    return any(isinstance(n, BufferLoad) and n.buffer is buffer for n in pre_order(root))


def _inline_lets(root: Expr, var: Var) -> Expr:
    """`root` with the lets whose value depends on `var` replaced by their value."""
    if not any(isinstance(found, Let) for found in post_order(root)):
        return root

    def inline(found: Let) -> Expr:
        return substitute(found.body, {found.var: found.value})

    result: Expr = rewrite(root, {Let: inline})
    return result
