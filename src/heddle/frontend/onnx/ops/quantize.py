# SPDX-License-Identifier: Apache-2.0
"""Quantised tensors, in the operators that everything else is made of."""

from __future__ import annotations

from typing import Any

from heddle.frontend.onnx.narrow import (
    is_integer,
    kind_of,
    narrowed,
    saturated,
    storage,
    widened,
)
from heddle.frontend.onnx.node import Node, dtype, normal_axis, rank, shape
from heddle.frontend.onnx.ops.contraction import shifted
from heddle.frontend.onnx.ops.nn import conv_attrs
from heddle.frontend.onnx.ops.window import channels_first, channels_last
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.report import Unsupported
from heddle.frontend.onnx.tensors import dtype_of
from heddle.frontend.onnx.values import Narrow, Value
from heddle.graph import GraphExpr
from heddle.ir import DType
from heddle.support import UserError


def _aligned(node: Node, value: GraphExpr, x: GraphExpr, axis: int, block: int) -> GraphExpr:
    """scale or zero point so that it broadcasts with x: one for all, one per slice along `axis`,
    or one per block of `block` elements along it."""
    if rank(value) == 0 or shape(value) == (1,):
        return node.reshape(value, ())
    if block == 0 and rank(value) == 1:
        return node.reshape(value, (*shape(value), *(1,) * (rank(x) - axis - 1)))
    if rank(value) != rank(x):
        raise UserError(f"scale of {rank(value)} dimensions for a tensor of {rank(x)}")
    size, blocks = node.static_dim(x, axis, "x"), node.static_dim(value, axis, "scale")
    if size == blocks:
        return value
    each = block or -(-size // blocks)
    wide = node.op.unsqueeze(value, axes=(axis + 1,))
    dims = list(shape(value))
    dims.insert(axis + 1, each)
    spread = node.op.broadcast_to(wide, shape=tuple(dims))
    full = node.reshape(spread, (*shape(value)[:axis], blocks * each, *shape(value)[axis + 1 :]))
    if blocks * each == size:
        return full
    return node.op.slice(full, starts=(0,), ends=(size,), axes=(axis,))  # type: ignore[no-any-return]


def _axis(node: Node, x: GraphExpr) -> int:
    axis = node.attr.int("axis", 1)
    return normal_axis(axis, rank(x)) if rank(x) > 1 else 0


@converts("DequantizeLinear", domain="com.microsoft")
@converts("DequantizeLinear")
def _dequantize(node: Node) -> Any:
    given = node.value(0)
    x, scale = widened(node, given), widened(node, node.value(1))
    axis, block = _axis(node, x), node.attr.int("block_size", 0)
    number = node.attr.int("output_dtype", 0)
    result = dtype_of(number, "the result") if number else dtype(scale)
    if isinstance(given, Narrow) and not is_integer(given.kind):
        # The standard has zero points of float types be zero.
        product = node.op.mul(x, node.cast(_aligned(node, scale, x, axis, block), "float32"))
        return node.cast(product, result)
    if not dtype(x).is_int:
        raise Unsupported(f"quantised values of dtype {dtype(x)}")
    zero = widened(node, node.value(2)) if node.has(2) else None
    point = None if zero is None else _aligned(node, zero, x, axis, block)
    factor = node.cast(_aligned(node, scale, x, axis, block), result)
    return node.op.dequantize(x, factor, point)


@converts("QuantizeLinear", domain="com.microsoft")
@converts("QuantizeLinear")
def _quantize(node: Node) -> Any:
    x, scale = node.tensor(0), node.tensor(1)
    axis, block = _axis(node, x), node.attr.int("block_size", 0)
    number = node.attr.int("output_dtype", 0)
    zero = node.value(2) if node.has(2) else None
    kind = zero.kind if isinstance(zero, Narrow) else kind_of(number)
    if kind is not None:
        return _quantize_narrow(node, x, scale, zero, kind)
    point = node.optional(2)
    if number:
        target = dtype_of(number, "the result")
    else:
        target = DType.of("uint8") if point is None else dtype(point)
    if not target.is_int:
        raise Unsupported(f"quantisation to {target}")
    kind = dtype(scale) if dtype(scale).is_float and dtype(x).is_float else "float32"
    factor = node.cast(_aligned(node, scale, x, axis, block), kind)
    shift = None if point is None else _aligned(node, point, x, axis, block)
    return node.op.quantize(node.cast(x, kind), factor, shift, dtype=target)


def _quantize_narrow(node: Node, x: GraphExpr, scale: GraphExpr, zero: Value, kind: str) -> Any:
    axis, block = _axis(node, x), node.attr.int("block_size", 0)
    factor = node.cast(_aligned(node, scale, x, axis, block), "float32")
    if is_integer(kind):
        point = None if zero is None else _aligned(node, widened(node, zero), x, axis, block)
        wide = node.op.quantize(node.cast(x, "float32"), factor, point, dtype=storage(kind))
        return saturated(node, wide, kind)
    quotient = node.op.div(node.cast(x, "float32"), factor)
    return narrowed(node, quotient, kind, saturate=node.attr.flag("saturate", True))


def range_scale(node: Node, low: GraphExpr, high: GraphExpr) -> GraphExpr:
    """The scale of uint8 for numbers in [low, high]; 1 where all are 0, as ONNX Runtime has it."""
    width = node.op.sub(high, low)
    one = node.scalar(1, width)
    return node.op.where(node.op.equal(width, 0.0), one, node.op.div(width, 255.0))  # type: ignore[no-any-return]


@converts("DynamicQuantizeLinear")
def _dynamic_quantize(node: Node) -> Any:
    x = node.tensor(0)
    low = node.op.minimum(node.op.min(x), 0.0)
    high = node.op.maximum(node.op.max(x), 0.0)
    scale = range_scale(node, low, high)
    shift = node.op.round(node.op.clip(node.op.div(node.op.negative(low), scale), min=0, max=255))
    point = node.cast(shift, "uint8")
    return node.op.quantize(x, scale, point, dtype="uint8"), scale, point


@converts("ConvInteger")
def _conv_integer(node: Node) -> Any:
    x, w = node.tensor(0), node.tensor(1)
    attrs = conv_attrs(node, x, w)
    return node.op.conv(
        shifted(node, x, node.optional(2), None),
        _kernel_shifted(node, w, node.optional(3)),
        out_dtype="int32",
        **attrs,
    )


def _kernel_shifted(node: Node, w: GraphExpr, zero: GraphExpr | None) -> GraphExpr:
    """w - zero, one zero for each output channel or one for all."""
    if zero is None or rank(zero) == 0 or shape(zero) == (1,):
        flat = None if zero is None else node.reshape(zero, ())
        return shifted(node, w, flat, None)
    return shifted(node, w, zero, 0)


@converts("QLinearConv", domain="com.microsoft")
@converts("QLinearConv")
def _qlinear_conv(node: Node) -> Any:
    """ONNX Runtime's own form has the channels last where `channels_last` says so."""
    last = node.attr.flag("channels_last")
    x, x_scale, x_point, w, w_scale, w_point, y_scale, y_point = (
        node.tensor(position) for position in range(8)
    )
    if last:
        x = channels_first(node, x)
    attrs = conv_attrs(node, x, w)
    total = node.op.conv(
        shifted(node, x, node.reshape(x_point, ()), None),
        _kernel_shifted(node, w, w_point),
        node.optional(8),
        out_dtype="int32",
        **attrs,
    )
    scale = node.op.div(node.op.mul(node.reshape(x_scale, ()), w_scale), node.reshape(y_scale, ()))
    if rank(scale) == 1 and shape(scale) != (1,):
        scale = node.reshape(scale, (*shape(scale), *(1,) * (rank(x) - 2)))
    elif rank(scale) == 1:
        scale = node.reshape(scale, ())
    result = _requantized(node, total, scale, node.reshape(y_point, ()))
    return channels_last(node, result) if last else result


@converts("QLinearMatMul")
def _qlinear_matmul(node: Node) -> Any:
    a, a_scale, a_point, b, b_scale, b_point, y_scale, y_point = (
        node.tensor(position) for position in range(8)
    )
    rows = -2 if rank(a) > 1 else None
    total = node.op.matmul(
        shifted(node, a, a_point, rows), shifted(node, b, b_point, -1), out_dtype="int32"
    )
    left = node.cast(a_scale, "float32")
    if rank(left) == 1 and shape(left) != (1,):
        left = node.reshape(left, (*shape(left), 1))
    factor = node.op.mul(left, node.cast(b_scale, "float32"))
    factor = node.op.div(factor, node.cast(y_scale, "float32"))
    return _requantized(node, total, factor, y_point)


def _requantized(node: Node, total: GraphExpr, scale: GraphExpr, point: GraphExpr) -> GraphExpr:
    factor = node.cast(scale, "float32")
    return node.op.requantize(total, factor, point, dtype=dtype(point))  # type: ignore[no-any-return]
