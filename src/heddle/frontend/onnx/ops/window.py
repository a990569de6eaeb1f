# SPDX-License-Identifier: Apache-2.0
"""Attributes that convolutions and poolings share."""

from __future__ import annotations

from collections.abc import Sequence

from heddle.frontend.onnx.node import Node, rank
from heddle.frontend.onnx.report import Unsupported
from heddle.graph import GraphExpr
from heddle.ir import TensorType
from heddle.ir.expr import as_int
from heddle.support import UserError

Ints = tuple[int, ...]


def spatial_ints(node: Node, name: str, spatial: int, default: int = 1) -> Ints:
    """An attribute with one integer per spatial axis."""
    found: Ints = node.attr.ints(name, (default,) * spatial)
    if len(found) != spatial:
        raise UserError(f"attribute `{name}` is {found}, expected {spatial} integers")
    return found


def padding(node: Node, x: GraphExpr, kernel: Sequence[int]) -> Ints:
    """All begins, then all ends, by `pads` or `auto_pad`."""
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


def channels_first(node: Node, x: GraphExpr) -> GraphExpr:
    """[N, *sizes, C] as [N, C, *sizes]."""
    order = (0, rank(x) - 1, *range(1, rank(x) - 1))
    return node.op.transpose(x, permutation=order)  # type: ignore[no-any-return]


def channels_last(node: Node, x: GraphExpr) -> GraphExpr:
    """[N, C, *sizes] as [N, *sizes, C]."""
    return node.op.transpose(x, permutation=(0, *range(2, rank(x)), 1))  # type: ignore[no-any-return]
