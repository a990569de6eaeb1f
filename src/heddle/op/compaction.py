# SPDX-License-Identifier: Apache-2.0
"""Operators that pick out elements: how many is known at run time only.

They give tensors of the largest size and a count; `graph.BindDim` makes a dimension of the count,
and `prefix` takes out the elements that there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from heddle import te
from heddle.ir import TensorType
from heddle.ir.dtype import BOOL, INT64
from heddle.ir.expr import (
    Expr,
    all_of,
    const,
    if_then_else,
    logical_and,
    maximum,
    minimum,
)
from heddle.ir.expr import Var as Symbol
from heddle.op.common import product, require_ndim, require_same_dtype, require_shape
from heddle.op.registry import operator
from heddle.op.sample import bools, case, floats, ints
from heddle.tir.build import for_nest, load, seq, store
from heddle.tir.nodes import Buffer, IfThenElse, Stmt


@operator("nonzero", kind="opaque")
def nonzero(x: TensorType) -> tuple[TensorType, TensorType]:
    """The positions of the elements that are not zero, and their number.

    positions: (x.ndim, size of x) of int64, a column for each element, in row-major order; columns
    beyond the number, an int64 scalar, are zero.
    """
    return TensorType((const(x.ndim), product(x.shape)), INT64), TensorType((), INT64)


@nonzero.rule("compute")
def _(x: te.Tensor) -> Any:
    rank = len(x.shape)
    size = product(x.shape)

    def body(ins: list[Buffer], outs: list[Buffer]) -> Stmt:
        positions, count = outs
        loops = [(Symbol(f"i{axis}"), dim) for axis, dim in enumerate(x.shape)]
        here = [var for var, _ in loops]
        found = load(count, ())
        column = [store(positions, var, (const(axis), found)) for axis, var in enumerate(here)]
        note = seq(*column, store(count, found + 1, ()))
        column_number = Symbol("k")
        row = Symbol("r")
        clear = for_nest(
            [(row, const(rank)), (column_number, size)],
            store(positions, const(0), (row, column_number)),
        )
        start = store(count, const(0), ())
        test = load(ins[0], here)
        wanted = test if x.dtype.is_bool else test.not_equal(const(0, x.dtype))
        return seq(clear, start, for_nest(loops, IfThenElse(wanted, note)))

    shapes = [(const(rank), size), ()]
    return te.extern(shapes, [x], body, ["int64", "int64"], name="nonzero")


@nonzero.rule("numpy")
def _(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = np.stack(np.nonzero(x)) if x.ndim else np.zeros((0, int(x != 0)), np.int64)
    positions = np.zeros((x.ndim, x.size), np.int64)
    positions[:, : found.shape[1]] = found
    return positions, np.asarray(found.shape[1], np.int64)


nonzero.not_differentiable("the result is positions")


nonzero.samples(
    case(bools(3, 4)),
    case(ints(5, low=-1, high=2)),
    case(floats(2, 0)),
)


_CLASSES = {
    "boxes": "float",
    "order": "index",
    "scores": "float",
    "limits": "float",
    "most": "index",
}


@operator("suppress_overlaps", kind="opaque", dtypes=_CLASSES)
def suppress_overlaps(
    boxes: TensorType,
    order: TensorType,
    scores: TensorType,
    limits: TensorType,
    most: TensorType,
    *,
    centered: bool = False,
) -> TensorType:
    """Which boxes greedy non-maximum suppression keeps, from the best of each class on.

    boxes: (batch, n, 4), as two corners (y, x) or, `centered`, as centre and size (x, y, w, h).
    order: (batch, classes, n) of int64, positions of boxes by falling score; scores: theirs, in
    that order. limits: (2,), the overlap (intersection over union) from which on a box goes, and
    the score that it must exceed. most: the number of boxes kept of a class, an int64 scalar.
    Returns (batch, classes, n) bool, in that order.
    """
    require_ndim(boxes, "boxes", 3)
    require_same_dtype(boxes, scores)
    require_shape(scores, "scores", order.shape)
    return TensorType(order.shape, BOOL)


def _corners(box: Sequence[Expr], centered: bool) -> tuple[Expr, Expr, Expr, Expr]:
    if not centered:
        a, b, c, d = box
        return minimum(a, c), minimum(b, d), maximum(a, c), maximum(b, d)
    x, y, w, h = box
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


@suppress_overlaps.rule("compute")
def _(
    boxes: te.Tensor,
    order: te.Tensor,
    scores: te.Tensor,
    limits: te.Tensor,
    most: te.Tensor,
    *,
    centered: bool,
) -> te.Tensor:
    batch, classes, count = order.shape

    def body(ins: list[Buffer], outs: list[Buffer]) -> Stmt:
        where, rank, score, limit, _most = ins
        kept = outs[0]
        b, c, i, j = (Symbol(name) for name in "bcij")

        def corners(position: Expr) -> tuple[Expr, Expr, Expr, Expr]:
            at = load(rank, (b, c, position))
            inside = maximum(minimum(at, count - 1), const(0))
            return _corners([load(where, (b, inside, const(k))) for k in range(4)], centered)

        y0, x0, y1, x1 = corners(i)
        v0, u0, v1, u1 = corners(j)
        zero = const(0.0, boxes.dtype)
        height = maximum(minimum(y1, v1) - maximum(y0, v0), zero)
        width = maximum(minimum(x1, u1) - maximum(x0, u0), zero)
        both = height * width
        area = (y1 - y0) * (x1 - x0) + (v1 - v0) * (u1 - u0) - both
        overlap = logical_and(both > load(limit, (const(0),)) * area, area > zero)
        here = load(kept, (b, c, i))
        drop = IfThenElse(
            all_of(load(kept, (b, c, j)), here, overlap), store(kept, const(False, BOOL), (b, c, i))
        )
        worth = load(score, (b, c, i)) > load(limit, (const(1),))
        first = store(kept, worth, (b, c, i))
        earlier = for_nest([(j, i)], drop)
        loops = [(b, batch), (c, classes)]
        return for_nest(loops, for_nest([(i, count)], seq(first, earlier)))

    chosen: te.Tensor = te.extern(
        order.shape, [boxes, order, scores, limits, most], body, "bool", name="suppress"
    )
    step = te.reduce_axis(count, "t")
    number = te.compute(
        order.shape,
        lambda b, c, i: te.sum(
            if_then_else(logical_and(step.var < i, chosen[b, c, step.var]), const(1), const(0)),
            axis=[step],
        ),
        name="suppress_number",
    )
    return te.compute(
        order.shape,
        lambda b, c, i: logical_and(chosen[b, c, i], number[b, c, i] < most[()]),
        name="suppress_overlaps",
    )


@suppress_overlaps.rule("numpy")
def _(
    boxes: np.ndarray,
    order: np.ndarray,
    scores: np.ndarray,
    limits: np.ndarray,
    most: np.ndarray,
    *,
    centered: bool,
) -> np.ndarray:
    kept = np.zeros(order.shape, bool)
    half = boxes[..., 2:] / 2
    first, second = boxes[..., :2], boxes[..., 2:]
    low = first - half if centered else np.minimum(first, second)
    high = first + half if centered else np.maximum(first, second)
    size = (high - low).prod(axis=-1)
    for b, c in np.ndindex(order.shape[:2]):
        chosen: list[int] = []
        for i, at in enumerate(order[b, c]):
            if not scores[b, c, i] > limits[1]:
                continue
            sides = np.minimum(high[b, at], high[b, chosen]) - np.maximum(
                low[b, at], low[b, chosen]
            )
            both = np.maximum(sides, 0).prod(axis=-1)
            area = size[b, at] + size[b, chosen] - both
            if not np.any((both > limits[0] * area) & (area > 0)):
                kept[b, c, i] = len(chosen) < int(most)
                chosen.append(int(at))
    return kept


suppress_overlaps.not_differentiable("the result is truth values")


suppress_overlaps.samples(
    case(
        floats(1, 4, 4, low=0, high=1),
        ints(1, 2, 4, high=3),
        floats(1, 2, 4),
        floats(2, low=0, high=0.4),
        ints(low=1, high=4),
    ),
    case(
        floats(2, 5, 4, low=0.1, high=1),
        ints(2, 1, 5, high=4),
        floats(2, 1, 5),
        floats(2, low=0, high=0.2),
        ints(low=1, high=2),
        centered=True,
    ),
)
