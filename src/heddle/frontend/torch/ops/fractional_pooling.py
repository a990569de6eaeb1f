# SPDX-License-Identifier: Apache-2.0
"""Largest elements of windows whose places are drawn.

B. Graham, "Fractional Max-Pooling", arXiv:1412.6071, 2014.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from heddle.frontend.torch.node import Node, dtype, shape
from heddle.frontend.torch.registry import converts
from heddle.frontend.torch.report import Unsupported
from heddle.graph import GraphExpr
from heddle.ir.expr import Expr


def _starts(node: Node, sample: GraphExpr, size: int, count: int, taps: int) -> GraphExpr:
    """Where the `count` windows of `taps` elements start: floor((i + u) a) - floor(u a) with
    a = (size - taps) / (count - 1), the last at the end. sample: u of each plane, [planes, 1]."""
    last = node.full((shape(sample)[0], 1), size - taps, dtype(node.tensor(0)))
    if count == 1:
        return last
    pace = node.scalar((size - taps) / (count - 1), sample)
    step = node.op.range(count=count - 1, dtype=dtype(sample))

    def floor(value: GraphExpr) -> GraphExpr:
        return node.cast(node.op.mul(value, pace), "int64")

    first = node.op.sub(floor(node.op.add(step, sample)), floor(sample))
    return node.op.concat(first, last, axis=1)  # type: ignore[no-any-return]


def _places(
    node: Node, samples: GraphExpr, sizes: Sequence[int], counts: Sequence[int], taps: Sequence[int]
) -> GraphExpr:
    """The position in its plane of each element of each window: [planes, windows, taps]."""
    axes = len(sizes)
    planes = shape(samples)[0]
    at: GraphExpr = node.tensor(0)
    for axis in range(axes):
        # In a plane of rows and columns, the first number is that of the columns.
        column = axes - 1 - axis if axes == 2 else axis
        sample = node.op.slice(samples, starts=(column,), ends=(column + 1,), axes=(1,))
        start = _starts(node, sample, sizes[axis], counts[axis], taps[axis])
        start = node.op.unsqueeze(start, axes=(2,))
        place = node.op.add(start, node.op.range(count=taps[axis], dtype="int64"))
        dims: list[Any] = [planes] + [1] * (2 * axes)
        dims[1 + axis], dims[1 + axes + axis] = counts[axis], taps[axis]
        place = node.op.reshape(place, shape=tuple(dims))
        at = place if axis == 0 else node.op.add(node.op.mul(at, sizes[axis]), place)
    return node.reshape(at, (planes, math.prod(counts), math.prod(taps)))


@converts("aten.fractional_max_pool2d.default", "aten.fractional_max_pool3d.default")
def _fractional_max_pool(
    node: Node, x: GraphExpr, kernel_size: Any, output_size: Any, random_samples: GraphExpr
) -> Any:
    axes = 2 if "pool2d" in node.target else 3
    lead, sizes = shape(x)[:-axes], shape(x)[-axes:]
    if any(isinstance(size, Expr) for size in sizes):
        raise Unsupported("a fractional pooling of a symbolic size")
    planes = math.prod(lead)
    samples = node.reshape(node.cast(random_samples, dtype(x)), (planes, axes))
    places = _places(node, samples, sizes, output_size, kernel_size)  # type: ignore[arg-type]
    count, taps = math.prod(output_size), math.prod(kernel_size)
    flat = node.reshape(x, (planes, math.prod(sizes)))
    listed = node.reshape(places, (planes, count * taps))
    windows = node.op.gather_elements(flat, listed, axis=1)
    windows = node.reshape(windows, (planes, count, taps))
    value = node.reshape(node.op.max(windows, axes=(2,)), node.shape)
    if not node.uses(1):
        return value, None
    winner = node.op.argmax(windows, axis=2, keepdims=True)
    return value, node.reshape(node.op.gather_elements(places, winner, axis=2), node.shape)


@converts(
    "aten.fractional_max_pool2d_backward.default", "aten.fractional_max_pool3d_backward.default"
)
def _fractional_max_pool_backward(
    node: Node,
    grad: GraphExpr,
    x: GraphExpr,
    kernel_size: Any,
    output_size: Any,
    indices: GraphExpr,
) -> Any:
    axes = 2 if "pool2d" in node.target else 3
    planes, count = math.prod(shape(x)[:-axes]), math.prod(output_size)
    start = node.full((planes, math.prod(shape(x)[-axes:])), 0, dtype(grad))
    places, given = (node.reshape(v, (planes, count)) for v in (indices, grad))
    flat = node.op.scatter_elements(start, places, given, axis=1, reduction="add")
    return node.reshape(flat, node.shape)
