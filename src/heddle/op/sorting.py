# SPDX-License-Identifier: Apache-2.0
"""What puts elements in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
from heddle.ir import DType, TensorType
from heddle.ir.dtype import BOOL
from heddle.ir.expr import (
    Expr,
    as_expr,
    as_int,
    const,
    logical_and,
    logical_not,
    logical_or,
    minimum,
    select,
)
from heddle.ir.expr import Var as Symbol
from heddle.op.adjoint import full_like
from heddle.op.attribute import Dim
from heddle.op.index import canonical_axis
from heddle.op.registry import operator, ops
from heddle.op.sample import case, floats, ints, values
from heddle.support import UserError
from heddle.tir import intrin
from heddle.tir.build import decl_buffer, for_nest, load, loop, seq, store
from heddle.tir.nodes import Allocate, Buffer, For, ForKind, LetStmt, Stmt, While


@operator("topk", kind="opaque", dtypes="number")
def topk(
    x: TensorType, *, k: Dim, axis: int = -1, largest: bool = True
) -> tuple[TensorType, TensorType]:
    """The k largest (or smallest) elements along an axis in order, and their positions (int64).
    Of equals the first comes first; NaN counts as largest. O(n log n) steps for n elements."""
    wanted, size = as_int(k), as_int(x.shape[axis])
    if wanted is not None and (wanted < 0 or (size is not None and wanted > size)):
        raise UserError(f"k is {wanted}, but axis {axis} has {size} elements")
    shape = (*x.shape[:axis], as_expr(k), *x.shape[axis + 1 :])
    return TensorType(shape, x.dtype), TensorType(shape, DType.of("int64"))


topk.rule("normalise")(canonical_axis)


def _greater(a: Expr, b: Expr) -> Expr:
    if not a.dtype.is_float:
        return a > b
    nan_first = logical_and(intrin.isnan(a), logical_not(intrin.isnan(b)))
    return logical_or(a > b, nan_first)


@topk.rule("compute")
def _(x: te.Tensor, *, k: Dim, axis: int, largest: bool) -> tuple[te.Tensor, te.Tensor]:
    sorted_positions = _sorted_positions(x, axis, largest)
    shape = (*x.shape[:axis], as_expr(k), *x.shape[axis + 1 :])
    positions = te.compute(shape, lambda *i: sorted_positions[i], name="topk_position")
    chosen = te.compute(shape, lambda *i: x[(*i[:axis], positions[i], *i[axis + 1 :])], name="topk")
    return chosen, positions


def _sorted_positions(x: te.Tensor, axis: int, largest: bool) -> te.Tensor:
    """The positions along an axis in the order of the elements: a stable merge sort of each row.

    Runs of `width` elements are merged in pairs, from one buffer into another and back, until one
    run is all: O(n log n) steps, whatever the data.
    """
    size = x.shape[axis]
    rows = (*x.shape[:axis], *x.shape[axis + 1 :])

    def body(ins: list[Buffer], outs: list[Buffer], *row: Expr) -> Stmt:
        data, (here, there) = ins[0], outs
        width = decl_buffer((1,), "int64", "width", scope="local")

        def place(position: Expr) -> tuple[Expr, ...]:
            return (*row[:axis], position, *row[axis:])

        def later(first: Expr, second: Expr) -> Expr:
            """Whether the element at `first` comes strictly after that at `second`."""
            a, b = load(data, place(first)), load(data, place(second))
            return _greater(b, a) if largest else _greater(a, b)

        def merge(source: Buffer, target: Buffer, run: Expr) -> Stmt:
            return _merge(size, run, place, later, source, target)

        spot = Symbol("i")
        start = for_nest([(spot, size)], store(here, spot, place(spot)))
        run = load(width, const(0))
        twice = seq(
            merge(here, there, run),
            merge(there, here, run * 2),
            store(width, run * 4, const(0)),
        )
        passes = seq(store(width, const(1), const(0)), While(run < size, twice))
        return seq(start, Allocate(width, passes))

    kinds = ["int64", "int64"]
    both = te.extern([x.shape, x.shape], [x], body, kinds, name="sorted_positions", rows=rows)
    result: te.Tensor = both[0]
    return result


def _merge(
    size: Expr,
    width: Expr,
    place: Callable[[Expr], tuple[Expr, ...]],
    later: Callable[[Expr, Expr], Expr],
    source: Buffer,
    target: Buffer,
) -> Stmt:
    """Merge the runs of `width` positions of a row of `source` in pairs into `target`; of equals
    that of the left run comes first. `place`: the indices of a position of the row."""
    taken = decl_buffer((1,), "int64", "taken", scope="local")
    names = ("low", "middle", "high", "left", "right", "first", "second", "is_left")
    low, middle, high, left, right, first, second = (Symbol(name) for name in names[:-1])
    is_left = Symbol(names[-1], BOOL)
    pair, step = Symbol("pair"), Symbol("t")
    # Whichever run is used up, the load stays within the row; the comparison is not looked at.
    in_left, in_right = minimum(left, middle - 1), minimum(right, size - 1)
    chosen = logical_or(
        right >= high, logical_and(left < middle, logical_not(later(first, second)))
    )
    emit = seq(
        store(target, select(is_left, first, second), place(low + step)),
        store(taken, select(is_left, left + 1 - low, left - low), const(0)),
    )
    turn = lets(
        [
            (left, low + load(taken, const(0))),
            (right, middle + step - load(taken, const(0))),
            (first, load(source, place(in_left))),
            (second, load(source, place(in_right))),
            (is_left, chosen),
        ],
        emit,
    )
    merged = seq(
        store(taken, const(0), const(0)), For(const(0), high - low, ForKind.SERIAL, step, turn)
    )
    bounds = [
        (low, pair * width * 2),
        (middle, minimum(low + width, size)),
        (high, minimum(low + width * 2, size)),
    ]
    pairs = (size + width * 2 - 1) // (width * 2)
    return Allocate(taken, loop(pair, pairs, lets(bounds, merged)))


def lets(values: Sequence[tuple[Symbol, Expr]], body: Stmt) -> Stmt:
    """`body` with variables that are computed once, the first outermost."""
    for var, value in reversed(values):
        body = LetStmt(value, var, body)
    return body


@topk.rule("numpy")
def _(x: np.ndarray, *, k: int, axis: int, largest: bool) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(np.flip(x, axis) if largest else x, axis=axis, kind="stable")
    if largest:  # flipped twice: descending, and of equals the first comes first
        order = x.shape[axis] - 1 - np.flip(order, axis)
    order = np.take(order, np.arange(k), axis=axis)
    return np.take_along_axis(x, order, axis), order


@topk.rule("grad")
def _(
    x: GraphExpr, *, dout: Sequence[GraphExpr], out: Sequence[GraphExpr], axis: int, **_attrs: Any
) -> GraphExpr:
    return ops.scatter_elements(full_like(x, 0.0), out[1], dout[0], axis=axis, reduction="add")


topk.samples(
    case(floats(3, 6), k=2),
    case(ints(5, 3, high=3), k=4, axis=0, largest=False),
    case(ints(2, 6, high=2), k=3),
    case(values([1.0, np.nan, np.inf, -np.inf, 1.0]), k=4),
    case(ints(2, 37, 2, high=9), k=37, axis=1),
    case(floats(3, 64, dtype="float16"), k=64, largest=False),
    case(floats(2, 0), k=0),
)
