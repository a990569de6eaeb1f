# SPDX-License-Identifier: Apache-2.0
"""Products of low precision with operands in the order that dot product instructions read.

Such an instruction adds, to each lane of its accumulator, the sum of `d` products of neighbours:
d = 4 for bytes (uint8 times int8, added up in int32), d = 2 for bfloat16 (in float32). The right
operand holds, for each lane, its d factors side by side.

Integer products are raw: what zero points add is made of sums of the operands, and is added
outside, mostly as a constant.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from heddle import te
from heddle.ir import DType, TensorType
from heddle.ir.expr import Expr, all_of, as_expr, as_int, cast, const, if_then_else
from heddle.op.attribute import Dim, Ints
from heddle.op.common import (
    ceil_div,
    require_ndim,
    require_shape,
    same_dim,
    same_shape,
    show_dim,
    show_shape,
)
from heddle.op.convolution import reference_conv
from heddle.op.layout import Layout, to_plain
from heddle.op.registry import operator
from heddle.op.sample import case, floats, ints
from heddle.op.window import Window, canonical_window, pad_tensor
from heddle.support import UserError

DOT_DEPTH = {"uint8": 4, "bfloat16": 2}
"""How many products an instruction adds up, by the dtype of the left operand."""

_RESULTS = {("uint8", "int8"): "int32", ("bfloat16", "bfloat16"): "float32"}


def dot_result(x: TensorType, w: TensorType) -> DType:
    """The dtype in which products of `x` and `w` are added up; `UserError` for other pairs."""
    found = _RESULTS.get((x.dtype.name, w.dtype.name))
    if found is None:
        raise UserError(
            f"the operands are {x.dtype} and {w.dtype}, expected uint8 and int8, or bfloat16 both"
        )
    return DType.of(found)


# -- matrices --------------------------------------------------------------------------------


@operator("pack_dot", kind="injective", dtypes="number")
def pack_dot(w: TensorType, *, width: int, depth: int, transposed: bool = False) -> TensorType:
    """w[..., K, N] (w[..., N, K] when transposed) as panels [..., ceil(N / width),
    ceil(K / depth), width, depth]: element [p, k, j, d] is w[k * depth + d, p * width + j], zero
    beyond K and N."""
    require_ndim(w, "w", 2)
    if width < 1 or depth < 1:
        raise UserError(f"width and depth must be positive, got {width} and {depth}")
    columns, rows = _matrix(w.shape, transposed=transposed)
    tail = (ceil_div(columns, width), ceil_div(rows, depth), const(width), const(depth))
    return TensorType((*w.shape[:-2], *tail), w.dtype)


def _matrix(shape: Any, *, transposed: bool) -> Any:
    """(columns, rows) of the last two axes."""
    return (shape[-2], shape[-1]) if transposed else (shape[-1], shape[-2])


@pack_dot.rule("compute")
def _(w: te.Tensor, *, width: int, depth: int, transposed: bool) -> te.Tensor:
    columns, rows = _matrix(w.shape, transposed=transposed)

    def body(*i: Expr) -> Expr:
        *lead, p, k, j, d = i
        row, column = k * depth + d, p * width + j
        tail = (column, row) if transposed else (row, column)
        inside = []
        if (as_int(columns) or 1) % width or as_int(columns) is None:
            inside.append(column < columns)
        if (as_int(rows) or 1) % depth or as_int(rows) is None:
            inside.append(row < rows)
        value = w[(*lead, *tail)]
        return if_then_else(all_of(*inside), value, const(0, w.dtype)) if inside else value

    tail = (ceil_div(columns, width), ceil_div(rows, depth), const(width), const(depth))
    return te.compute((*w.shape[:-2], *tail), body, name="pack_dot")


@pack_dot.rule("numpy")
def _(w: np.ndarray, *, width: int, depth: int, transposed: bool) -> np.ndarray:
    matrix = np.swapaxes(w, -1, -2) if transposed else w
    *lead, rows, columns = matrix.shape
    edges = [(0, -rows % depth), (0, -columns % width)]
    full = np.pad(matrix, [(0, 0)] * len(lead) + edges)
    split = full.reshape(*lead, -1, depth, full.shape[-1] // width, width)
    at = len(lead)
    return split.transpose(*range(at), at + 2, at, at + 3, at + 1)


pack_dot.samples(
    case(ints(8, 8, dtype="int8"), width=4, depth=4),
    case(ints(6, 7, dtype="int8"), width=4, depth=4),
    case(ints(2, 7, 6, dtype="int8"), width=4, depth=4, transposed=True),
    case(floats(6, 8, dtype="bfloat16"), width=4, depth=2),
)


@operator("matmul_dot", kind="contraction", dtypes="number")
def matmul_dot(x: TensorType, w: TensorType, *, n: Dim) -> TensorType:
    """x[..., M, K] times a matrix of n columns packed by `pack_dot` as w[P, K / d, width, d], or
    one for each of the leading axes of x, w[..., P, K / d, width, d]: [..., M, n], the plain sums
    of products, in int32 (uint8 times int8) or float32 (bfloat16). K is a multiple of d."""
    result = dot_result(x, w)
    require_ndim(x, "x", 1)
    require_ndim(w, "w", 4)
    if as_int(w.shape[-1]) != DOT_DEPTH[x.dtype.name]:
        raise UserError(f"`w` of shape {show_shape(w.shape)} is not packed for {x.dtype}")
    if not same_dim(x.shape[-1], w.shape[-3] * w.shape[-1]):
        raise UserError(
            f"the inner dimensions differ: `x` has {show_dim(x.shape[-1])}, "
            f"`w` has {show_dim(w.shape[-3] * w.shape[-1])}"
        )
    if w.ndim > 4 and not same_shape(x.shape[:-2], w.shape[:-4]):
        raise UserError(
            f"leading axes differ: {show_shape(x.shape[:-2])} and {show_shape(w.shape[:-4])}"
        )
    panels, width, columns = as_int(w.shape[-4]), as_int(w.shape[-2]), as_int(n)
    if panels is not None and width is not None and columns is not None:
        if not (panels - 1) * width < columns <= panels * width:
            raise UserError(f"{panels} panels of {width} columns do not hold n = {columns} columns")
    return TensorType((*x.shape[:-1], as_expr(n)), result)


@matmul_dot.rule("compute")
def _(x: te.Tensor, w: te.Tensor, *, n: Dim) -> te.Tensor:
    dtype = DType.of(_RESULTS[x.dtype.name, w.dtype.name])
    width, depth = w.shape[-2], as_int(w.shape[-1])
    assert depth is not None
    outer, inner = te.reduce_axis(w.shape[-3], "k"), te.reduce_axis(depth, "d")

    def body(*i: Expr) -> Expr:
        left = x[(*i[:-1], outer * depth + inner)]
        lead = i[:-2] if w.ndim > 4 else ()
        right = w[(*lead, i[-1] // width, outer, i[-1] % width, inner)]
        return te.sum(cast(left, dtype) * cast(right, dtype), axis=[outer, inner])

    # Whole panels, so that no instruction is cut short; what lies past column n is zero.
    columns, panels = as_int(n), as_int(w.shape[-4])
    known = columns is not None and panels is not None
    full = w.shape[-4] * width if known else as_expr(n)
    product = te.compute((*x.shape[:-1], full), body, name="matmul_dot")
    if not known or as_int(full) == columns:
        return product
    shape = (*x.shape[:-1], as_expr(n))
    return te.compute(shape, lambda *i: product[i], name="matmul_dot_columns")


@matmul_dot.rule("numpy")
def _(x: np.ndarray, w: np.ndarray, *, n: int) -> np.ndarray:
    *lead, panels, steps, width, depth = w.shape
    at = len(lead)
    order = (*range(at), at + 1, at + 3, at, at + 2)
    matrix = w.transpose(order).reshape(*lead, steps * depth, panels * width)[..., :n]
    kind = np.float32 if x.dtype.kind == "f" else np.int32
    return np.matmul(x.astype(kind), matrix.astype(kind))  # type: ignore[no-any-return]


matmul_dot.samples(
    case(ints(3, 8, high=255, dtype="uint8"), ints(2, 2, 4, 4, low=-128, dtype="int8"), n=7),
    case(ints(2, 3, 8, dtype="uint8"), ints(2, 2, 2, 4, 4, low=-9, dtype="int8"), n=8),
    case(floats(3, 6, dtype="bfloat16"), floats(2, 3, 4, 2, dtype="bfloat16"), n=7),
)


# -- images ----------------------------------------------------------------------------------


@operator("row_taps", kind="injective", dtypes="number")
def row_taps(
    x: TensorType,
    *,
    kernel: int,
    block: int,
    stride: int = 1,
    pads: Ints = (0, 0),
    dilation: int = 1,
    pad_value: int = 0,
) -> TensorType:
    """The taps of one row of a window over x[N, 1, H, W, c] side by side, as channels
    [N, 1, H, W', block]: channel k * c + j at column v is channel j of column
    v * stride + k * dilation - pads[0], and zero for k from `kernel` on. Around each line lie
    `pads` columns of `pad_value`. A convolution of few channels becomes one of many, whose window
    is one column wide."""
    require_ndim(x, "x", 5, 5)
    channels = as_int(x.shape[4])
    if as_int(x.shape[1]) != 1 or channels is None:
        raise UserError(f"`x` of shape {show_shape(x.shape)} is not one block of known size")
    if min(kernel, stride, dilation) < 1 or len(pads) != 2 or block < kernel * channels:
        raise UserError(
            f"a kernel of {kernel} taps, stride {stride}, dilation {dilation} and pads {pads} over "
            f"{channels} channels do not make blocks of {block}"
        )
    (width,) = _line(kernel, stride, pads, dilation).output(x.shape[3:4])
    return TensorType((*x.shape[:3], width, const(block)), x.dtype)


def _line(kernel: int, stride: int, pads: Ints, dilation: int) -> Window:
    return Window.of((const(kernel),), (stride,), pads, (dilation,))


@row_taps.rule("compute")
def _(
    x: te.Tensor,
    *,
    kernel: int,
    block: int,
    stride: int,
    pads: Ints,
    dilation: int,
    pad_value: int,
) -> te.Tensor:
    channels, (before, after) = as_int(x.shape[4]), pads
    assert channels is not None

    def body(n: Expr, one: Expr, h: Expr, v: Expr, lane: Expr) -> Expr:
        column = v * stride + lane // channels * dilation - before
        inside = [column >= 0] if before else []
        inside += [column < x.shape[3]] if after else []
        value = x[n, one, h, column, lane % channels]
        if inside:
            value = if_then_else(all_of(*inside), value, const(pad_value, x.dtype))
        is_tap = lane < kernel * channels
        return (
            value if block == kernel * channels else if_then_else(is_tap, value, const(0, x.dtype))
        )

    (width,) = _line(kernel, stride, pads, dilation).output(x.shape[3:4])
    return te.compute((*x.shape[:3], width, const(block)), body, name="row_taps")


@row_taps.rule("numpy")
def _(
    x: np.ndarray,
    *,
    kernel: int,
    block: int,
    stride: int,
    pads: Ints,
    dilation: int,
    pad_value: int,
) -> np.ndarray:
    filled = np.pad(x, [*[(0, 0)] * 3, tuple(pads), (0, 0)], constant_values=pad_value)
    width = (filled.shape[3] - (kernel - 1) * dilation - 1) // stride + 1
    result = np.zeros((*x.shape[:3], width, block), x.dtype)
    for tap in range(kernel):
        first, last = tap * dilation, tap * dilation + (width - 1) * stride + 1
        at = slice(tap * x.shape[4], (tap + 1) * x.shape[4])
        result[..., at] = filled[:, :, :, first:last:stride]
    return result


row_taps.samples(
    case(floats(1, 1, 3, 9, 4, dtype="bfloat16"), kernel=3, block=16, stride=2, pads=(1, 1)),
    case(ints(2, 1, 2, 8, 3, dtype="uint8"), kernel=2, block=6, dilation=2),
    case(ints(1, 1, 2, 6, 4, dtype="uint8"), kernel=3, block=16, pads=(2, 0), pad_value=7),
)


@operator("conv2d_dot", kind="contraction", dtypes="number")
def conv2d_dot(
    x: TensorType,
    w: TensorType,
    *,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
    pad_value: int = 0,
) -> TensorType:
    """The convolution of x[N, Cb, H, W, ci] with w[Ob, Ib, KH, KW, ci / d, co, d]:
    [N, Ob, H', W', co], the plain sums of products, in int32 (uint8 times int8) or float32
    (bfloat16). Around the image lies `pad_value`. With groups, Ib is the number of input blocks in
    a group."""
    assert strides is not None
    assert pads is not None
    assert dilations is not None
    result = dot_result(x, w)
    require_ndim(x, "x", 5, 5)
    require_ndim(w, "w", 7, 7)
    depth, blocks = DOT_DEPTH[x.dtype.name], as_int(w.shape[0])
    require_shape(w, "w", (*w.shape[:4], x.shape[4] // depth, w.shape[5], const(depth)))
    if groups < 1 or (blocks is not None and blocks % groups):
        raise UserError(f"{blocks} blocks of outputs do not divide into {groups} groups")
    if not same_dim(x.shape[1], w.shape[1] * groups) or (as_int(x.shape[4]) or 0) % depth:
        raise UserError(
            f"`x` of shape {show_shape(x.shape)} has not the channels that `w` of shape "
            f"{show_shape(w.shape)} takes in {groups} groups"
        )
    window = Window.of(w.shape[2:4], strides, pads, dilations)
    spatial = window.output(x.shape[2:4])
    return TensorType((x.shape[0], w.shape[0], *spatial, w.shape[5]), result)


@conv2d_dot.rule("normalise")
def _(x: TensorType, w: TensorType, **attrs: Any) -> dict[str, Any]:
    return canonical_window(2, attrs["strides"], attrs["pads"], attrs["dilations"])


@conv2d_dot.rule("compute")
def _(
    x: te.Tensor,
    w: te.Tensor,
    *,
    strides: Ints,
    pads: Ints,
    dilations: Ints,
    groups: int,
    pad_value: int,
) -> te.Tensor:
    dtype = DType.of(_RESULTS[x.dtype.name, w.dtype.name])
    window = Window.of(w.shape[2:4], strides, pads, dilations)
    padded = pad_tensor(x, window.pads, const(pad_value, x.dtype), first=2)
    kh, kw = te.reduce_axis(w.shape[2], "kh"), te.reduce_axis(w.shape[3], "kw")
    depth = as_int(w.shape[6])
    assert depth is not None
    icb, outer = te.reduce_axis(w.shape[1], "icb"), te.reduce_axis(w.shape[4], "ici")
    inner = te.reduce_axis(depth, "d")
    out_group = w.shape[0] // groups

    def body(n: Expr, ob: Expr, h: Expr, v: Expr, oc: Expr) -> Expr:
        block = icb.var if groups == 1 else ob // out_group * w.shape[1] + icb.var
        place = (n, block, window.at(0, h, kh), window.at(1, v, kw), outer * depth + inner)
        weight = w[ob, icb, kh, kw, outer, oc, inner]
        total = cast(padded[place], dtype) * cast(weight, dtype)
        return te.sum(total, axis=[icb, kh, kw, outer, inner])

    shape = (x.shape[0], w.shape[0], *window.output(x.shape[2:4]), w.shape[5])
    return te.compute(shape, body, name="conv2d_dot")


@conv2d_dot.rule("numpy")
def _(
    x: np.ndarray,
    w: np.ndarray,
    *,
    strides: Ints,
    pads: Ints,
    dilations: Ints,
    groups: int,
    pad_value: int,
) -> np.ndarray:
    data = to_plain(x, Layout("", (("N", 0), ("C", 0), ("H", 0), ("W", 0), ("C", 1))))
    ob, ib, kh, kw, steps, co, depth = w.shape
    weight = w.transpose(0, 5, 1, 4, 6, 2, 3).reshape(ob * co, ib * steps * depth, kh, kw)
    window = Window.of([const(kh), const(kw)], strides, pads, dilations)
    kind = np.float32 if x.dtype.kind == "f" else np.int32
    result = reference_conv(data, weight, window, groups, kind, fill=pad_value)
    n, _c, h, v = result.shape
    return result.reshape(n, ob, co, h, v).transpose(0, 1, 3, 4, 2)


conv2d_dot.samples(
    case(
        ints(1, 2, 4, 4, 4, high=255, dtype="uint8"),
        ints(2, 2, 3, 3, 1, 4, 4, low=-128, high=127, dtype="int8"),
        pads=(1, 1, 1, 1),
        pad_value=3,
    ),
    case(
        ints(1, 4, 5, 4, 4, dtype="uint8"),
        ints(2, 2, 2, 2, 1, 4, 4, low=-9, dtype="int8"),
        strides=(2, 2),
        groups=2,
    ),
    case(floats(1, 1, 4, 4, 4, dtype="bfloat16"), floats(2, 1, 3, 3, 2, 4, 2, dtype="bfloat16")),
)
