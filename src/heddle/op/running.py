# SPDX-License-Identifier: Apache-2.0
"""Running sums and products along an axis: each is made of the one before, in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
from heddle.ir import TensorType
from heddle.ir.expr import Expr, cast, const, maximum
from heddle.ir.expr import Var as Symbol
from heddle.op.adjoint import positions
from heddle.op.common import accumulator_dtype, cast_tensor, normal_axis
from heddle.op.registry import Op, operator, ops
from heddle.op.sample import case, floats, ints
from heddle.tir.build import for_nest, load, seq, store
from heddle.tir.nodes import Buffer, For, ForKind, IfThenElse, Stmt


def scan(
    name: str,
    doc: str,
    combine: Callable[[Expr, Expr], Expr],
    neutral: int,
    numpy: Any,
    grad: Callable[..., GraphExpr],
) -> Op:
    """Declare a running sum or product along an axis; `grad` takes the gradient of the result, x
    and the attributes."""

    def infer(
        x: TensorType, *, axis: int = 0, exclusive: bool = False, reverse: bool = False
    ) -> TensorType:
        return x

    infer.__doc__ = doc
    op = operator(name, kind="opaque", dtypes="number")(infer)

    @op.rule("normalise")
    def _(x: TensorType, *, axis: int, **_rest: Any) -> dict[str, Any]:
        return {"axis": normal_axis(axis, x.ndim)}

    @op.rule("compute")
    def _(x: te.Tensor, *, axis: int, exclusive: bool, reverse: bool) -> te.Tensor:
        kind = accumulator_dtype(x.dtype)
        size, lead, tail = x.shape[axis], x.shape[:axis], x.shape[axis + 1 :]

        def body(ins: list[Buffer], outs: list[Buffer], *row: Expr) -> Stmt:
            step = Symbol("t")
            inner = [(Symbol(f"j{at}"), dim) for at, dim in enumerate(tail)]
            across = [var for var, _ in inner]

            def place(position: Expr) -> tuple[Expr, ...]:
                return (*row, size - 1 - position if reverse else position, *across)

            before = place(step - 1)
            value = cast(load(ins[0], before if exclusive else place(step)), kind)
            start = const(neutral, kind) if exclusive else cast(load(ins[0], place(const(0))), kind)
            first = for_nest(inner, store(outs[0], start, place(const(0))))
            total = combine(load(outs[0], before), value)
            rest = For(
                const(1),
                maximum(size - 1, const(0)),
                ForKind.SERIAL,
                step,
                for_nest(inner, store(outs[0], total, place(step))),
            )
            return seq(IfThenElse(size > 0, first), rest)

        done: te.Tensor = te.extern(x.shape, [x], body, kind, name=name, rows=lead)
        return cast_tensor(done, x.dtype)

    @op.rule("numpy")
    def _(x: np.ndarray, *, axis: int, exclusive: bool, reverse: bool) -> np.ndarray:
        ordered = np.flip(x, axis) if reverse else x
        if exclusive and x.shape[axis]:
            first = np.full_like(np.take(ordered, [0], axis), neutral)
            kept = np.take(ordered, range(x.shape[axis] - 1), axis)
            ordered = np.concatenate([first, kept], axis)
        total: np.ndarray = numpy(ordered, axis=axis, dtype=x.dtype)
        return np.flip(total, axis) if reverse else total

    op.rule("grad")(lambda x, *, dout, out, **attrs: grad(dout, x, **attrs))
    op.samples(
        case(floats(3, 4), axis=1),
        case(floats(2, 3, 2), axis=1, exclusive=True, reverse=True),
        case(ints(3, 4), axis=0, exclusive=True),
        case(ints(3, 4), axis=-1, reverse=True),
        case(ints(3, 4), axis=-1, exclusive=True, reverse=True),
        case(floats(0, 3), axis=0, exclusive=True),
    )
    return op


def _cumsum_grad(
    d: GraphExpr, x: GraphExpr, axis: int, exclusive: bool, reverse: bool
) -> GraphExpr:
    return ops.cumsum(d, axis=axis, exclusive=exclusive, reverse=not reverse)


def _cumprod_grad(
    d: GraphExpr, x: GraphExpr, axis: int, exclusive: bool, reverse: bool
) -> GraphExpr:
    """Result j is the product over k of x[k] where j counts k, else of 1: the gradient of that
    product, so that an x of zero is no exception."""
    line = ops.unsqueeze(x, axes=(axis + 1,))
    j = positions(line, axis, "int64")
    k = ops.unsqueeze(positions(x, axis, "int64"), axes=(axis,))
    low, high = (j, k) if reverse else (k, j)
    counted = ops.less(low, high) if exclusive else ops.less_equal(low, high)
    table = ops.where(counted, ops.unsqueeze(x, axes=(axis,)), 1.0)
    before = ops.cumprod(table, axis=axis + 1, exclusive=True)
    after = ops.cumprod(table, axis=axis + 1, exclusive=True, reverse=True)
    others = ops.where(counted, before * after, 0.0)
    return ops.sum(ops.unsqueeze(d, axes=(axis + 1,)) * others, axes=(axis,))


cumsum = scan(
    "cumsum",
    "Running sums along an axis; `exclusive` leaves the element itself out, `reverse` runs from\n"
    "the end.",
    lambda a, b: a + b,
    0,
    np.cumsum,
    _cumsum_grad,
)
cumprod = scan(
    "cumprod",
    "Running products along an axis; see `cumsum`.",
    lambda a, b: a * b,
    1,
    np.cumprod,
    _cumprod_grad,
)
