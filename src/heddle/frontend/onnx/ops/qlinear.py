# SPDX-License-Identifier: Apache-2.0
"""Operators on quantised tensors that ONNX Runtime adds (com.microsoft), as its quantiser writes
them: `QLinearAdd(a, ...)` is `quantize(add(dequantize(a), ...))`."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from heddle.frontend.onnx.node import Node, dtype, normal_axis, rank, shape
from heddle.frontend.onnx.ops.nn import padding, spatial_ints
from heddle.frontend.onnx.ops.quantize import range_scale
from heddle.frontend.onnx.ops.window import channels_first, channels_last
from heddle.frontend.onnx.registry import converts
from heddle.frontend.onnx.report import Unsupported
from heddle.graph import GraphExpr

_DOMAIN: Final = "com.microsoft"


def _scalar(node: Node, position: int) -> GraphExpr:
    """A scale or zero point of one element."""
    return node.reshape(node.tensor(position), ())


def _dequantized(node: Node, position: int) -> GraphExpr:
    """The tensor at `position`, whose scale and zero point follow."""
    zero = _scalar(node, position + 2) if node.has(position + 2) else None
    return node.op.dequantize(node.tensor(position), _scalar(node, position + 1), zero)  # type: ignore[no-any-return]


def _quantized(node: Node, value: GraphExpr, position: int, like: GraphExpr) -> GraphExpr:
    """`value` with the scale at `position` and the zero point after it, which gives the dtype."""
    zero = _scalar(node, position + 1) if node.has(position + 1) else None
    target = dtype(like) if zero is None else dtype(zero)
    return node.op.quantize(value, _scalar(node, position), zero, dtype=target)  # type: ignore[no-any-return]


@converts("QLinearAdd", "QLinearMul", domain=_DOMAIN)
def _binary(node: Node) -> Any:
    name = "add" if node.op_type == "QLinearAdd" else "mul"
    result = node.call(name, _dequantized(node, 0), _dequantized(node, 3))
    return _quantized(node, result, 6, node.tensor(0))


@converts("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", domain=_DOMAIN)
def _unary(node: Node) -> Any:
    x = _dequantized(node, 0)
    if node.op_type == "QLinearSigmoid":
        result = node.op.sigmoid(x)
    elif node.op_type == "QLinearLeakyRelu":
        result = node.op.leaky_relu(x, alpha=node.attr.float("alpha", 0.01))
    else:
        axis = normal_axis(node.attr.int("axis", -1), rank(x))
        if node.attr.int("opset", 13) < 13 and axis != rank(x) - 1:
            raise Unsupported("QLinearSoftmax over several axes, as before opset 13")
        result = node.op.softmax(x, axis=axis)
    return _quantized(node, result, 3, node.tensor(0))


@converts("QLinearGlobalAveragePool", "QLinearReduceMean", domain=_DOMAIN)
def _mean(node: Node) -> Any:
    x = _dequantized(node, 0)
    first = 1 if node.attr.flag("channels_last") else 2
    keep, axes = True, tuple(range(first, first + rank(x) - 2))
    if node.op_type == "QLinearReduceMean":
        keep, axes = node.attr.flag("keepdims", True), tuple(node.attr.ints("axes"))
    result = node.op.mean(x, axes=axes, keepdims=keep)
    return _quantized(node, result, 3, node.tensor(0))


@converts("QLinearAveragePool", domain=_DOMAIN)
def _average_pool(node: Node) -> Any:
    x, kernel = _dequantized(node, 0), node.attr.ints("kernel_shape")
    last = node.attr.flag("channels_last")
    if last:
        x = channels_first(node, x)
    result = node.op.avg_pool(
        x,
        kernel=kernel,
        strides=spatial_ints(node, "strides", len(kernel)),
        pads=padding(node, x, kernel),
        ceil_mode=node.attr.flag("ceil_mode"),
        count_include_pad=node.attr.flag("count_include_pad"),
    )
    if last:
        result = channels_last(node, result)
    return _quantized(node, result, 3, node.tensor(0))


@converts("QLinearConcat", domain=_DOMAIN)
def _concat(node: Node) -> Any:
    parts = [_dequantized(node, at) for at in range(2, len(node.inputs), 3)]
    axis = normal_axis(node.attr.int("axis"), rank(parts[0]))
    return _quantized(node, node.op.concat(*parts, axis=axis), 0, node.tensor(2))


@converts("QLinearWhere", domain=_DOMAIN)
def _where(node: Node) -> Any:
    result = node.op.where(node.tensor(0), _dequantized(node, 1), _dequantized(node, 4))
    return _quantized(node, result, 7, node.tensor(1))


@converts("QGemm", domain=_DOMAIN)
def _gemm(node: Node) -> Any:
    """alpha * a @ b + c, where c is int32 in units of the product of the scales."""
    alpha, transposed = node.attr.float("alpha", 1.0), node.attr.flag("transB")
    scale = node.tensor(4)
    per_column = shape(scale) not in ((), (1,))

    def along_columns(value: GraphExpr) -> GraphExpr:
        if not per_column:
            return node.reshape(value, ())
        (size,) = shape(scale)
        return node.reshape(value, (size, 1) if transposed else (1, size))

    factors = along_columns(scale), along_columns(node.tensor(5))
    weights = node.op.dequantize(node.tensor(3), *factors)
    result = node.op.matmul(
        _dequantized(node, 0), weights, transpose_a=node.attr.flag("transA"), transpose_b=transposed
    )
    if node.has(6):
        unit = node.op.mul(_scalar(node, 1), scale if per_column else _scalar(node, 4))
        result = node.op.add(result, node.op.dequantize(node.tensor(6), unit))
    if alpha != 1.0:
        result = node.op.mul(result, node.scalar(alpha, result))
    return _quantized(node, result, 7, node.tensor(0)) if node.has(7) else result


@converts("MatMulIntegerToFloat", domain=_DOMAIN)
def _matmul_to_float(node: Node) -> Any:
    """(a - za) @ (b - zb) * sa * sb + bias"""
    zero_a = _scalar(node, 4) if node.has(4) else None
    left = node.op.dequantize(node.tensor(0), _scalar(node, 2), zero_a)
    scale, zero = node.tensor(3), node.optional(5)
    flat = [None if value is None else _column_or_scalar(node, value) for value in (scale, zero)]
    result = node.op.matmul(left, node.op.dequantize(node.tensor(1), *flat))
    return node.op.add(result, node.tensor(6)) if node.has(6) else result


def _column_or_scalar(node: Node, value: GraphExpr) -> GraphExpr:
    return node.reshape(value, ()) if shape(value) in ((), (1,)) else value


def by_own_range(node: Node, x: GraphExpr) -> GraphExpr:
    """x as the nearest of 256 values between its least and its largest element (or 0)."""
    low = node.op.minimum(node.op.min(x), np.float32(0.0))
    high = node.op.maximum(node.op.max(x), np.float32(0.0))
    scale = range_scale(node, low, high)
    point = node.op.quantize(node.op.negative(low), scale, dtype="uint8")
    codes = node.op.quantize(x, scale, point, dtype="uint8")
    return node.op.dequantize(codes, scale, point)  # type: ignore[no-any-return]


@converts("DynamicQuantizeMatMul", domain=_DOMAIN)
def _dynamic_matmul(node: Node) -> Any:
    """matmul of a, quantised by its own range, and quantised b, as float32."""
    scale_b, zero_b = node.tensor(2), node.optional(3)
    left = by_own_range(node, node.tensor(0))
    flat = [
        None if value is None else _column_or_scalar(node, value) for value in (scale_b, zero_b)
    ]
    result = node.op.matmul(left, node.op.dequantize(node.tensor(1), *flat))
    return node.op.add(result, node.tensor(4)) if node.has(4) else result
