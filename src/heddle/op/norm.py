# SPDX-License-Identifier: Apache-2.0
"""Softmax and normalisations. Each stage is a compute of its own, so that schedules see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from heddle import te
from heddle.ir import TensorType
from heddle.ir.expr import Expr, cast, const
from heddle.op.common import (
    accumulator_dtype,
    normal_axis,
    product,
    require_ndim,
    require_shape,
    same_dim,
    show_dim,
    simplify_dim,
    wide,
)
from heddle.op.convolution import per_channel
from heddle.op.reduce import reduce_tensor
from heddle.op.registry import operator
from heddle.op.sample import case, floats
from heddle.op.window import pad_tensor
from heddle.support import UserError
from heddle.tir import intrin


def _canonical_axis(x: TensorType, *_rest: Any, axis: int, **_attrs: Any) -> dict[str, Any]:
    return {"axis": normal_axis(axis, x.ndim)}


def _without(indices: Sequence[Expr], axis: int) -> tuple[Expr, ...]:
    return (*indices[:axis], *indices[axis + 1 :])


def _softmax_stages(x: te.Tensor, axis: int, name: str) -> tuple[te.Tensor, te.Tensor, te.Tensor]:
    """Maximum, exponentials of the distance to it, and their sum."""
    largest = reduce_tensor(x, (axis,), te.max, wide, f"{name}_max")
    exponential = te.compute(
        x.shape,
        lambda *i: intrin.exp(wide(x[i]) - largest[_without(i, axis)]),
        name=f"{name}_exp",
    )
    total = reduce_tensor(exponential, (axis,), te.sum, lambda v: v, f"{name}_sum")
    return largest, exponential, total


@operator("softmax", kind="reduction", dtypes="float")
def softmax(x: TensorType, *, axis: int = -1) -> TensorType:
    """exp(x) / sum(exp(x)) along an axis, computed without overflow."""
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


log_softmax.samples(*_SOFTMAX_SAMPLES)


# -- layer and rms norm ----------------------------------------------------------------------


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


rms_norm.samples(case(floats(3, 8), floats(8)), case(floats(2, 3, 4), axis=1))


# -- group, instance, batch norm, lrn --------------------------------------------------------


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
    return flat.reshape(x.shape) * per_channel(scale, x.ndim) + per_channel(bias, x.ndim)  # type: ignore[no-any-return]


@group_norm.rule("numpy")
def _(
    x: np.ndarray, scale: np.ndarray, bias: np.ndarray, *, num_groups: int, epsilon: float
) -> np.ndarray:
    return _reference_groups(x, scale, bias, num_groups, epsilon)


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
    return (x - per_channel(mean, x.ndim)) * per_channel(factor, x.ndim) + per_channel(bias, x.ndim)  # type: ignore[no-any-return]


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


lrn.samples(case(floats(2, 5, 3, 3), size=3, alpha=0.1), case(floats(1, 4, 2), size=4, beta=0.5))
