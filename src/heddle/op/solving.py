# SPDX-License-Identifier: Apache-2.0
"""Systems of linear equations: Gaussian elimination with partial pivoting, matrix by matrix.

G. Golub, C. Van Loan, "Matrix Computations", 4th edition, 2013, algorithms 3.4.1 and 3.1.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr, TupleGetItem
from heddle.ir import DType, TensorType
from heddle.ir.expr import EQ, NE, Expr, compare, const, logical_and
from heddle.ir.expr import Var as Symbol
from heddle.op.adjoint import dims_of, dtype_of, ndim_of
from heddle.op.common import (
    accumulator_dtype,
    cast_tensor,
    plain_dims,
    require_ndim,
    require_same_dtype,
    require_shape,
)
from heddle.op.registry import operator, ops
from heddle.op.sample import case, floats, values
from heddle.tir import intrin
from heddle.tir.build import decl_buffer, load, loop, seq, store
from heddle.tir.nodes import Allocate, Buffer, For, ForKind, IfThenElse, Stmt

INT32 = DType.of("int32")


@operator("solve", kind="opaque", dtypes="float")
def solve(a: TensorType, b: TensorType) -> tuple[TensorType, TensorType, TensorType]:
    """x with a x = b, the determinant of a, and which pivot was the first to be zero, counted from
    1 (0: none; otherwise x is not finite). a: (..., n, n), b: (..., n, m) with equal batches."""
    require_ndim(a, "a", 2)
    require_same_dtype(a, b)
    require_shape(a, "a", (*a.shape[:-1], a.shape[-2]))
    require_shape(b, "b", (*a.shape[:-1], *b.shape[-1:]))
    return b, TensorType(a.shape[:-2], a.dtype), TensorType(a.shape[:-2], INT32)


def _serial(name: str, start: Expr, end: Expr, body: Callable[[Expr], Stmt]) -> Stmt:
    """A loop from `start` to before `end`."""
    variable = Symbol(name)
    return For(start, end - start, ForKind.SERIAL, variable, body(variable))


class _Elimination:
    """The statements for one matrix `lu`, [n, n], and its right sides `x`, [n, m]."""

    def __init__(self, lu: Buffer, x: Buffer, row: Sequence[Expr]) -> None:
        self.lu, self.x, self.row = lu, x, tuple(row)
        self.n, self.m = x.shape[-2], x.shape[-1]

    def at(self, buffer: Buffer, i: Expr, j: Expr) -> Expr:
        return load(buffer, (*self.row, i, j))

    def put(self, buffer: Buffer, value: Expr, i: Expr, j: Expr) -> Stmt:
        return store(buffer, value, (*self.row, i, j))

    def _swap(self, buffer: Buffer, size: Expr, k: Expr, pivot: Expr, hold: Buffer) -> Stmt:
        def exchange(j: Expr) -> Stmt:
            return seq(
                store(hold, self.at(buffer, k, j), const(0)),
                self.put(buffer, self.at(buffer, pivot, j), k, j),
                self.put(buffer, load(hold, const(0)), pivot, j),
            )

        return _serial("j", const(0), size, exchange)

    def step(self, k: Expr, place: Buffer, hold: Buffer, det: Buffer, info: Buffer) -> Stmt:
        """Bring the largest element of column k to row k, and clear the column below."""
        pivot, row = load(place, const(0)), self.row
        zero = const(0, hold.dtype)

        def larger(i: Expr) -> Stmt:
            better = intrin.fabs(self.at(self.lu, i, k)) > intrin.fabs(self.at(self.lu, pivot, k))
            return IfThenElse(better, store(place, i, const(0)))

        def clear(i: Expr) -> Stmt:
            factor = load(hold, const(0))
            return seq(
                store(hold, self.at(self.lu, i, k) / self.at(self.lu, k, k), const(0)),
                _serial("j", k, self.n, lambda j: self._less(self.lu, factor, i, j, k)),
                _serial("j", const(0), self.m, lambda j: self._less(self.x, factor, i, j, k)),
            )

        here = self.at(self.lu, k, k)
        first = logical_and(
            compare(EQ, here, zero), compare(EQ, load(info, row), const(0, "int32"))
        )
        swapped = seq(
            self._swap(self.lu, self.n, k, pivot, hold),
            self._swap(self.x, self.m, k, pivot, hold),
            store(det, -load(det, row), row),
        )
        return seq(
            store(place, k, const(0)),
            _serial("i", k + 1, self.n, larger),
            IfThenElse(compare(NE, pivot, k), swapped),
            store(det, load(det, row) * here, row),
            IfThenElse(first, store(info, (k + 1).astype("int32"), row)),
            _serial("i", k + 1, self.n, clear),
        )

    def _less(self, buffer: Buffer, factor: Expr, i: Expr, j: Expr, k: Expr) -> Stmt:
        return self.put(buffer, self.at(buffer, i, j) - factor * self.at(buffer, k, j), i, j)

    def back(self, backwards: Expr) -> Stmt:
        """Row n - 1 - `backwards` of x from the rows below it."""
        i = self.n - 1 - backwards

        def column(j: Expr) -> Stmt:
            def less(k: Expr) -> Stmt:
                known = self.at(self.lu, i, k) * self.at(self.x, k, j)
                return self.put(self.x, self.at(self.x, i, j) - known, i, j)

            whole = self.at(self.x, i, j) / self.at(self.lu, i, i)
            return seq(_serial("k", i + 1, self.n, less), self.put(self.x, whole, i, j))

        return _serial("j", const(0), self.m, column)


@solve.rule("compute")
def _(a: te.Tensor, b: te.Tensor) -> Any:
    kind = accumulator_dtype(a.dtype)
    wide = [cast_tensor(tensor, kind) for tensor in (a, b)]
    batch = a.shape[:-2]

    def body(ins: list[Buffer], outs: list[Buffer], *row: Expr) -> Stmt:
        x, det, info, lu = outs
        steps = _Elimination(lu, x, row)
        place = decl_buffer((1,), "int64", "place", scope="local")
        hold = decl_buffer((1,), kind, "hold", scope="local")
        i, j, p, q = (Symbol(name) for name in "ijpq")
        copy_a = loop(i, steps.n, loop(j, steps.n, steps.put(lu, load(ins[0], (*row, i, j)), i, j)))
        copy_b = loop(p, steps.n, loop(q, steps.m, steps.put(x, load(ins[1], (*row, p, q)), p, q)))
        starts = seq(store(det, const(1, kind), row), store(info, const(0, "int32"), row))
        forward = _serial("k", const(0), steps.n, lambda k: steps.step(k, place, hold, det, info))
        backward = _serial("r", const(0), steps.n, steps.back)
        return Allocate(place, Allocate(hold, seq(copy_a, copy_b, starts, forward, backward)))

    shapes = [b.shape, batch, batch, a.shape]
    kinds = [kind, kind, INT32, kind]
    x, det, info, _ = te.extern(shapes, wide, body, kinds, name="solve", rows=batch)
    return cast_tensor(x, a.dtype), cast_tensor(det, a.dtype), info


@solve.rule("numpy")
def _(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
    det = np.linalg.det(a)
    info = np.zeros(a.shape[:-2], np.int32)
    return np.linalg.solve(a, b), np.asarray(det), info


@solve.rule("grad")
def _(
    a: GraphExpr, b: GraphExpr, *, dout: tuple[Any, ...], out: tuple[GraphExpr, ...]
) -> tuple[GraphExpr | None, GraphExpr | None]:
    last = ndim_of(a) - 1
    order = (*range(last - 1), last, last - 1)

    def turned(value: GraphExpr) -> GraphExpr:
        return ops.transpose(value, permutation=order)

    d_x, d_det, _ = dout
    d_b = None if d_x is None else TupleGetItem(ops.solve(turned(a), d_x), 0)
    d_a = None if d_b is None else -ops.matmul(d_b, turned(out[0]))
    if d_det is not None:
        dims = plain_dims(dims_of(a))
        eye = ops.broadcast_to(ops.eye(shape=dims[-2:], dtype=dtype_of(a)), shape=dims)
        scale = ops.unsqueeze(d_det * out[1], axes=(last - 1, last))
        through = scale * TupleGetItem(ops.solve(turned(a), eye), 0)
        d_a = through if d_a is None else d_a + through
    return d_a, d_b


solve.samples(
    case(values([[4.0, 1.0, 0.5], [1.0, 3.0, -1.0], [0.5, -1.0, 5.0]]), floats(3, 2)),
    case(
        values([[[0.0, 2.0], [1.0, 1.0]], [[3.0, 1.0], [2.0, 4.0]]], "float64"),
        floats(2, 2, 3, dtype="float64"),
    ),
    case(values([[2.0]]), floats(1, 1)),
)
