# SPDX-License-Identifier: Apache-2.0
"""Normalisations of images: statistics and scales of channels and groups of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
from heddle.ir import TensorType
from heddle.ir.expr import Expr, cast, const
from heddle.op.adjoint import (
    cast_like,
    channel_sum,
    dims_of,
    ndim_of,
    per_channel,
    reshape_like,
    widened,
)
from heddle.op.attribute import Dim
from heddle.op.common import (
    accumulator_dtype,
    plain_dims,
    product,
    require_ndim,
    require_shape,
    same_dim,
    show_dim,
    simplify_dim,
    wide,
)
from heddle.op.convolution import per_channel as reference_channel
from heddle.op.norm import standardised, standardised_grad
from heddle.op.registry import operator, ops
from heddle.op.sample import case, floats
from heddle.op.window import pad_tensor
from heddle.support import UserError
from heddle.tir import intrin


def _normalise_by(
    x: te.Tensor,
    statistic_shape: Sequence[Expr],
    loops: Sequence[te.ReduceAxis],
    element: Callable[[Sequence[Expr]], tuple[Any, ...]],
    row: Callable[[Sequence[Expr]], tuple[Expr, ...]],
    affine: Callable[[Expr, Sequence[Expr]], Expr],
    epsilon: float,
    name: str,
) -> te.Tensor:
    """Two-pass normalisation: statistic `s` covers the elements `element(s)` over `loops`;
    element `i` belongs to statistic `row(i)`."""
    dtype = accumulator_dtype(x.dtype)
    count = cast(product(loop.extent for loop in loops), dtype)
    total = te.compute(
        statistic_shape, lambda *s: te.sum(wide(x[element(s)]), axis=loops), name=f"{name}_sum"
    )
    mean = te.compute(statistic_shape, lambda *s: total[s] / count, name=f"{name}_mean")

    def square(*s: Expr) -> Expr:
        distance = wide(x[element(s)]) - mean[s]
        return te.sum(distance * distance, axis=loops)

    squares = te.compute(statistic_shape, square, name=f"{name}_square_sum")
    inverse = te.compute(
        statistic_shape,
        lambda *s: intrin.rsqrt(squares[s] / count + const(epsilon, dtype)),
        name=f"{name}_inverse",
    )

    def body(*i: Expr) -> Expr:
        return cast(affine((wide(x[i]) - mean[row(i)]) * inverse[row(i)], i), x.dtype)

    return te.compute(x.shape, body, name=name)


@operator("group_norm", kind="reduction", dtypes="float")
def group_norm(
    x: TensorType,
    scale: TensorType,
    bias: TensorType,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
) -> TensorType:
    """Normalise x[N, C, *spatial] over each of `num_groups` groups of channels, then scale[C] and
    bias[C]."""
    require_ndim(x, "x", 2)
    if num_groups < 1 or not same_dim(simplify_dim(x.shape[1] % num_groups), const(0)):
        raise UserError(f"{show_dim(x.shape[1])} channels do not divide into {num_groups} groups")
    require_shape(scale, "scale", [x.shape[1]])
    require_shape(bias, "bias", [x.shape[1]])
    return x


@group_norm.rule("compute")
def _(
    x: te.Tensor, scale: te.Tensor, bias: te.Tensor, *, num_groups: int, epsilon: float
) -> te.Tensor:
    width = x.shape[1] // num_groups
    loops = [te.reduce_axis(width, "rc")]
    loops += [te.reduce_axis(dim, f"r{axis}") for axis, dim in enumerate(x.shape[2:])]
    return _normalise_by(
        x,
        (x.shape[0], const(num_groups)),
        loops,
        lambda s: (s[0], s[1] * width + loops[0].var, *loops[1:]),
        lambda i: (i[0], i[1] // width),
        lambda value, i: value * wide(scale[i[1]]) + wide(bias[i[1]]),
        epsilon,
        "group_norm",
    )


def _reference_groups(
    x: np.ndarray, scale: np.ndarray, bias: np.ndarray, groups: int, epsilon: float
) -> np.ndarray:
    rows = x.reshape(x.shape[0], groups, -1)
    distance = rows - rows.mean(axis=2, keepdims=True)
    flat = distance / np.sqrt(rows.var(axis=2, keepdims=True) + x.dtype.type(epsilon))
    return _scaled(flat.reshape(x.shape), scale, bias)


def _scaled(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return x * reference_channel(scale, x.ndim) + reference_channel(bias, x.ndim)  # type: ignore[no-any-return]


@group_norm.rule("numpy")
def _(
    x: np.ndarray, scale: np.ndarray, bias: np.ndarray, *, num_groups: int, epsilon: float
) -> np.ndarray:
    return _reference_groups(x, scale, bias, num_groups, epsilon)


def _groups_grad(
    tensors: tuple[GraphExpr, GraphExpr, GraphExpr], dout: GraphExpr, groups: Dim, epsilon: float
) -> tuple[GraphExpr, ...]:
    """The gradients of x, scale and bias where statistics cover each of `groups` of channels."""
    x, scale, bias = tensors
    n, _, *_ = plain_dims(dims_of(x))
    d, rank = widened(dout), ndim_of(x)
    rows = ops.reshape(widened(x), shape=(n, groups, -1))
    flat, inverse = standardised(rows, (2,), epsilon)
    d_scale, d_bias = channel_sum(d * reshape_like(flat, x)), channel_sum(d)
    d_flat = ops.reshape(d * per_channel(widened(scale), rank), shape=(n, groups, -1))
    d_rows = standardised_grad(d_flat, flat, inverse, (2,))
    d_x = cast_like(reshape_like(d_rows, x), x)
    return d_x, cast_like(d_scale, scale), cast_like(d_bias, bias)


@group_norm.rule("grad")
def _(
    x: GraphExpr,
    scale: GraphExpr,
    bias: GraphExpr,
    *,
    dout: GraphExpr,
    out: GraphExpr,
    num_groups: int,
    epsilon: float,
) -> tuple[GraphExpr, ...]:
    return _groups_grad((x, scale, bias), dout, num_groups, epsilon)


group_norm.samples(
    case(floats(2, 4, 3, 3), floats(4), floats(4), num_groups=2),
    case(floats(2, 6, 3), floats(6), floats(6), num_groups=3, epsilon=1e-2),
)


@operator("instance_norm", kind="reduction", dtypes="float")
def instance_norm(
    x: TensorType, scale: TensorType, bias: TensorType, *, epsilon: float = 1e-5
) -> TensorType:
    """Normalise x[N, C, *spatial] over the spatial axes, then scale[C] and bias[C]."""
    require_ndim(x, "x", 3)
    require_shape(scale, "scale", [x.shape[1]])
    require_shape(bias, "bias", [x.shape[1]])
    return x


@instance_norm.rule("compute")
def _(x: te.Tensor, scale: te.Tensor, bias: te.Tensor, *, epsilon: float) -> te.Tensor:
    loops = [te.reduce_axis(dim, f"r{axis}") for axis, dim in enumerate(x.shape[2:])]
    return _normalise_by(
        x,
        x.shape[:2],
        loops,
        lambda s: (*s, *loops),
        lambda i: (i[0], i[1]),
        lambda value, i: value * wide(scale[i[1]]) + wide(bias[i[1]]),
        epsilon,
        "instance_norm",
    )


@instance_norm.rule("numpy")
def _(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, *, epsilon: float) -> np.ndarray:
    return _reference_groups(x, scale, bias, x.shape[1], epsilon)


@instance_norm.rule("grad")
def _(
    x: GraphExpr,
    scale: GraphExpr,
    bias: GraphExpr,
    *,
    dout: GraphExpr,
    out: GraphExpr,
    epsilon: float,
) -> tuple[GraphExpr, ...]:
    return _groups_grad((x, scale, bias), dout, plain_dims(dims_of(x))[1], epsilon)


instance_norm.samples(case(floats(2, 3, 4, 4), floats(3), floats(3)))


@operator("batch_norm", kind="broadcast", dtypes="float")
def batch_norm(
    x: TensorType,
    scale: TensorType,
    bias: TensorType,
    mean: TensorType,
    variance: TensorType,
    *,
    epsilon: float = 1e-5,
) -> TensorType:
    """Batch normalisation at inference: (x - mean[c]) / sqrt(variance[c] + epsilon) * scale[c] +
    bias[c], c along axis 1."""
    require_ndim(x, "x", 2)
    for name, value in (("scale", scale), ("bias", bias), ("mean", mean), ("variance", variance)):
        require_shape(value, name, [x.shape[1]])
    return x


@batch_norm.rule("compute")
def _(
    x: te.Tensor,
    scale: te.Tensor,
    bias: te.Tensor,
    mean: te.Tensor,
    variance: te.Tensor,
    *,
    epsilon: float,
) -> te.Tensor:
    def body(*i: Expr) -> Expr:
        c = i[1]
        spread = wide(variance[c])
        inverse = intrin.rsqrt(spread + const(epsilon, spread.dtype))
        value = (wide(x[i]) - wide(mean[c])) * (inverse * wide(scale[c])) + wide(bias[c])
        return cast(value, x.dtype)

    return te.compute(x.shape, body, name="batch_norm")


@batch_norm.rule("numpy")
def _(
    x: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    *,
    epsilon: float,
) -> np.ndarray:
    factor = scale / np.sqrt(variance + x.dtype.type(epsilon))
    return _scaled(x - reference_channel(mean, x.ndim), factor, bias)


@batch_norm.rule("grad")
def _(
    x: GraphExpr,
    scale: GraphExpr,
    bias: GraphExpr,
    mean: GraphExpr,
    variance: GraphExpr,
    *,
    dout: GraphExpr,
    out: GraphExpr,
    epsilon: float,
) -> tuple[GraphExpr, ...]:
    rank, d = ndim_of(x), widened(dout)
    inverse = ops.rsqrt(widened(variance) + epsilon)
    factor = widened(scale) * inverse
    d_bias = channel_sum(d)
    # The sum of d * (x - mean) over each channel: all that scale and variance see of x.
    moment = channel_sum(d * (widened(x) - per_channel(widened(mean), rank)))
    d_variance = moment * factor * inverse * inverse * -0.5
    return (
        cast_like(d * per_channel(factor, rank), x),
        cast_like(moment * inverse, scale),
        cast_like(d_bias, bias),
        cast_like(-(d_bias * factor), mean),
        cast_like(d_variance, variance),
    )


batch_norm.samples(
    case(floats(2, 3, 4, 4), floats(3), floats(3), floats(3), floats(3, low=0.1, high=2)),
    case(floats(4, 3), floats(3), floats(3), floats(3), floats(3, low=0.1, high=2), epsilon=1e-3),
)


@operator("lrn", kind="reduction", dtypes="float")
def lrn(
    x: TensorType, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> TensorType:
    """Local response normalisation of x[N, C, ...]: x / (bias + alpha / size * s)^beta, s the sum
    of squares of the `size` channels around."""
    require_ndim(x, "x", 2)
    if size < 1:
        raise UserError(f"attribute `size` is {size}, expected at least 1")
    return x


@lrn.rule("compute")
def _(x: te.Tensor, *, size: int, alpha: float, beta: float, bias: float) -> te.Tensor:
    before = (size - 1) // 2
    padded = pad_tensor(x, [(before, size - 1 - before)], const(0, x.dtype), first=1)
    loop = te.reduce_axis(size, "r")

    def square(*i: Expr) -> Expr:
        value = wide(padded[(i[0], i[1] + loop.var, *i[2:])])
        return te.sum(value * value, axis=[loop])

    squares = te.compute(x.shape, square, name="lrn_square_sum")

    def body(*i: Expr) -> Expr:
        base = squares[i] * const(alpha / size, squares.dtype) + const(bias, squares.dtype)
        return cast(wide(x[i]) / intrin.pow(base, const(beta, base.dtype)), x.dtype)

    return te.compute(x.shape, body, name="lrn")


@lrn.rule("numpy")
def _(x: np.ndarray, *, size: int, alpha: float, beta: float, bias: float) -> np.ndarray:
    before = (size - 1) // 2
    squares = np.pad(x * x, [(0, 0), (before, size - 1 - before), *[(0, 0)] * (x.ndim - 2)])
    total = sum(squares[:, at : at + x.shape[1]] for at in range(size))
    return x / (bias + alpha / size * total) ** beta


def _channel_window(x: GraphExpr, before: int, after: int) -> GraphExpr:
    """The sum over the channels from `before` before to `after` after each."""
    rank, channels = ndim_of(x), dims_of(x)[1]
    padded = ops.pad(x, pads=(0, before, *(0,) * (rank - 1), after, *(0,) * (rank - 2)))
    total: GraphExpr | None = None
    for at in range(before + after + 1):
        ends = plain_dims([simplify_dim(channels + at)])
        part = ops.slice(padded, starts=(at,), ends=ends, axes=(1,))
        total = part if total is None else total + part
    assert total is not None
    return total


@lrn.rule("grad")
def _(
    x: GraphExpr,
    *,
    dout: GraphExpr,
    out: GraphExpr,
    size: int,
    alpha: float,
    beta: float,
    bias: float,
) -> GraphExpr:
    before = (size - 1) // 2
    after = size - 1 - before
    d, value = widened(dout), widened(x)
    base = _channel_window(value * value, before, after) * (alpha / size) + bias
    power = ops.pow(base, -beta)
    through = _channel_window(d * value * power / base, after, before)
    return cast_like(d * power - value * through * (2 * alpha * beta / size), x)


lrn.samples(case(floats(2, 5, 3, 3), size=3, alpha=0.1), case(floats(1, 4, 2), size=4, beta=0.5))
