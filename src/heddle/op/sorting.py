# SPDX-License-Identifier: Apache-2.0
"""What puts elements in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

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
    if_then_else,
    logical_and,
    logical_not,
    logical_or,
    maximum,
    minimum,
    select,
)
from heddle.ir.expr import Var as Symbol
from heddle.op.adjoint import full_like
from heddle.op.attribute import Dim
from heddle.op.common import require_ndim
from heddle.op.index import canonical_axis
from heddle.op.registry import operator, ops
from heddle.op.sample import case, floats, ints, values
from heddle.support import UserError
from heddle.tir import intrin
from heddle.tir.build import decl_buffer, load, loop, seq, store
from heddle.tir.nodes import Allocate, Buffer, For, ForKind, IfThenElse, LetStmt, Stmt, While


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
    size, wanted = x.shape[axis], as_int(k)
    line = _Line(size, axis, largest)
    if wanted is not None and wanted <= _FEW and as_int(size) not in range(_FEW + 1, 4 * wanted):
        found = _selected(x, line, wanted)
    else:
        found = _sorted(x, line)
    shape = (*x.shape[:axis], as_expr(k), *x.shape[axis + 1 :])
    zero = const(0)

    def position(*i: Expr) -> Expr:
        # A symbolic size may be less than k: what is not there reads as the first.
        return (
            found[i] if as_int(size) is not None else if_then_else(i[axis] < size, found[i], zero)
        )

    positions = te.compute(shape, position, name="topk_position")

    def element(*i: Expr) -> Expr:
        value = x[(*i[:axis], positions[i], *i[axis + 1 :])]
        if as_int(size) is not None:
            return value
        return if_then_else(size > 0, value, const(0, x.dtype))

    return te.compute(shape, element, name="topk"), positions


_FEW: Final = 64
"""So many of the largest elements are kept in order while the others pass by."""
_RUN: Final = 8
"""So many neighbours are sorted by insertion before runs are merged."""


@dataclass(frozen=True)
class _Line:
    """How elements along an axis of `size` are ordered. `row`: the indices of the other axes."""

    size: Expr
    axis: int
    largest: bool

    def place(self, row: Sequence[Expr], position: Expr) -> tuple[Expr, ...]:
        """The indices of a position of a row."""
        return (*row[: self.axis], position, *row[self.axis :])

    def later(self, data: Buffer, row: Sequence[Expr], first: Expr, second: Expr) -> Expr:
        """Whether the element at `first` comes strictly after that at `second`."""
        a, b = load(data, self.place(row, first)), load(data, self.place(row, second))
        return _greater(b, a) if self.largest else _greater(a, b)


def _selected(x: te.Tensor, line: _Line, count: int) -> te.Tensor:
    """The positions of the first `count` elements in order. Each element is compared with the
    last of those that are kept, and seldom put among them: O(n) steps for a `count` that is small.
    """
    size = line.size
    rows = (*x.shape[: line.axis], *x.shape[line.axis + 1 :])
    shape = (*x.shape[: line.axis], const(count), *x.shape[line.axis + 1 :])

    def body(ins: list[Buffer], outs: list[Buffer], *row: Expr) -> Stmt:
        data, kept = ins[0], outs[0]
        slot, spot, rest = Symbol("k"), Symbol("i"), Symbol("i")
        clear = loop(slot, count, store(kept, const(0), line.place(row, slot)))
        fill = loop(spot, minimum(const(count), size), _insert(line, row, data, kept, spot, spot))
        last = load(kept, line.place(row, const(count - 1)))
        better = line.later(data, row, last, rest)
        take = IfThenElse(better, _insert(line, row, data, kept, rest, const(count - 1)))
        others = maximum(size - count, const(0))
        return seq(clear, fill, For(const(count), others, ForKind.SERIAL, rest, take))

    if not count:
        return te.compute(shape, lambda *i: const(0), name="selected_positions")
    result: te.Tensor = te.extern(shape, [x], body, "int64", name="selected_positions", rows=rows)
    return result


def _insert(
    line: _Line,
    row: Sequence[Expr],
    data: Buffer,
    kept: Buffer,
    position: Expr,
    slot: Expr,
    first: Expr | None = None,
) -> Stmt:
    """Put `position` among those in kept[first:slot], which are in order, behind its equals; what
    comes after it moves on by one, up to `slot`."""
    start = const(0) if first is None else first
    hole = decl_buffer((1,), "int64", "hole", scope="local")
    at = load(hole, const(0))
    before = load(kept, line.place(row, at - 1))
    # Lazy: what lies before the first place was perhaps never written.
    moves = if_then_else(at > start, line.later(data, row, before, position), const(False, BOOL))
    move = seq(store(kept, before, line.place(row, at)), store(hole, at - 1, const(0)))
    put = store(kept, position, line.place(row, at))
    return Allocate(hole, seq(store(hole, slot, const(0)), While(moves, move), put))


def _sorted(x: te.Tensor, line: _Line) -> te.Tensor:
    """The positions along an axis in the order of the elements: a stable merge sort of each row.

    Runs of a few elements are sorted by insertion, and runs are merged in pairs, from one buffer
    into another and back, until one run is all: O(n log n) steps, whatever the data.
    """
    size = line.size
    rows = (*x.shape[: line.axis], *x.shape[line.axis + 1 :])

    def body(ins: list[Buffer], outs: list[Buffer], *row: Expr) -> Stmt:
        data, (here, there) = ins[0], outs
        width = decl_buffer((1,), "int64", "width", scope="local")
        run = load(width, const(0))
        twice = seq(
            _merge(line, row, run, data, here, there),
            _merge(line, row, run * 2, data, there, here),
            store(width, run * 4, const(0)),
        )
        spot = Symbol("i")
        start = _insert(line, row, data, here, spot, spot, spot // _RUN * _RUN)
        passes = seq(store(width, const(_RUN), const(0)), While(run < size, twice))
        return seq(loop(spot, size, start), Allocate(width, passes))

    kinds = ["int64", "int64"]
    both = te.extern([x.shape, x.shape], [x], body, kinds, name="sorted_positions", rows=rows)
    result: te.Tensor = both[0]
    return result


def _merge(
    line: _Line, row: Sequence[Expr], width: Expr, data: Buffer, source: Buffer, target: Buffer
) -> Stmt:
    """Merge the runs of `width` positions of a row of `source` in pairs into `target`; of equals
    that of the left run comes first."""
    size = line.size

    def place(position: Expr) -> tuple[Expr, ...]:
        return line.place(row, position)

    taken = decl_buffer((1,), "int64", "taken", scope="local")
    names = ("low", "middle", "high", "left", "right", "first", "second", "is_left")
    low, middle, high, left, right, first, second = (Symbol(name) for name in names[:-1])
    is_left = Symbol(names[-1], BOOL)
    pair, step = Symbol("pair"), Symbol("t")
    # Whichever run is used up, the load stays within the row; the comparison is not looked at.
    in_left, in_right = minimum(left, middle - 1), minimum(right, size - 1)
    chosen = logical_or(
        right >= high, logical_and(left < middle, logical_not(line.later(data, row, first, second)))
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
    case(ints(2, 40, high=3), k=4),
)


@operator("sort_rows", kind="opaque", dtypes="number")
def sort_rows(x: TensorType) -> TensorType:
    """The positions (int64) of the rows of a matrix in lexicographic order: by the first element,
    among equals by the second, and so on. Of equal rows the first comes first; NaN counts as
    largest."""
    require_ndim(x, "x", 2)
    return TensorType(x.shape[:1], DType.of("int64"))


@sort_rows.rule("compute")
def _(x: te.Tensor) -> te.Tensor:
    """A merge sort like that of `topk`, with a comparison that is a loop: rows are merged in
    pairs of runs of 1, 2, 4, ... from one buffer into another and back."""
    count = x.shape[0]

    def body(ins: list[Buffer], outs: list[Buffer]) -> Stmt:
        data, (here, there) = ins[0], outs
        width = decl_buffer((1,), "int64", "width", scope="local")
        run, spot = load(width, const(0)), Symbol("i")
        twice = seq(
            _merge_rows(data, run, here, there),
            _merge_rows(data, run * 2, there, here),
            store(width, run * 4, const(0)),
        )
        passes = seq(store(width, const(1), const(0)), While(run < count, twice))
        return seq(loop(spot, count, store(here, spot, spot)), Allocate(width, passes))

    shapes = [(count,), (count,)]
    both = te.extern(shapes, [x], body, ["int64", "int64"], name="sorted_rows", rows=())
    result: te.Tensor = both[0]
    return result


def _merge_rows(data: Buffer, width: Expr, source: Buffer, target: Buffer) -> Stmt:
    """Merge the runs of `width` rows of `source` in pairs into `target`."""
    count = data.shape[0]
    taken = decl_buffer((1,), "int64", "taken", scope="local")
    column = decl_buffer((1,), "int64", "column", scope="local")
    names = ("low", "middle", "high", "left", "right", "first", "second")
    low, middle, high, left, right, first, second = (Symbol(name) for name in names)
    is_left, pair, step = Symbol("is_left", BOOL), Symbol("pair"), Symbol("t")
    emit = seq(
        store(target, select(is_left, first, second), low + step),
        store(taken, select(is_left, left + 1 - low, left - low), const(0)),
    )
    choose = seq(
        _first_difference(data, first, second, column),
        LetStmt(
            logical_or(
                right >= high,
                logical_and(
                    left < middle,
                    logical_not(_later_row(data, first, second, load(column, const(0)))),
                ),
            ),
            is_left,
            emit,
        ),
    )
    turn = lets(
        [
            (left, low + load(taken, const(0))),
            (right, middle + step - load(taken, const(0))),
            # Whichever run is used up, the load stays inside; the comparison is not looked at.
            (first, load(source, minimum(left, middle - 1))),
            (second, load(source, minimum(right, count - 1))),
        ],
        choose,
    )
    merged = seq(
        store(taken, const(0), const(0)), For(const(0), high - low, ForKind.SERIAL, step, turn)
    )
    bounds = [
        (low, pair * width * 2),
        (middle, minimum(low + width, count)),
        (high, minimum(low + width * 2, count)),
    ]
    pairs = (count + width * 2 - 1) // (width * 2)
    return Allocate(column, Allocate(taken, loop(pair, pairs, lets(bounds, merged))))


def _first_difference(data: Buffer, first: Expr, second: Expr, column: Buffer) -> Stmt:
    """Put into `column` where two rows differ first; their length, where they are equal."""
    at = load(column, const(0))
    same = load(data, (first, at)).equal(load(data, (second, at)))
    # Lazy: beyond the last element there is nothing to load.
    more = if_then_else(at < data.shape[1], same, const(False, BOOL))
    return seq(store(column, const(0), const(0)), While(more, store(column, at + 1, const(0))))


def _later_row(data: Buffer, first: Expr, second: Expr, column: Expr) -> Expr:
    """Whether row `first` comes strictly after row `second`; they differ at `column` first."""
    after = _greater(load(data, (first, column)), load(data, (second, column)))
    return if_then_else(column < data.shape[1], after, const(False, BOOL))


@sort_rows.rule("numpy")
def _(x: np.ndarray) -> np.ndarray:
    return np.lexsort(x.T[::-1]) if x.shape[1] else np.arange(len(x))


sort_rows.not_differentiable("the result is positions")


sort_rows.samples(
    case(floats(7, 3)),
    case(ints(37, 3, high=3)),
    case(values([[1.0, np.nan], [1.0, 2.0], [np.nan, 0.0], [-np.inf, 1.0]])),
    case(ints(5, 1, high=2, dtype="uint8")),
    case(floats(3, 0)),
    case(floats(0, 3)),
)
