# SPDX-License-Identifier: Apache-2.0
"""Poolings, with their gradients, which torch keeps as operators of their own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from heddle import op
from heddle.frontend.torch.node import Node, dtype, rank, shape
from heddle.frontend.torch.ops.convolution import per_axis
from heddle.frontend.torch.registry import converts
from heddle.frontend.torch.report import Unsupported
from heddle.graph import Constant, GraphExpr
from heddle.ir.expr import Expr


def _window(
    count: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> dict[str, Any]:
    sizes = per_axis(kernel, count)
    steps = per_axis(stride, count) if _given(stride) else sizes
    return {
        "kernel": sizes,
        "strides": steps,
        "pads": per_axis(padding, count) * 2,
        "dilations": per_axis(dilation, count),
        "ceil_mode": ceil_mode,
    }


def _given(stride: Any) -> bool:
    return isinstance(stride, int) or (stride is not None and len(stride) > 0)


def _within(x: GraphExpr, window: dict[str, Any]) -> dict[str, Any]:
    """The window cut to the padded input: with ceil_mode torch lets one reach beyond it."""
    if not window["ceil_mode"]:
        return window
    sizes = shape(x)[2:]
    kernel = tuple(
        min(taps, size + 2 * pad) if isinstance(size, int) and dilation == 1 else taps
        for taps, size, pad, dilation in zip(
            window["kernel"], sizes, window["pads"], window["dilations"], strict=False
        )
    )
    return {**window, "kernel": kernel}


def _batched(node: Node, x: GraphExpr, count: int) -> GraphExpr:
    """x with a batch axis, which torch lets one leave out."""
    return x if rank(x) == count + 2 else node.op.unsqueeze(x, axes=(0,))


@converts(
    "aten.max_pool2d_with_indices.default",
    "aten.max_pool3d_with_indices.default",
    "aten.max_pool1d_with_indices.default",
    "aten.max_pool1d.default",
    "aten.max_pool2d.default",
    "aten.max_pool3d.default",
)
def _max_pool(
    node: Node,
    x: GraphExpr,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Any:
    count = _spatial(node.target)
    window = _window(count, kernel_size, stride, padding, dilation, ceil_mode)
    batched = _batched(node, x, count)
    window = _within(batched, window)
    value = node.reshape(node.op.max_pool(batched, **window), node.shape)
    if "indices" not in node.target:
        return value
    if not node.uses(1):
        return value, None
    return value, node.reshape(_positions(node, batched, window), node.shape)


def _spatial(target: str) -> int:
    return int(target[target.index("pool") + 4])


def _positions(node: Node, x: GraphExpr, window: dict[str, Any]) -> GraphExpr:
    """Where in its plane each window's largest element is, counted in row-major order."""
    count = len(window["kernel"])
    taps = math.prod(window["kernel"])
    wide = node.cast(x, "float64") if dtype(x).is_int else x
    windows = node.op.unfold(wide, value=-math.inf, **window)
    spots = shape(windows)[2 : 2 + count]
    flat = node.reshape(windows, (*shape(windows)[: 2 + count], taps))
    winner = node.op.argmax(flat, axis=2 + count)
    at: GraphExpr = node.tensor(0)
    for axis in range(count):
        tail = window["kernel"][axis + 1 :]
        tap = node.op.div(winner, math.prod(tail)) if tail else winner
        tap = node.op.floor_mod(tap, window["kernel"][axis])
        start = node.op.range(
            count=spots[axis],
            start=-window["pads"][axis],
            step=window["strides"][axis],
            dtype="int64",
        )
        later = count - 1 - axis
        start = node.op.unsqueeze(start, axes=tuple(range(1, 1 + later))) if later else start
        place = node.op.add(node.op.mul(tap, window["dilations"][axis]), start)
        size = node.tensor(shape(x)[2 + axis])
        at = place if axis == 0 else node.op.add(node.op.mul(at, size), place)
    return at


@converts(
    "aten.max_pool2d_with_indices_backward.default",
    "aten.max_pool3d_with_indices_backward.default",
)
def _max_pool_backward(
    node: Node,
    grad: GraphExpr,
    x: GraphExpr,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    indices: GraphExpr,
) -> Any:
    count = _spatial(node.target)
    lead = math.prod(shape(x)[:-count])
    plane = math.prod(shape(x)[-count:])
    spots = math.prod(shape(grad)[-count:])
    start = node.full((lead, plane), 0, dtype(grad))
    flat = node.op.scatter_elements(
        start,
        node.reshape(indices, (lead, spots)),
        node.reshape(grad, (lead, spots)),
        axis=1,
        reduction="add",
    )
    return node.reshape(flat, node.shape)


@converts("aten.avg_pool1d.default", "aten.avg_pool2d.default", "aten.avg_pool3d.default")
def _avg_pool(
    node: Node,
    x: GraphExpr,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    count = _spatial(node.target)
    window = _window(count, kernel_size, stride, padding, 1, ceil_mode)
    if divisor_override is not None:
        return _summed(node, x, window, divisor_override)
    batched = _batched(node, x, count)
    pooled = node.op.avg_pool(
        batched, count_include_pad=count_include_pad, **_within(batched, window)
    )
    return node.reshape(pooled, node.shape)


def _summed(node: Node, x: GraphExpr, window: dict[str, Any], divisor: int) -> GraphExpr:
    count = len(window["kernel"])
    if window["ceil_mode"]:  # the last windows may reach out
        taken = node.op.unfold(_batched(node, x, count), value=0.0, **window)
        total = node.op.sum(taken, axes=tuple(range(2 + count, 2 + 2 * count)))
        return node.reshape(node.op.div(total, float(divisor)), node.shape)
    pooled = node.op.avg_pool(_batched(node, x, count), count_include_pad=True, **window)
    factor = math.prod(window["kernel"]) / divisor
    return node.reshape(node.op.mul(pooled, factor), node.shape)


@converts("aten.avg_pool2d_backward.default", "aten.avg_pool3d_backward.default")
def _avg_pool_backward(
    node: Node,
    grad: GraphExpr,
    x: GraphExpr,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Any:
    count = _spatial(node.target)
    if divisor_override is not None or rank(x) != count + 2:
        raise Unsupported("the gradient of an average pooling with a divisor or without a batch")
    window = _within(x, _window(count, kernel_size, stride, padding, 1, ceil_mode))
    call = op.get("avg_pool")(x, count_include_pad=count_include_pad, **window)
    found = op.get("avg_pool").gradients(call.args, call.attrs, dout=grad, out=call)
    return node.emit(found[0])  # type: ignore[arg-type]


# -- adaptive --------------------------------------------------------------------------------


@converts(
    "aten._adaptive_avg_pool2d.default",
    "aten._adaptive_avg_pool3d.default",
    "aten.adaptive_avg_pool1d.default",
    "aten.adaptive_avg_pool2d.default",
)
def _adaptive_avg_pool(node: Node, x: GraphExpr, output_size: Any) -> Any:
    count = _spatial(node.target)
    axes = tuple(range(rank(x) - count, rank(x)))
    sizes = node.shape[-count:]
    if all(size == 1 for size in sizes):
        return node.op.mean(x, axes=axes, keepdims=True)
    before = shape(x)[-count:]
    if all(_divides(new, old) for old, new in zip(before, sizes, strict=True)):
        steps = tuple(old // new for old, new in zip(before, sizes, strict=True))
        pooled = node.op.avg_pool(_batched(node, x, count), kernel=steps, strides=steps)
        return node.reshape(pooled, node.shape)
    for axis, old, new in zip(axes, before, sizes, strict=True):
        x = mixed_along(node, x, axis, _averages(node, x, old, new))
    return x


def _divides(new: Any, old: Any) -> bool:
    """Whether both sizes are known, and one is a multiple of the other."""
    return isinstance(old, int) and isinstance(new, int) and old % new == 0


def bin_limits(node: Node, old: Any, new: Any) -> tuple[GraphExpr, GraphExpr]:
    """Where each of `new` bins of `old` elements starts and ends: at floor(i old / new) and
    ceil((i + 1) old / new)."""
    number = node.op.range(count=new, dtype="int64")
    size, bins = node.tensor(old, "int64"), node.tensor(new, "int64")
    first = node.op.div(node.op.mul(number, size), bins)
    last = node.op.mul(node.op.add(number, 1), size)
    return first, node.op.div(node.op.add(last, node.op.sub(bins, 1)), bins)


def _averages(node: Node, x: GraphExpr, old: Any, new: Any) -> GraphExpr:
    """The matrix [old, new] that averages each bin, in the dtype of x."""
    if isinstance(old, int) and isinstance(new, int):
        return Constant(_known_averages(old, new).astype(dtype(x).numpy))
    starts, ends = bin_limits(node, old, new)
    place = node.op.unsqueeze(node.op.range(count=old, dtype="int64"), axes=(1,))
    inside = node.op.logical_and(node.op.greater_equal(place, starts), node.op.less(place, ends))
    size = node.cast(node.op.sub(ends, starts), "float32")
    share = node.op.div(node.cast(inside, "float32"), size)
    return node.cast(share, dtype(x))


def _known_averages(old: int, new: int) -> np.ndarray:
    """The matrix [old, new] that averages window i: from floor(i old / new) to
    ceil((i + 1) old / new)."""
    matrix = np.zeros((old, new), np.float64)
    for i in range(new):
        start, end = i * old // new, -(-(i + 1) * old // new)
        matrix[start:end, i] = 1.0 / (end - start)
    return matrix


def mixed_along(node: Node, x: GraphExpr, axis: int, matrix: GraphExpr) -> GraphExpr:
    """x times a matrix along an axis."""
    order = [*(a for a in range(rank(x)) if a != axis), axis]
    moved = node.op.transpose(x, permutation=tuple(order)) if axis != rank(x) - 1 else x
    dims = shape(moved)
    if any(isinstance(dim, Expr) for dim in dims):  # rows are rows, whatever their number
        moved = node.reshape(moved, (math.prod(dims[:-1]), dims[-1]))
    mixed = node.op.matmul(moved, matrix)
    mixed = node.reshape(mixed, (*dims[:-1], shape(matrix)[1]))
    if axis == rank(x) - 1:
        return mixed  # type: ignore[no-any-return]
    back = tuple(order.index(a) for a in range(rank(x)))
    return node.op.transpose(mixed, permutation=back)  # type: ignore[no-any-return]


@converts("aten._adaptive_avg_pool2d_backward.default")
def _adaptive_avg_pool_backward(node: Node, grad: GraphExpr, x: GraphExpr) -> Any:
    axes = (rank(x) - 2, rank(x) - 1)
    before, after = shape(x)[-2:], shape(grad)[-2:]
    if after == (1, 1):
        area = node.tensor(before[0] * before[1], dtype(grad))
        return node.expand(node.op.div(grad, area), node.shape)
    for axis, old, new in zip(axes, before, after, strict=True):
        matrix = _averages(node, grad, old, new)
        grad = mixed_along(node, grad, axis, node.op.transpose(matrix, permutation=(1, 0)))
    return grad
