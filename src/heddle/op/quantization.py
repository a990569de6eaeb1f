# SPDX-License-Identifier: Apache-2.0
"""Quantised tensors: integers q that stand for the numbers (q - zero) * scale.

Scales and zero points broadcast against the tensor. Everything is computed in float32 and rounded
once, to the nearest integer and to the even one of two, as ONNX defines.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
from heddle.ir import DType, TensorType
from heddle.ir.expr import Expr, cast
from heddle.op.adjoint import dtype_of, sum_to
from heddle.op.common import broadcast_load, broadcast_shapes
from heddle.op.registry import operator, ops
from heddle.op.sample import case, floats, ints, values
from heddle.support import UserError
from heddle.tir import intrin


def _result(x: Any, *others: Any) -> tuple[Expr, ...]:
    shape = broadcast_shapes(x.shape, *(item.shape for item in others if item is not None))
    if len(shape) != x.ndim:
        raise UserError("scale and zero point have more dimensions than `x`")
    return shape


def _check_dtype(dtype: DType) -> None:
    if not dtype.is_int:
        raise UserError(f"attribute `dtype` is {dtype}, expected an integer dtype")


def _check_zero(zero: TensorType | None, dtype: DType) -> None:
    if zero is not None and zero.dtype is not dtype:
        raise UserError(f"the zero point is {zero.dtype}, expected {dtype}")


# -- operators -------------------------------------------------------------------------------


@operator("dequantize", kind="broadcast", dtypes={"x": "int", "scale": "float", "zero": "int"})
def dequantize(x: TensorType, scale: TensorType, zero: TensorType | None = None) -> TensorType:
    """(x - zero) * scale, in the dtype of `scale`. The difference is exact."""
    _check_zero(zero, x.dtype)
    return TensorType(_result(x, scale, zero), scale.dtype)


@dequantize.rule("compute")
def _(x: te.Tensor, scale: te.Tensor, zero: te.Tensor | None) -> te.Tensor:
    def body(*i: Expr) -> Expr:
        value = x[i] if x.dtype.bits > 32 else cast(x[i], "int32")
        if zero is not None:
            value = value - cast(broadcast_load(zero, i), value.dtype)
        product = cast(value, "float32") * cast(broadcast_load(scale, i), "float32")
        return cast(product, scale.dtype)

    return te.compute(_result(x, scale, zero), body, name="dequantize")


@dequantize.rule("numpy")
def _(x: np.ndarray, scale: np.ndarray, zero: np.ndarray | None) -> np.ndarray:
    wide = x.astype(np.int64) - (0 if zero is None else zero.astype(np.int64))
    return wide.astype(np.float32) * scale.astype(np.float32)


@dequantize.rule("grad")
def _(
    x: GraphExpr, scale: GraphExpr, zero: GraphExpr | None, *, dout: GraphExpr, out: GraphExpr
) -> tuple[GraphExpr | None, ...]:
    one = np.ones((), dtype_of(scale).numpy)
    return None, sum_to(dout * ops.dequantize(x, one, zero), scale), None


@operator("quantize", kind="broadcast", dtypes={"x": "float", "scale": "float", "zero": "int"})
def quantize(
    x: TensorType, scale: TensorType, zero: TensorType | None = None, *, dtype: DType
) -> TensorType:
    """round(x / scale) + zero, saturated to `dtype`."""
    _check_dtype(dtype)
    _check_zero(zero, dtype)
    return TensorType(_result(x, scale, zero), dtype)


def _rounded(value: Expr, zero: te.Tensor | None, i: tuple[Expr, ...], dtype: DType) -> Expr:
    value = intrin.round(value)
    if zero is not None:
        value = value + cast(broadcast_load(zero, i), "float32")
    return cast(value, dtype)  # saturates


@quantize.rule("compute")
def _(x: te.Tensor, scale: te.Tensor, zero: te.Tensor | None, *, dtype: DType) -> te.Tensor:
    def body(*i: Expr) -> Expr:
        value = cast(x[i], "float32") / cast(broadcast_load(scale, i), "float32")
        return _rounded(value, zero, i, dtype)

    return te.compute(_result(x, scale, zero), body, name="quantize")


def _saturated(value: np.ndarray, zero: np.ndarray | None, dtype: DType) -> np.ndarray:
    rounded = np.rint(value).astype(np.float64)
    if zero is not None:
        rounded = rounded + zero.astype(np.float64)
    return np.clip(rounded, dtype.min_value, dtype.max_value).astype(dtype.numpy)  # type: ignore[no-any-return]


@quantize.rule("numpy")
def _(x: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, *, dtype: DType) -> np.ndarray:
    return _saturated(x.astype(np.float32) / scale.astype(np.float32), zero, dtype)


@operator("requantize", kind="broadcast", dtypes={"x": "number", "scale": "float", "zero": "int"})
def requantize(
    x: TensorType, scale: TensorType, zero: TensorType | None = None, *, dtype: DType
) -> TensorType:
    """round(x * scale) + zero, saturated to `dtype`: an accumulator as a quantised value, or a
    number when `scale` is the inverse of the result's."""
    _check_dtype(dtype)
    _check_zero(zero, dtype)
    return TensorType(_result(x, scale, zero), dtype)


@requantize.rule("compute")
def _(x: te.Tensor, scale: te.Tensor, zero: te.Tensor | None, *, dtype: DType) -> te.Tensor:
    def body(*i: Expr) -> Expr:
        value = cast(x[i], "float32") * cast(broadcast_load(scale, i), "float32")
        return _rounded(value, zero, i, dtype)

    return te.compute(_result(x, scale, zero), body, name="requantize")


@requantize.rule("numpy")
def _(x: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, *, dtype: DType) -> np.ndarray:
    return _saturated(x.astype(np.float32) * scale.astype(np.float32), zero, dtype)


quantize.not_differentiable("the result is whole numbers")
requantize.not_differentiable("the result is whole numbers")

_SCALES = values([0.5, 0.25, 3.0])
dequantize.samples(
    case(ints(2, 3, high=255, dtype="uint8"), values(0.25), values(7, "uint8")),
    case(ints(2, 3, low=-128, high=127, dtype="int8"), _SCALES),
    case(ints(2, 3, low=-128, high=127, dtype="int8"), _SCALES, values([1, 0, -5], "int8")),
    case(ints(2, 3, low=-(10**6), high=10**6, dtype="int32"), values([[0.5], [2.0]])),
)
quantize.samples(
    case(floats(2, 3, low=-90, high=90), values(0.25), values(7, "uint8"), dtype="uint8"),
    case(floats(2, 3, low=-90, high=90), _SCALES, dtype="int8"),
    case(values([0.5, 1.5, -0.5, -2.5, 300.0, -300.0]), values(1.0), dtype="int8"),
    case(floats(2, 3, low=-9, high=9), values(0.25), values(-7, "int32"), dtype="int32"),
)
requantize.samples(
    case(ints(2, 3, low=-900, high=900, dtype="int32"), _SCALES, values(3, "int8"), dtype="int8"),
    case(values([1, 3, 5, -1, 9999, -9999], "int32"), values(0.5), dtype="uint8"),
)
