# SPDX-License-Identifier: Apache-2.0
"""Operators that pick out elements, how many being known at run time only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from heddle.frontend.onnx.node import Node, normal_axis, rank, shape
from heddle.frontend.onnx.ops.axes import axes_of
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.sizes import dimension_as_scalar, scalar
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


def run_time_slice(node: Node, x: GraphExpr) -> GraphExpr:
    """A slice of which something is computed: the elements are gathered, axis by axis."""
    ends = [node.cast(node.tensor(at), "int64") for at in (1, 2)]
    late_axes = node.has(3) and not isinstance(node.value(3), Constant)
    late_steps = node.has(4) and not isinstance(node.value(4), Constant)
    if late_axes:
        axes = axes_of(node, node.value(3), rank(x))
        first, last = axes.spread(node, ends[0], 0), axes.spread(node, ends[1], _FAR)
        if node.has(4):
            steps: Sequence[Any] = axes.spread(node, node.tensor(4), 1)
        else:
            steps = (1,) * rank(x)
        for axis, cut in enumerate(zip(first, last, steps, strict=True)):
            x = _gathered(node, x, axis, *cut)
        return x
    count = node.static_shape(ends[0], "starts")[0]
    known = node.ints(3, "axes") if node.has(3) else range(count)
    steps = (1,) * count
    if late_steps:
        steps = [scalar(node, node.value(4), at) for at in range(count)]
    elif node.has(4):
        steps = node.ints(4, "steps")
    for at, (axis, step) in enumerate(zip(known, steps, strict=True)):
        start, end = (scalar(node, side, at) for side in ends)
        x = _gathered(node, x, normal_axis(axis, rank(x)), start, end, step)
    return x


_FAR: Final = 1 << 60


def _gathered(
    node: Node, x: GraphExpr, axis: int, start: GraphExpr, end: GraphExpr, step: int | GraphExpr
) -> GraphExpr:
    """Every step-th row from start on. A step of 0 makes -1 rows, which is an error."""
    dim = shape(x)[axis]
    if dim == 0:  # there is nothing to gather from
        return x
    size = dimension_as_scalar(node, dim)
    if isinstance(step, int):
        if step == 0:
            raise UserError("a step is 0")
        step = _whole(max(-_FAR, min(step, _FAR)))
    else:
        step = node.op.minimum(node.op.maximum(step, _whole(-_FAR)), _whole(_FAR))
    back = node.op.less(step, _whole(0))
    low = node.op.where(back, _whole(-1), _whole(0))

    def clamp(value: GraphExpr, least: GraphExpr) -> GraphExpr:
        """From the front; in [least, size] forwards, [least, size - 1] backwards."""
        negative = node.op.less(value, _whole(0))
        front = node.op.where(negative, node.op.add(value, size), value)
        return node.op.minimum(node.op.maximum(front, least), node.op.add(size, low))  # type: ignore[no-any-return]

    first, last = clamp(start, _whole(0)), clamp(end, low)
    span = node.op.sub(last, first)
    span = node.op.where(back, node.op.negative(span), span)
    stride = node.op.maximum(node.op.abs(step), _whole(1))
    rounded = node.op.div(node.op.add(span, node.op.sub(stride, _whole(1))), stride)
    length = node.op.maximum(rounded, _whole(0))
    length = node.op.where(node.op.equal(step, _whole(0)), _whole(-1), length)
    count = node.bind_dim(length, as_expr(dim))
    steps = node.op.mul(node.op.range(count=count, dtype="int64"), step)
    return node.op.gather(x, node.op.add(steps, first), axis=axis)  # type: ignore[no-any-return]


def _whole(value: int) -> Constant:
    return Constant(np.asarray(value, np.int64))


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
