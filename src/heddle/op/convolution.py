# SPDX-License-Identifier: Apache-2.0
"""Convolutions of one to three spatial axes, and their transposes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from heddle import te
from heddle.graph.nodes import GraphExpr
from heddle.ir import DType, TensorType
from heddle.ir.expr import EQ, Expr, all_of, as_int, cast, compare, const, if_then_else
from heddle.op.adjoint import cast_like, channel_sum, dims_of, ndim_of, reshape_like
from heddle.op.attribute import Ints
from heddle.op.common import (
    accumulator_dtype,
    cast_tensor,
    plain_dims,
    require_ndim,
    require_product_dtypes,
    require_same_dtype,
    require_shape,
    same_dim,
    show_dim,
    show_shape,
    simplify_dim,
    sum_over,
)
from heddle.op.registry import operator, ops
from heddle.op.sample import case, floats, ints
from heddle.op.window import Window, canonical_window, pad_tensor, window_shape, windows
from heddle.support import UserError


def add_bias(x: te.Tensor, bias: te.Tensor | None) -> te.Tensor:
    """`x` plus one number per channel (axis 1), as a compute of its own."""
    if bias is None:
        return x
    return te.compute(x.shape, lambda *i: x[i] + cast(bias[i[1]], x.dtype), name=f"{x.name}_bias")


def check_channels(x: TensorType, w: TensorType, groups: int) -> None:
    """`UserError` unless x[N, C, ...] fits w[O, C / groups, ...]."""
    require_ndim(x, "x", 3, 5)
    require_ndim(w, "w", x.ndim, x.ndim)
    if groups < 1:
        raise UserError(f"attribute `groups` is {groups}, expected at least 1")
    if not same_dim(x.shape[1], w.shape[1] * groups):
        raise UserError(
            f"`x` has {show_dim(x.shape[1])} channels, but `w` of shape {show_shape(w.shape)} "
            f"takes {show_dim(w.shape[1])} in each of {groups} groups"
        )
    outputs = as_int(w.shape[0])
    if outputs is not None and outputs % groups:
        raise UserError(f"{outputs} output channels do not divide into {groups} groups")


@operator("conv", kind="contraction", dtypes="number")
def conv(
    x: TensorType,
    w: TensorType,
    bias: TensorType | None = None,
    *,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
    out_dtype: DType | None = None,
    pad_value: int = 0,
) -> TensorType:
    """Convolution (correlation) of x[N, C, *spatial] with w[O, C / groups, *kernel], plus bias[O]:
    [N, O, *positions]. `pads` lists all begins, then all ends; around the image lies `pad_value`.
    Half precision accumulates in float32; `out_dtype` is the dtype to accumulate and return, and
    with it integers may differ in dtype."""
    assert strides is not None
    assert pads is not None
    assert dilations is not None
    require_product_dtypes(x, w, out_dtype)
    check_channels(x, w, groups)
    if bias is not None:
        require_shape(bias, "bias", [w.shape[0]])
    window = Window.of(w.shape[2:], strides, pads, dilations)
    return TensorType((x.shape[0], w.shape[0], *window.output(x.shape[2:])), out_dtype or x.dtype)


@conv.rule("normalise")
def _(x: TensorType, w: TensorType, bias: TensorType | None, **attrs: Any) -> dict[str, Any]:
    require_ndim(x, "x", 3, 5)
    return canonical_window(x.ndim - 2, attrs["strides"], attrs["pads"], attrs["dilations"])


@conv.rule("compute")
def _(
    x: te.Tensor,
    w: te.Tensor,
    bias: te.Tensor | None,
    *,
    strides: Ints,
    pads: Ints,
    dilations: Ints,
    groups: int,
    out_dtype: DType | None,
    pad_value: int,
) -> te.Tensor:
    dtype = out_dtype or accumulator_dtype(x.dtype)
    window = Window.of(w.shape[2:], strides, pads, dilations)
    padded = pad_tensor(x, window.pads, const(pad_value, x.dtype), first=2)
    rank = x.ndim - 2
    taps = [te.reduce_axis(w.shape[2 + axis], f"k{axis}") for axis in range(rank)]
    in_group, out_group = w.shape[1], w.shape[0] // groups
    ic = te.reduce_axis(in_group, "ic")
    depthwise = groups > 1 and as_int(in_group) == 1

    def body(n: Expr, oc: Expr, *position: Expr) -> Expr:
        at = [window.at(axis, position[axis], taps[axis]) for axis in range(rank)]
        lane = const(0) if depthwise else ic.var
        channel = lane if groups == 1 else oc // out_group * in_group + lane
        value = cast(padded[(n, channel, *at)], dtype) * cast(w[(oc, lane, *taps)], dtype)
        return sum_over(value, taps if depthwise else [ic, *taps])

    shape = (x.shape[0], w.shape[0], *window.output(x.shape[2:]))
    result = add_bias(te.compute(shape, body, name="conv"), bias)
    return cast_tensor(result, out_dtype or x.dtype)


def reference_conv(
    x: np.ndarray, w: np.ndarray, window: Window, groups: int, dtype: Any, *, fill: int = 0
) -> np.ndarray:
    """Convolution by gathering all windows and one product per group."""
    kernel = w.shape[2:]
    columns = windows(
        x,
        kernel,
        window.strides,
        window.pads,
        window.dilations,
        window_shape(x.shape, window),
        fill,
    ).astype(dtype)
    rank = len(kernel)
    parts = []
    for data, weight in zip(
        np.split(columns, groups, axis=1), np.split(w.astype(dtype), groups, axis=0), strict=True
    ):
        contracted = [1, *range(2 + rank, 2 + 2 * rank)]
        part = np.tensordot(data, weight, axes=(contracted, [1, *range(2, 2 + rank)]))
        parts.append(np.moveaxis(part, -1, 1))
    return np.concatenate(parts, axis=1)


def per_channel(value: np.ndarray, ndim: int) -> np.ndarray:
    """value[C] shaped to broadcast along axis 1 of `ndim` axes."""
    return value.reshape(1, -1, *(1,) * (ndim - 2))


@conv.rule("numpy")
def _(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    *,
    strides: Ints,
    pads: Ints,
    dilations: Ints,
    groups: int,
    out_dtype: DType | None,
    pad_value: int,
) -> np.ndarray:
    window = Window.of([const(k) for k in w.shape[2:]], strides, pads, dilations)
    dtype = out_dtype.numpy if out_dtype else x.dtype
    result = reference_conv(x, w, window, groups, dtype, fill=pad_value)
    return result if bias is None else result + per_channel(bias, x.ndim)


@conv.rule("grad")
def _(
    x: GraphExpr,
    w: GraphExpr,
    bias: GraphExpr | None,
    *,
    dout: GraphExpr,
    out: GraphExpr,
    out_dtype: DType | None,
    pad_value: int,
    **attrs: Any,
) -> tuple[GraphExpr | None, ...]:
    """For x the transposed convolution; with strides it is done as a product that gives what each
    window adds to x, and the sum of the windows. For w see `_kernel_grad`."""
    data, kernel = cast_like(x, dout), cast_like(w, dout)
    if max(attrs["strides"]) > 1:
        d_x = _windows_grad(x, kernel, dout, attrs)
    else:
        d_x = ops.conv_transpose(dout, kernel, **attrs)
    d_bias = None if bias is None else cast_like(channel_sum(dout), bias)
    d_w = _kernel_grad(data, dout, w, attrs, pad_value=pad_value)
    return cast_like(d_x, x), cast_like(d_w, w), d_bias


def _windows_grad(x: GraphExpr, w: GraphExpr, dout: GraphExpr, attrs: dict[str, Any]) -> GraphExpr:
    """The gradient of x[N, C, *spatial]: in each group the product of matrices [C / groups * k,
    O / groups] and, for each image, [O / groups, p] is what the windows add at their taps."""
    groups, rank = attrs["groups"], ndim_of(x) - 2
    n, channels, *spatial = plain_dims(dims_of(x))
    positions = plain_dims(dims_of(dout)[2:])
    _, in_group, *taps = plain_dims(dims_of(w))
    [out_group] = plain_dims([simplify_dim(dims_of(w)[0] // groups)])
    kernel = ops.reshape(w, shape=(groups, out_group, in_group * math.prod(taps)))
    kernel = ops.transpose(kernel, permutation=(0, 2, 1))
    rows = ops.reshape(dout, shape=(n, groups, out_group, -1))
    added = ops.reshape(ops.matmul(kernel, rows), shape=(n, channels, *taps, *positions))
    order = (0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
    steps = {name: attrs[name] for name in ("strides", "pads", "dilations")}
    return ops.fold(ops.transpose(added, permutation=order), shape=tuple(spatial), **steps)


def _kernel_grad(
    x: GraphExpr, dout: GraphExpr, w: GraphExpr, attrs: dict[str, Any], *, pad_value: int = 0
) -> GraphExpr:
    """The gradient of w[O, C / groups, *kernel]: element (o, c, k) is the sum over all images n and
    positions p of dout[n, o, p] * x[n, c, p * stride + k * dilation]. In each group that is the
    product of a matrix [O / groups, n * p] and the matrix of all windows, [n * p, C / groups * k].
    """
    groups, rank = attrs["groups"], ndim_of(x) - 2
    n, _, *positions = plain_dims(dims_of(dout))
    _, in_group, *taps = plain_dims(dims_of(w))
    [out_group] = plain_dims([simplify_dim(dims_of(w)[0] // groups)])
    steps = {name: attrs[name] for name in ("strides", "pads", "dilations")}
    windows = ops.unfold(x, kernel=tuple(taps), value=pad_value, **steps)
    # Where a transposed convolution adds padding to its result, that may hold windows more.
    space = tuple(range(2, 2 + rank))
    windows = ops.slice(windows, starts=(0,) * rank, ends=tuple(positions), axes=space)
    columns = ops.reshape(windows, shape=(n, groups, in_group, *positions, *taps))
    space = tuple(range(3, 3 + rank))
    order = (1, 0, *space, 2, *range(3 + rank, 3 + 2 * rank))
    columns = ops.transpose(columns, permutation=order)
    columns = ops.reshape(columns, shape=(groups, -1, in_group * math.prod(taps)))
    rows = ops.reshape(dout, shape=(n, groups, out_group, *positions))
    rows = ops.transpose(rows, permutation=(1, 2, 0, *space))
    rows = ops.reshape(rows, shape=(groups, out_group, -1))
    if groups == 1:
        rows, columns = ops.squeeze(rows, axes=(0,)), ops.squeeze(columns, axes=(0,))
    return reshape_like(ops.matmul(rows, columns), w)


conv.samples(
    case(floats(1, 3, 5, 5), floats(4, 3, 3, 3), pads=(1, 1, 1, 1)),
    case(floats(2, 3, 6, 5), floats(4, 3, 3, 2), floats(4), strides=(2, 1), pads=(1, 0, 0, 1)),
    case(floats(1, 4, 5, 5), floats(6, 2, 3, 3), groups=2),
    case(floats(1, 4, 5, 5), floats(4, 1, 3, 3), groups=4, dilations=(2, 2)),
    case(floats(1, 2, 5, 5), floats(4, 1, 1, 1), groups=2),
    case(floats(1, 3, 8), floats(2, 3, 3), strides=2, pads=(1, 1)),
    case(floats(1, 2, 3, 3, 3), floats(2, 2, 2, 2, 2)),
    case(floats(1, 2, 4, 4, dtype="float16"), floats(2, 2, 3, 3, dtype="float16")),
    case(ints(1, 2, 4, 4, dtype="int8"), ints(2, 2, 3, 3, dtype="int8"), out_dtype="int32"),
    case(
        ints(1, 2, 4, 4, high=255, dtype="uint8"),
        ints(2, 2, 3, 3, low=-128, dtype="int8"),
        out_dtype="int32",
        pads=(1, 1, 1, 1),
        pad_value=200,
    ),
)


# -- transposed ------------------------------------------------------------------------------


@operator("conv_transpose", kind="contraction", dtypes="number")
def conv_transpose(
    x: TensorType,
    w: TensorType,
    bias: TensorType | None = None,
    *,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
    output_padding: Ints | None = None,
) -> TensorType:
    """The transpose (gradient) of a convolution: x[N, C, *spatial] spread by w[C, O / groups,
    *kernel], plus bias[O]. An axis of size s becomes
    (s - 1) * stride - pads + (kernel - 1) * dilation + 1 + output_padding."""
    assert strides is not None
    assert pads is not None
    assert dilations is not None
    assert output_padding is not None
    require_same_dtype(x, w)
    require_ndim(w, "w", x.ndim, x.ndim)
    if not same_dim(x.shape[1], w.shape[0]):
        raise UserError(
            f"`x` has {show_dim(x.shape[1])} channels, but `w` takes {show_dim(w.shape[0])}"
        )
    inputs = as_int(w.shape[0])
    if groups < 1 or (inputs is not None and inputs % groups):
        raise UserError(f"{inputs} input channels do not divide into {groups} groups")
    if bias is not None:
        require_shape(bias, "bias", [w.shape[1] * groups])
    return TensorType(
        _spread_shape(x, w, strides, pads, dilations, groups, output_padding), x.dtype
    )


def _spread_shape(
    x: Any, w: Any, strides: Ints, pads: Ints, dilations: Ints, groups: int, output_padding: Ints
) -> tuple[Expr, ...]:
    rank = len(strides)
    sizes = [
        (x.shape[2 + axis] - 1) * strides[axis]
        + (w.shape[2 + axis] - 1) * dilations[axis]
        + (1 + output_padding[axis] - pads[axis] - pads[rank + axis])
        for axis in range(rank)
    ]
    return (x.shape[0], w.shape[1] * groups, *sizes)


@conv_transpose.rule("normalise")
def _(x: TensorType, w: TensorType, bias: TensorType | None, **attrs: Any) -> dict[str, Any]:
    require_ndim(x, "x", 3, 5)
    rank = x.ndim - 2
    filled = canonical_window(rank, attrs["strides"], attrs["pads"], attrs["dilations"])
    extra = attrs["output_padding"]
    filled["output_padding"] = (0,) * rank if extra is None else extra
    if len(filled["output_padding"]) != rank:
        raise UserError(f"attribute `output_padding` is {extra}, expected {rank} integers")
    return filled


@conv_transpose.rule("compute")
def _(
    x: te.Tensor,
    w: te.Tensor,
    bias: te.Tensor | None,
    *,
    strides: Ints,
    pads: Ints,
    dilations: Ints,
    groups: int,
    output_padding: Ints,
) -> te.Tensor:
    """Each output reads only the taps that reach it: those congruent to its position modulo the
    stride. No zero is multiplied but at the borders."""
    rank = len(strides)
    dtype = accumulator_dtype(x.dtype)
    kernel = _dilate(w, dilations)
    taps: list[te.ReduceAxis | None] = []
    margins, tails = [], []
    for axis in range(rank):
        span = kernel.shape[2 + axis]
        count = (span + (strides[axis] - 1)) // strides[axis]
        known, width = as_int(count), as_int(span)
        if known is None or width is None:
            raise UserError(f"the kernel of shape {show_shape(w.shape)} must be static")
        taps.append(te.reduce_axis(count, f"k{axis}") if known > 1 else None)
        reach = (width - 1 + output_padding[axis] - pads[rank + axis]) // strides[axis]
        margins.append((known - 1, max(0, reach)))
        tails.append((0, known * strides[axis] - width))
    padded = pad_tensor(x, margins, const(0, x.dtype), first=2)
    full = pad_tensor(kernel, tails, const(0, w.dtype), first=2, name="pad_kernel")
    in_group, out_group = w.shape[0] // groups, w.shape[1]
    ic = te.reduce_axis(in_group, "ic")

    def body(n: Expr, oc: Expr, *position: Expr) -> Expr:
        channel = ic.var if groups == 1 else oc // out_group * in_group + ic.var
        source, tap = [], []
        for axis in range(rank):
            at = position[axis] + pads[axis]
            loop = taps[axis]
            step: Expr = const(0) if loop is None else loop.var
            source.append(at // strides[axis] + margins[axis][0] - step)
            tap.append(at % strides[axis] + step * strides[axis])
        out = oc if groups == 1 else oc % out_group
        value = cast(padded[(n, channel, *source)], dtype) * cast(full[(channel, out, *tap)], dtype)
        return te.sum(value, axis=[ic, *(loop for loop in taps if loop is not None)])

    shape = _spread_shape(x, w, strides, pads, dilations, groups, output_padding)
    result = add_bias(te.compute(shape, body, name="conv_transpose"), bias)
    return cast_tensor(result, x.dtype)


def _dilate(w: te.Tensor, dilations: Ints) -> te.Tensor:
    """The kernel with zeros between its taps."""
    if all(step == 1 for step in dilations):
        return w
    spatial = [(dim - 1) * step + 1 for dim, step in zip(w.shape[2:], dilations, strict=True)]

    def body(o: Expr, c: Expr, *k: Expr) -> Expr:
        hit = [compare(EQ, at % s, 0) for at, s in zip(k, dilations, strict=True)]
        at = [at // s for at, s in zip(k, dilations, strict=True)]
        return if_then_else(all_of(*hit), w[(o, c, *at)], const(0, w.dtype))

    return te.compute((*w.shape[:2], *spatial), body, name="dilate_kernel")


@conv_transpose.rule("numpy")
def _(
    x: np.ndarray,
    w: np.ndarray,
    bias: np.ndarray | None,
    *,
    strides: Ints,
    pads: Ints,
    dilations: Ints,
    groups: int,
    output_padding: Ints,
) -> np.ndarray:
    rank = len(strides)
    kernel, size = w.shape[2:], x.shape[2:]
    full = [
        (size[a] - 1) * strides[a] + (kernel[a] - 1) * dilations[a] + 1 + output_padding[a]
        for a in range(rank)
    ]
    result = np.zeros((x.shape[0], w.shape[1] * groups, *full), dtype=x.dtype)
    for tap in np.ndindex(*kernel):
        parts = [
            np.einsum("nc...,co->no...", data, weight)
            for data, weight in zip(
                np.split(x, groups, axis=1),
                np.split(w[(slice(None), slice(None), *tap)], groups, axis=0),
                strict=True,
            )
        ]
        where = tuple(
            slice(
                tap[a] * dilations[a],
                tap[a] * dilations[a] + (size[a] - 1) * strides[a] + 1,
                strides[a],
            )
            for a in range(rank)
        )
        result[(slice(None), slice(None), *where)] += np.concatenate(parts, axis=1)
    kept = tuple(slice(pads[a], full[a] - pads[rank + a]) for a in range(rank))
    cropped = result[(slice(None), slice(None), *kept)]
    return cropped if bias is None else cropped + per_channel(bias, x.ndim)


@conv_transpose.rule("grad")
def _(
    x: GraphExpr,
    w: GraphExpr,
    bias: GraphExpr | None,
    *,
    dout: GraphExpr,
    out: GraphExpr,
    output_padding: Ints,
    **attrs: Any,
) -> tuple[GraphExpr | None, ...]:
    """x and the result change places in a convolution with w."""
    rank = ndim_of(x) - 2
    d_x = ops.conv(dout, w, **attrs)
    sizes = plain_dims(dims_of(x)[2:])
    d_x = ops.slice(d_x, starts=(0,) * rank, ends=sizes, axes=tuple(range(2, 2 + rank)))
    d_bias = None if bias is None else cast_like(channel_sum(dout), bias)
    return d_x, _kernel_grad(dout, x, w, attrs), d_bias


conv_transpose.samples(
    case(floats(1, 3, 4, 4), floats(3, 2, 2, 2), floats(2), strides=(2, 2)),
    case(floats(1, 3, 4, 3), floats(3, 2, 3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
    case(
        floats(1, 2, 4, 3), floats(2, 2, 3, 3), strides=2, pads=(1, 0, 1, 1), output_padding=(1, 1)
    ),
    case(floats(1, 4, 5), floats(4, 2, 3), groups=2),
    case(floats(1, 2, 4), floats(2, 1, 3), dilations=2, strides=3),
    case(floats(1, 1, 3, 3), floats(1, 2, 3, 3)),
    case(floats(1, 1, 3), floats(1, 1, 2), strides=3),
)
