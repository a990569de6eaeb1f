# SPDX-License-Identifier: Apache-2.0
"""Softmax, layer and RMS norm. Each stage is a compute of its own, so that schedules see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
from heddle.ir import TensorType
from heddle.ir.expr import Expr, cast, const
from heddle.op.adjoint import (
    cast_like,
    ndim_of,
    sum_to,
    widened,
)
from heddle.op.attribute import Ints
from heddle.op.common import (
    accumulator_dtype,
    normal_axis,
    product,
    require_shape,
    same_dim,
    wide,
)
from heddle.op.reduce import reduce_tensor
from heddle.op.registry import operator, ops
from heddle.op.sample import case, floats
from heddle.tir import intrin


def _canonical_axis(x: TensorType, *_rest: Any, axis: int, **_attrs: Any) -> dict[str, Any]:
    return {"axis": normal_axis(axis, x.ndim)}


def _without(indices: Sequence[Expr], axis: int) -> tuple[Expr, ...]:
    return (*indices[:axis], *indices[axis + 1 :])


def _softmax_stages(x: te.Tensor, axis: int, name: str) -> tuple[te.Tensor, te.Tensor, te.Tensor]:
    """Maximum, exponentials of the distance to it, and their sum.

    A term below the smallest normal number is zero beside the largest, which is 1: arithmetic on
    subnormals, of which masks like -100 make many, costs a hundred cycles on some cores.
    """
    largest = reduce_tensor(x, (axis,), te.max, wide, f"{name}_max")
    exponential = te.compute(
        x.shape,
        lambda *i: intrin.exp_normal(wide(x[i]) - largest[_without(i, axis)]),
        name=f"{name}_exp",
    )
    total = reduce_tensor(exponential, (axis,), te.sum, lambda v: v, f"{name}_sum")
    return largest, exponential, total


@operator("softmax", kind="reduction", dtypes="float")
def softmax(x: TensorType, *, axis: int = -1) -> TensorType:
    """exp(x) / sum(exp(x)) along an axis, computed without overflow.

    Where exp(x - max(x)) is below the smallest normal number of the accumulator, it is zero.
    """
    return x


softmax.rule("normalise")(_canonical_axis)


@softmax.rule("compute")
def _(x: te.Tensor, *, axis: int) -> te.Tensor:
    _, exponential, total = _softmax_stages(x, axis, "softmax")
    return te.compute(
        x.shape,
        lambda *i: cast(exponential[i] / total[_without(i, axis)], x.dtype),
        name="softmax",
    )


@softmax.rule("numpy")
def _(x: np.ndarray, *, axis: int) -> np.ndarray:
    exponential = np.exp(x - x.max(axis=axis, keepdims=True))
    return exponential / exponential.sum(axis=axis, keepdims=True)  # type: ignore[no-any-return]


_SOFTMAX_SAMPLES = (
    case(floats(3, 5)),
    case(floats(2, 3, 4), axis=1),
    case(floats(2, 3, low=80, high=120), axis=0),
    case(floats(3, 5, dtype="float16")),
)


@softmax.rule("grad")
def _(x: GraphExpr, *, dout: GraphExpr, out: GraphExpr, axis: int) -> GraphExpr:
    product = dout * out
    return product - out * ops.sum(product, axes=(axis,), keepdims=True)


softmax.samples(*_SOFTMAX_SAMPLES)


@operator("log_softmax", kind="reduction", dtypes="float")
def log_softmax(x: TensorType, *, axis: int = -1) -> TensorType:
    """log(softmax(x)), computed without overflow or loss."""
    return x


log_softmax.rule("normalise")(_canonical_axis)


@log_softmax.rule("compute")
def _(x: te.Tensor, *, axis: int) -> te.Tensor:
    largest, _, total = _softmax_stages(x, axis, "log_softmax")
    logarithm = te.compute(total.shape, lambda *i: intrin.log(total[i]), name="log_softmax_log")

    def body(*i: Expr) -> Expr:
        at = _without(i, axis)
        return cast(wide(x[i]) - largest[at] - logarithm[at], x.dtype)

    return te.compute(x.shape, body, name="log_softmax")


@log_softmax.rule("numpy")
def _(x: np.ndarray, *, axis: int) -> np.ndarray:
    distance = x - x.max(axis=axis, keepdims=True)
    return distance - np.log(np.exp(distance).sum(axis=axis, keepdims=True))  # type: ignore[no-any-return]


@log_softmax.rule("grad")
def _(x: GraphExpr, *, dout: GraphExpr, out: GraphExpr, axis: int) -> GraphExpr:
    return dout - ops.exp(out) * ops.sum(dout, axes=(axis,), keepdims=True)


log_softmax.samples(*_SOFTMAX_SAMPLES)


# -- layer and RMS norm ----------------------------------------------------------------------


def _check_tail(x: TensorType, axis: int, **affine: TensorType | None) -> None:
    """`UserError` unless each of `affine` broadcasts to the axes of x from `axis` on."""
    wanted = x.shape[axis:]
    for name, value in affine.items():
        if value is None:
            continue
        if value.ndim > len(wanted):
            require_shape(value, name, wanted)
        for dim, whole in zip(value.shape[::-1], wanted[::-1], strict=False):
            if not (same_dim(dim, whole) or same_dim(dim, const(1))):
                require_shape(value, name, wanted)


def _tail_load(value: te.Tensor, i: Sequence[Expr]) -> Expr:
    at = i[len(i) - value.ndim :]
    ones = [same_dim(dim, const(1)) for dim in value.shape]
    return wide(value[tuple(const(0) if one else k for one, k in zip(ones, at, strict=True))])


def _affine(
    value: Expr, i: Sequence[Expr], scale: te.Tensor | None, bias: te.Tensor | None
) -> Expr:
    if scale is not None:
        value = value * _tail_load(scale, i)
    return value if bias is None else value + _tail_load(bias, i)


@operator("layer_norm", kind="reduction", dtypes="float")
def layer_norm(
    x: TensorType,
    scale: TensorType | None = None,
    bias: TensorType | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
) -> TensorType:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, mean and variance over the axes from
    `axis` to the last. Two passes, so that the variance does not cancel."""
    _check_tail(x, axis, scale=scale, bias=bias)
    return x


layer_norm.rule("normalise")(_canonical_axis)


@layer_norm.rule("compute")
def _(
    x: te.Tensor, scale: te.Tensor | None, bias: te.Tensor | None, *, axis: int, epsilon: float
) -> te.Tensor:
    axes = tuple(range(axis, x.ndim))
    dtype = accumulator_dtype(x.dtype)
    count = cast(product(x.shape[axis:]), dtype)
    total = reduce_tensor(x, axes, te.sum, wide, "layer_norm_sum")
    mean = te.compute(total.shape, lambda *i: total[i] / count, name="layer_norm_mean")
    loops = [te.reduce_axis(x.shape[at], f"r{at}") for at in axes]

    def square(*i: Expr) -> Expr:
        distance = wide(x[(*i, *loops)]) - mean[i]
        return te.sum(distance * distance, axis=loops)

    squares = te.compute(total.shape, square, name="layer_norm_square_sum")
    inverse = te.compute(
        total.shape,
        lambda *i: intrin.rsqrt(squares[i] / count + const(epsilon, dtype)),
        name="layer_norm_inverse",
    )

    def body(*i: Expr) -> Expr:
        row = i[:axis]
        return cast(_affine((wide(x[i]) - mean[row]) * inverse[row], i, scale, bias), x.dtype)

    return te.compute(x.shape, body, name="layer_norm")


@layer_norm.rule("numpy")
def _(
    x: np.ndarray, scale: np.ndarray | None, bias: np.ndarray | None, *, axis: int, epsilon: float
) -> np.ndarray:
    axes = tuple(range(axis, x.ndim))
    result = (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(
        x.var(axis=axes, keepdims=True) + x.dtype.type(epsilon)
    )
    result = result if scale is None else result * scale
    return result if bias is None else result + bias  # type: ignore[no-any-return]


def standardised(x: GraphExpr, axes: Ints, epsilon: float) -> tuple[GraphExpr, GraphExpr]:
    """(x - mean) / deviation and 1 / deviation, over `axes`."""
    distance = x - ops.mean(x, axes=axes, keepdims=True)
    variance = ops.mean(distance * distance, axes=axes, keepdims=True)
    inverse = ops.rsqrt(variance + epsilon)
    return distance * inverse, inverse


def standardised_grad(d: GraphExpr, flat: GraphExpr, inverse: GraphExpr, axes: Ints) -> GraphExpr:
    """The gradient of x from that of its standardised form, which sees no mean and no scale."""
    centred = d - ops.mean(d, axes=axes, keepdims=True)
    return (centred - flat * ops.mean(d * flat, axes=axes, keepdims=True)) * inverse


@layer_norm.rule("grad")
def _(
    x: GraphExpr,
    scale: GraphExpr | None,
    bias: GraphExpr | None,
    *,
    dout: GraphExpr,
    out: GraphExpr,
    axis: int,
    epsilon: float,
) -> tuple[GraphExpr | None, ...]:
    axes = tuple(range(axis, ndim_of(x)))
    d = widened(dout)
    flat, inverse = standardised(widened(x), axes, epsilon)
    d_scale = None if scale is None else cast_like(sum_to(d * flat, scale), scale)
    d_bias = None if bias is None else cast_like(sum_to(d, bias), bias)
    if scale is not None:
        d = d * widened(scale)
    return cast_like(standardised_grad(d, flat, inverse, axes), x), d_scale, d_bias


layer_norm.samples(
    case(floats(3, 8), floats(8), floats(8)),
    case(floats(2, 3, 4), floats(3, 4), None, axis=1, epsilon=1e-3),
    case(floats(2, 3, 4), None, floats(4)),
    case(floats(2, 8, low=10, high=11), floats(8), floats(8)),
    case(floats(3, 8, dtype="float16"), floats(8, dtype="float16")),
)


@operator("rms_norm", kind="reduction", dtypes="float")
def rms_norm(
    x: TensorType, scale: TensorType | None = None, *, axis: int = -1, epsilon: float = 1e-5
) -> TensorType:
    """x / sqrt(mean(x^2) + epsilon) * scale, the mean over the axes from `axis` to the last."""
    _check_tail(x, axis, scale=scale)
    return x


rms_norm.rule("normalise")(_canonical_axis)


@rms_norm.rule("compute")
def _(x: te.Tensor, scale: te.Tensor | None, *, axis: int, epsilon: float) -> te.Tensor:
    axes = tuple(range(axis, x.ndim))
    dtype = accumulator_dtype(x.dtype)
    count = cast(product(x.shape[axis:]), dtype)
    squares = reduce_tensor(x, axes, te.sum, lambda v: wide(v) * wide(v), "rms_norm_square_sum")
    inverse = te.compute(
        squares.shape,
        lambda *i: intrin.rsqrt(squares[i] / count + const(epsilon, dtype)),
        name="rms_norm_inverse",
    )
    return te.compute(
        x.shape,
        lambda *i: cast(_affine(wide(x[i]) * inverse[i[:axis]], i, scale, None), x.dtype),
        name="rms_norm",
    )


@rms_norm.rule("numpy")
def _(x: np.ndarray, scale: np.ndarray | None, *, axis: int, epsilon: float) -> np.ndarray:
    axes = tuple(range(axis, x.ndim))
    mean = np.mean(x * x, axis=axes, keepdims=True)
    result = x / np.sqrt(mean + x.dtype.type(epsilon))
    return result if scale is None else result * scale  # type: ignore[no-any-return]


@rms_norm.rule("grad")
def _(
    x: GraphExpr,
    scale: GraphExpr | None,
    *,
    dout: GraphExpr,
    out: GraphExpr,
    axis: int,
    epsilon: float,
) -> tuple[GraphExpr | None, ...]:
    axes = tuple(range(axis, ndim_of(x)))
    d, value = widened(dout), widened(x)
    inverse = ops.rsqrt(ops.mean(value * value, axes=axes, keepdims=True) + epsilon)
    flat = value * inverse
    d_scale = None if scale is None else cast_like(sum_to(d * flat, scale), scale)
    if scale is not None:
        d = d * widened(scale)
    d_x = (d - flat * ops.mean(d * flat, axes=axes, keepdims=True)) * inverse
    return cast_like(d_x, x), d_scale


rms_norm.samples(case(floats(3, 8), floats(8)), case(floats(2, 3, 4), axis=1))
