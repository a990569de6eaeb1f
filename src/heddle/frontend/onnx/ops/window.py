# SPDX-License-Identifier: Apache-2.0
"""Attributes that convolutions and poolings share."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from heddle.frontend.onnx.node import Node, rank, shape
from heddle.frontend.onnx.ops.computed import filled_axis
from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.sizes import dimension_as_scalar
from heddle.graph import Constant, GraphExpr
from heddle.ir import TensorType
from heddle.ir.expr import as_int, const, floordiv
from heddle.support import UserError

Ints = tuple[int, ...]


def spatial_ints(node: Node, name: str, spatial: int, default: int = 1) -> Ints:
    """An attribute with one integer per spatial axis."""
    found: Ints = node.attr.ints(name, (default,) * spatial)
    if len(found) != spatial:
        raise UserError(f"attribute `{name}` is {found}, expected {spatial} integers")
    return found


def padding(node: Node, x: GraphExpr, kernel: Sequence[int], ready: Collection[int] = ()) -> Ints:
    """All begins, then all ends, by `pads` or `auto_pad`; none along the axes that are `ready`."""
    spatial = len(kernel)
    mode = node.attr.string("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads: Ints = node.attr.ints("pads", (0,) * (2 * spatial))
        if len(pads) != 2 * spatial:
            raise UserError(f"attribute `pads` is {pads}, expected {2 * spatial} integers")
        return pads
    if mode == "VALID":
        return (0,) * (2 * spatial)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise UserError(
            f"attribute `auto_pad` is `{mode}`, expected NOTSET, VALID, SAME_UPPER or SAME_LOWER"
        )
    strides = spatial_ints(node, "strides", spatial)
    dilations = spatial_ints(node, "dilations", spatial)
    assert isinstance(x.type, TensorType)
    begins, ends = [], []
    for axis in range(spatial):
        span = (kernel[axis] - 1) * dilations[axis] + 1
        size = as_int(x.type.shape[2 + axis])
        if axis in ready:
            begins.append(0)
            ends.append(0)
            continue
        if size is None and strides[axis] != 1:
            raise Unsupported(f"auto_pad {mode} with a stride of a symbolic dimension")
        if strides[axis] < 1:
            raise UserError(f"attribute `strides` is {strides}, expected positive integers")
        if size is None:
            total = span - 1
        else:
            positions = -(-size // strides[axis])
            total = max(0, (positions - 1) * strides[axis] + span - size)
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return (*begins, *ends)


def evened(
    node: Node, x: GraphExpr, kernel: Sequence[int], fill: float = 0.0
) -> tuple[GraphExpr, list[int]]:
    """x with what `auto_pad` puts around it, along the spatial axes where that depends on a size
    that is symbolic (there is a stride); and these axes."""
    mode, spatial = node.attr.string("auto_pad", "NOTSET"), len(kernel)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        return x, []
    strides = spatial_ints(node, "strides", spatial)
    dilations = spatial_ints(node, "dilations", spatial)
    ready = []
    for axis in range(spatial):
        size, step = shape(x)[2 + axis], strides[axis]
        if isinstance(size, int) or step <= 1:
            continue
        span = (kernel[axis] - 1) * dilations[axis] + 1
        # One position for each `step` elements, the last of which may be fewer.
        whole = floordiv(size + const(step - 1), const(step)) * step - step + span
        total = node.op.sub(dimension_as_scalar(node, whole), dimension_as_scalar(node, size))
        total = node.op.maximum(total, Constant(np.asarray(0)))
        if mode == "SAME_LOWER":
            total = node.op.add(total, Constant(np.asarray(1)))
        before = node.op.div(total, Constant(np.asarray(2)))
        places = node.op.sub(node.op.range(count=whole, dtype="int64"), before)
        own, none = dimension_as_scalar(node, size), Constant(np.asarray(0))
        value = node.scalar(fill, x)
        x = filled_axis(node, x, 2 + axis, places, own, "constant", value, none)
        ready.append(axis)
    return x, ready


def channels_first(node: Node, x: GraphExpr) -> GraphExpr:
    """[N, *sizes, C] as [N, C, *sizes]."""
    order = (0, rank(x) - 1, *range(1, rank(x) - 1))
    return node.op.transpose(x, permutation=order)  # type: ignore[no-any-return]


def channels_last(node: Node, x: GraphExpr) -> GraphExpr:
    """[N, C, *sizes] as [N, *sizes, C]."""
    return node.op.transpose(x, permutation=(0, *range(2, rank(x)), 1))  # type: ignore[no-any-return]
