# SPDX-License-Identifier: Apache-2.0
"""Convolutions, poolings and what else is said of images."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import numpy as np

from heddle.frontend.onnx.node import Node, dtype, rank, shape
from heddle.frontend.onnx.ops.deform import max_pool_positions
from heddle.frontend.onnx.ops.resize import resize
from heddle.frontend.onnx.ops.window import evened, padding, spatial_ints
from heddle.frontend.onnx.registry import converts
from heddle.graph import GraphExpr
from heddle.support import UserError


def _kernel(node: Node, w: GraphExpr) -> tuple[int, ...]:
    sizes = node.static_shape(w, "W")[2:]
    given = node.attr.ints("kernel_shape", sizes)
    if tuple(given) != sizes:
        raise UserError(f"attribute `kernel_shape` is {given}, but W has kernels of {sizes}")
    return sizes


def conv_attrs(
    node: Node, x: GraphExpr, w: GraphExpr, ready: Collection[int] = ()
) -> dict[str, Any]:
    """Attributes of `op.conv`; nothing is put around x along axes that are `ready`."""
    kernel = _kernel(node, w)
    return {
        "strides": spatial_ints(node, "strides", len(kernel)),
        "pads": padding(node, x, kernel, ready),
        "dilations": spatial_ints(node, "dilations", len(kernel)),
        "groups": node.attr.int("group", 1),
    }


@converts("Conv")
def _conv(node: Node) -> Any:
    x, w = node.tensor(0), node.tensor(1)
    x, ready = evened(node, x, _kernel(node, w))
    return node.op.conv(x, w, node.optional(2), **conv_attrs(node, x, w, ready))


@converts("ConvTranspose")
def _conv_transpose(node: Node) -> Any:
    x, w = node.tensor(0), node.tensor(1)
    kernel = _kernel(node, w)
    count = len(kernel)
    strides = spatial_ints(node, "strides", count)
    dilations = spatial_ints(node, "dilations", count)
    extra = list(spatial_ints(node, "output_padding", count, 0))
    wanted = node.attr.ints("output_shape", None)
    mode = node.attr.string("auto_pad", "NOTSET")
    if wanted is None and mode in ("NOTSET", "VALID"):
        pads = padding(node, x, kernel)
    else:
        begins, ends = [], []
        for axis in range(count):
            size = node.static_dim(x, 2 + axis, "X")
            full = (size - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
            target = size * strides[axis] if wanted is None else wanted[-count:][axis]
            total = full + extra[axis] - target
            if total < 0:
                extra[axis], total = extra[axis] - total, 0
            small, large = total // 2, total - total // 2
            begins.append(large if mode != "SAME_UPPER" else small)
            ends.append(small if mode != "SAME_UPPER" else large)
        pads = (*begins, *ends)
    return node.op.conv_transpose(
        x,
        w,
        node.optional(2),
        strides=strides,
        pads=pads,
        dilations=dilations,
        groups=node.attr.int("group", 1),
        output_padding=tuple(extra),
    )


_POOLS: Final = {"MaxPool": "max_pool", "AveragePool": "avg_pool", "LpPool": "lp_pool"}


@converts(*_POOLS)
def _pool(node: Node) -> Any:
    x = node.tensor(0)
    kernel = node.attr.ints("kernel_shape")
    if len(kernel) != rank(x) - 2:
        raise UserError(
            f"attribute `kernel_shape` is {kernel}, but the input has {rank(x)} dimensions"
        )
    fill, average = 0.0, node.op_type == "AveragePool"
    if node.op_type == "MaxPool":
        fill = -np.inf if dtype(x).is_float else dtype(x).min_value
    counted, ready = x, []
    if len([name for name in node.outputs if name]) < 2:
        x, ready = evened(node, x, kernel, fill)
    attrs: dict[str, Any] = {
        "kernel": kernel,
        "strides": spatial_ints(node, "strides", len(kernel)),
        "pads": padding(node, x, kernel, ready),
        "dilations": spatial_ints(node, "dilations", len(kernel)),
        "ceil_mode": node.attr.flag("ceil_mode"),
    }
    if average:
        attrs["count_include_pad"] = node.attr.flag("count_include_pad")
    if average and ready and not attrs["count_include_pad"]:
        # What was put around does not count: of ones the mean says how much does.
        ones, _ = evened(
            node, node.op.broadcast_to(node.scalar(1, x), shape=shape(counted)), kernel
        )
        return node.op.div(node.op.avg_pool(x, **attrs), node.op.avg_pool(ones, **attrs))
    if node.op_type == "LpPool":
        attrs["p"] = node.attr.int("p", 2)
    if len([name for name in node.outputs if name]) > 1:
        return max_pool_positions(node, x, attrs)
    return node.call(_POOLS[node.op_type], x, **attrs)


_GLOBAL: Final = {"GlobalAveragePool": "mean", "GlobalMaxPool": "max"}


@converts(*_GLOBAL)
def _global_pool(node: Node) -> Any:
    x = node.tensor(0)
    axes = tuple(range(2, rank(x)))
    return node.call(_GLOBAL[node.op_type], x, axes=axes, keepdims=True)


@converts("GlobalLpPool")
def _global_lp_pool(node: Node) -> Any:
    x, p = node.tensor(0), node.attr.int("p", 2)
    powers = node.op.pow(node.op.abs(x), float(p))
    total = node.op.sum(powers, axes=tuple(range(2, rank(x))), keepdims=True)
    return node.op.pow(total, 1.0 / p)


@converts("DepthToSpace")
def _depth_to_space(node: Node) -> Any:
    return node.op.depth_to_space(
        node.tensor(0), block=node.attr.int("blocksize"), mode=node.attr.string("mode", "DCR")
    )


@converts("SpaceToDepth")
def _space_to_depth(node: Node) -> Any:
    x, block = node.tensor(0), node.attr.int("blocksize")
    if node.attr.string("mode", "DCR") == "CRD":
        n, c, h, w = shape(x)
        split = node.reshape(x, (n, c, h // block, block, w // block, block))
        moved = node.op.transpose(split, permutation=(0, 1, 3, 5, 2, 4))
        return node.reshape(moved, (n, c * block * block, h // block, w // block))
    return node.op.space_to_depth(x, block=block)


@converts("Upsample", "Resize")
def _resize(node: Node) -> Any:
    return resize(node)
