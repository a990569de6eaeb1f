# SPDX-License-Identifier: Apache-2.0
"""Operators that pick out elements, how many being known at run time only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from heddle.frontend.onnx.node import Node, normal_axis, rank, shape
from heddle.frontend.onnx.registry import converts
from heddle.graph import Constant, GraphExpr
from heddle.ir.expr import Expr, as_expr
from heddle.support import UserError


def positions_of(node: Node, x: GraphExpr) -> tuple[GraphExpr, Expr]:
    """The positions of the elements of x that are not zero, a column each, and their number."""
    room: Any = as_expr(1)
    for dim in shape(x):
        room = room * dim
    found, count = node.op.nonzero(x)
    size = node.bind_dim(count, room)
    return node.op.prefix(found, shape=(rank(x), size)), size


@converts("NonZero")
def _non_zero(node: Node) -> Any:
    if isinstance(node.value(0), Constant):
        return Constant(np.asarray(np.nonzero(node.constant(0, "X")), dtype=np.int64))
    return positions_of(node, node.tensor(0))[0]


@converts("Compress")
def _compress(node: Node) -> Any:
    x = node.tensor(0)
    axis = node.attr.int("axis", None)
    if axis is None:
        x, axis = node.reshape(x, (-1,)), 0
    axis = normal_axis(axis, rank(x))
    if isinstance(node.value(1), Constant):
        return node.op.gather(x, np.flatnonzero(node.constant(1, "condition")), axis=axis)
    where, size = positions_of(node, node.tensor(1))
    return node.op.gather(x, node.reshape(where, (size,)), axis=axis)


def topk_of(node: Node, x: GraphExpr, k: GraphExpr, axis: int, largest: bool) -> Any:
    """The k first elements of x in order along an axis, for a k that is computed."""
    axis = normal_axis(axis, rank(x))
    dims = list(shape(x))
    size = node.bind_dim(node.reshape(node.cast(k, "int64"), ()), as_expr(dims[axis]))
    found = node.op.topk(x, k=dims[axis], axis=axis, largest=largest)
    dims[axis] = size
    return tuple(node.op.prefix(item, shape=tuple(dims)) for item in found)


def run_time_slice(
    node: Node, x: GraphExpr, axes: Sequence[int] | None, steps: Sequence[int] | None
) -> GraphExpr:
    """A slice whose ends are computed: the elements are gathered, axis by axis."""
    starts, ends = (node.cast(node.tensor(at), "int64") for at in (1, 2))
    count = node.static_shape(starts, "starts")[0]
    axes = range(count) if axes is None else axes
    steps = (1,) * count if steps is None else steps
    for at, (axis, step) in enumerate(zip(axes, steps, strict=True)):
        if step == 0:
            raise UserError("a step is 0")
        axis = normal_axis(axis, rank(x))
        start, end = (
            node.reshape(node.op.slice(item, starts=(at,), ends=(at + 1,), axes=(0,)), ())
            for item in (starts, ends)
        )
        x = _gathered(node, x, axis, start, end, step)
    return x


def _gathered(
    node: Node, x: GraphExpr, axis: int, start: GraphExpr, end: GraphExpr, step: int
) -> GraphExpr:
    dim = shape(x)[axis]
    whole = node.op.slice(node.op.shape_of(x), starts=(axis,), ends=(axis + 1,), axes=(0,))
    size = node.reshape(whole, ())

    def clamp(value: GraphExpr, low: int, high: int) -> GraphExpr:
        """From the front; in [low, size + high]."""
        zero = Constant(np.asarray(0))
        front = node.op.where(node.op.less(value, zero), node.op.add(value, size), value)
        most = node.op.add(size, Constant(np.asarray(high)))
        return node.op.minimum(node.op.maximum(front, Constant(np.asarray(low))), most)

    forward = step > 0
    first = clamp(start, 0, 0 if forward else -1)
    last = clamp(end, 0, 0) if forward else clamp(end, -1, -1)
    span = node.op.sub(last, first) if step > 0 else node.op.sub(first, last)
    stride = Constant(np.asarray(abs(step)))
    rounded = node.op.div(node.op.add(span, Constant(np.asarray(abs(step) - 1))), stride)
    length = node.op.maximum(rounded, Constant(np.asarray(0)))
    count = node.bind_dim(length, as_expr(dim))
    steps = node.op.range(count=count, step=step, dtype="int64")
    return node.op.gather(x, node.op.add(steps, first), axis=axis)  # type: ignore[no-any-return]


@converts("NonMaxSuppression")
def _non_max_suppression(node: Node) -> Any:
    """Boxes in order of score, kept or not; what is kept becomes rows (batch, class, box)."""
    boxes, scores = node.tensor(0), node.tensor(1)
    count = shape(scores)[2]
    sorted_scores, order = node.op.topk(scores, k=count, axis=2, largest=True)
    most = _number(node, 2, "int64", 0)
    limits = node.op.concat(
        *(
            node.reshape(_number(node, at, "float32", default), (1,))
            for at, default in ((3, 0.0), (4, -np.inf))
        ),
        axis=0,
    )
    kept = node.op.suppress_overlaps(
        boxes, order, sorted_scores, limits, most, centered=node.attr.flag("center_point_box")
    )
    where, size = positions_of(node, kept)
    rows = node.op.transpose(where, permutation=(1, 0))
    box = node.op.gather_nd(order, rows)
    head = node.op.slice(rows, starts=(0,), ends=(2,), axes=(1,))
    return node.op.concat(head, node.reshape(box, (size, 1)), axis=1)


def _number(node: Node, position: int, kind: str, default: float) -> GraphExpr:
    if not node.has(position):
        return Constant(np.asarray(default, kind))
    value = node.cast(node.tensor(position), kind)
    return node.reshape(value, ()) if rank(value) else value
