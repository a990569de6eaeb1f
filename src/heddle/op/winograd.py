# SPDX-License-Identifier: Apache-2.0
"""Winograd convolution on blocked layouts.

The output is cut into tiles of m x m. From the a x a pixels that the windows of a tile reach (with
filters of r x r, a = m + r - 1), its outputs follow with a^2 products a channel, not m^2 r^2:

    Y = A^T [sum over input channels of (G g G^T) * (B^T d B)] A

`toom_cook` makes the matrices. Weights come transformed (`transform_weights`); the input is
transformed tile by tile, a^2 matrix products (rows: tiles, columns: output channels) follow, and
their results are transformed back.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from heddle import te
from heddle.ir import TensorType
from heddle.ir.expr import EQ, Expr, as_int, cast, compare, const, if_then_else
from heddle.op.attribute import Ints
from heddle.op.common import (
    accumulator_dtype,
    cast_tensor,
    ceil_div,
    require_ndim,
    require_same_dtype,
    require_shape,
    same_dim,
    show_shape,
    simplify_dim,
)
from heddle.op.registry import operator
from heddle.op.sample import case, floats
from heddle.op.toom_cook import Matrix, toom_cook
from heddle.op.window import Window, canonical_window, pad_tensor
from heddle.support import UserError


def _taps(u: Any, tile: int) -> int:
    """The size of the filter whose transform is `u`."""
    points = as_int(u.shape[1])
    if points is None or not same_dim(u.shape[1], u.shape[2]) or not 1 <= tile <= points:
        raise UserError(
            f"`u` of shape {show_shape(u.shape)} holds no filters transformed for tiles of {tile}"
        )
    return points - tile + 1


def _window(u: Any, tile: int, pads: Ints) -> Window:
    taps = _taps(u, tile)
    return Window.of((const(taps), const(taps)), (1, 1), pads, (1, 1))


@operator("winograd_conv2d_nchwc", kind="contraction", dtypes="float")
def winograd_conv2d_nchwc(
    x: TensorType,
    u: TensorType,
    bias: TensorType | None = None,
    *,
    tile: int,
    pads: Ints | None = None,
) -> TensorType:
    """`conv2d_nchwc` of stride one on x[N, Cb, H, W, ci], with filters u[Ob, a, a, Cb, ci, co]
    transformed for output tiles of `tile` x `tile` (r x r filters have a = tile + r - 1) and
    bias[Ob, co]: a result [N, Ob, H', W', co]. It rounds more than a direct convolution; see
    docs/design/winograd.md."""
    assert pads is not None
    require_same_dtype(x, u)
    require_ndim(x, "x", 5, 5)
    require_ndim(u, "u", 6, 6)
    window = _window(u, tile, pads)
    if not same_dim(x.shape[1], u.shape[3]) or not same_dim(x.shape[4], u.shape[4]):
        raise UserError(
            f"`x` of shape {show_shape(x.shape)} has not the channels that `u` of shape "
            f"{show_shape(u.shape)} takes"
        )
    if any(pad < 0 for pad in pads):
        raise UserError(f"attribute `pads` must not be negative, got {pads}")
    if bias is not None:
        require_shape(bias, "bias", [u.shape[0], u.shape[5]])
    spatial = window.output(x.shape[2:4])
    return TensorType((x.shape[0], u.shape[0], *spatial, u.shape[5]), x.dtype)


@winograd_conv2d_nchwc.rule("normalise")
def _(
    x: TensorType, u: TensorType, bias: TensorType | None, *, tile: int, pads: Ints | None
) -> dict[str, Any]:
    return {"tile": tile, "pads": canonical_window(2, None, pads, None)["pads"]}


@winograd_conv2d_nchwc.rule("compute")
def _(x: te.Tensor, u: te.Tensor, bias: te.Tensor | None, *, tile: int, pads: Ints) -> te.Tensor:
    window = _window(u, tile, pads)
    taps = _taps(u, tile)
    matrices, points = toom_cook(tile, taps), tile + taps - 1
    dtype = accumulator_dtype(x.dtype)
    n, blocks, *size, ci = x.shape
    spatial = window.output(size)
    rows, columns = (simplify_dim(ceil_div(extent, tile)) for extent in spatial)
    reach = [count * tile + (taps - 1) for count in (rows, columns)]
    padded = pad_tensor(x, _overhang(size, reach, window), const(0, x.dtype), first=2)

    def half(k: Expr, v: Expr, n: Expr, b: Expr, th: Expr, tw: Expr, c: Expr) -> Expr:
        pixels = [padded[n, b, th * tile + i, tw * tile + v, c] for i in range(points)]
        return _row(matrices.data, k, [cast(pixel, dtype) for pixel in pixels])

    def whole(k: Expr, v: Expr, b: Expr, n: Expr, th: Expr, tw: Expr, c: Expr) -> Expr:
        return _row(matrices.data, v, [lines[k, i, n, b, th, tw, c] for i in range(points)])

    lines = te.compute((points, points, n, blocks, rows, columns, ci), half, name="lines")
    data = te.compute((points, points, blocks, n, rows, columns, ci), whole, name="data")
    icb, ici = te.reduce_axis(blocks, "icb"), te.reduce_axis(ci, "ici")

    def product(k: Expr, v: Expr, ob: Expr, n: Expr, th: Expr, tw: Expr, oc: Expr) -> Expr:
        weight = cast(u[ob, k, v, icb, ici, oc], dtype)
        return te.sum(data[k, v, icb, n, th, tw, ici] * weight, axis=[icb, ici])

    products = te.compute(
        (points, points, u.shape[0], n, rows, columns, u.shape[5]), product, name="products"
    )

    def back(i: Expr, v: Expr, ob: Expr, n: Expr, th: Expr, tw: Expr, oc: Expr) -> Expr:
        return _row(matrices.output, i, [products[k, v, ob, n, th, tw, oc] for k in range(points)])

    shape = (tile, points, u.shape[0], n, rows, columns, u.shape[5])
    halves = te.compute(shape, back, name="halves")

    def element(n: Expr, ob: Expr, h: Expr, w: Expr, oc: Expr) -> Expr:
        at = (ob, n, h // tile, w // tile, oc)
        value = _row(matrices.output, w % tile, [halves[(h % tile, v, *at)] for v in range(points)])
        return value if bias is None else value + cast(bias[ob, oc], dtype)

    full = (n, u.shape[0], *spatial, u.shape[5])
    return cast_tensor(te.compute(full, element, name="winograd_conv2d_nchwc"), x.dtype)


def _overhang(size: Sequence[Expr], reach: Sequence[Expr], window: Window) -> list[tuple[int, int]]:
    """The padding with which the input is as large as the tiles reach."""
    found = []
    for dim, end, (before, after) in zip(size, reach, window.pads, strict=True):
        more = as_int(simplify_dim(end - dim - before))
        if more is None:
            raise UserError("winograd_conv2d_nchwc: the size of the image must be known")
        assert more >= after
        found.append((before, more))
    return found


def _row(matrix: Matrix, index: Expr, values: Sequence[Expr]) -> Expr:
    """Row `index` of the product of `matrix` and a vector. Where the index is known, after
    unrolling, one sum is left of it."""
    rows = [_combination(row, values) for row in matrix]
    chosen = rows[-1]
    for at in reversed(range(len(rows) - 1)):
        chosen = if_then_else(compare(EQ, index, at), rows[at], chosen)
    return chosen


def _combination(row: Sequence[Fraction], values: Sequence[Expr]) -> Expr:
    terms = [(number, value) for number, value in zip(row, values, strict=True) if number]
    terms.sort(key=lambda term: term[0] < 0)
    total: Expr | None = None
    for number, value in terms:
        size = abs(number)
        part = value if size == 1 else value * const(float(size), value.dtype)
        if total is None:
            total = part if number > 0 else const(0, value.dtype) - part
        else:
            total = total + part if number > 0 else total - part
    assert total is not None
    return total


@functools.cache
def _arrays(tile: int, taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A^T, G and B^T in float64."""
    made = toom_cook(tile, taps)
    parts = (made.output, made.weight, made.data)
    output, weight, data = (np.array(part, dtype=np.float64) for part in parts)
    return output, weight, data


def transform_weights(weight: np.ndarray, tile: int) -> np.ndarray:
    """Filters packed for `conv2d_nchwc`, [Ob, Ib, r, r, ci, co], as `winograd_conv2d_nchwc` takes
    them: G g G^T, computed in float64, [Ob, a, a, Ib, ci, co].

    >>> transform_weights(np.ones((1, 1, 3, 3, 1, 1), np.float32), 2)[0, :, :, 0, 0, 0].tolist()[0]
    [1.0, 1.5, 0.5, 1.0]
    """
    out, inner, taps, _, ci, co = weight.shape
    matrix = _arrays(tile, taps)[1]
    points = tile + taps - 1
    made = np.empty((out, points, points, inner, ci, co), weight.dtype)
    for at, filters in enumerate(weight):  # one block at a time: float64 copies stay small
        columns = filters.transpose(1, 2, 0, 3, 4).reshape(taps, taps, -1).astype(np.float64)
        half = np.tensordot(matrix, columns, axes=(1, 0))
        made[at] = np.matmul(matrix, half).reshape(points, points, inner, ci, co)
    return made


@winograd_conv2d_nchwc.rule("numpy")
def _(
    x: np.ndarray, u: np.ndarray, bias: np.ndarray | None, *, tile: int, pads: Ints
) -> np.ndarray:
    output, _, data = _arrays(tile, u.shape[1] - tile + 1)
    points = u.shape[1]
    height, width = (
        x.shape[2 + axis] + pads[axis] + pads[2 + axis] - (points - tile) for axis in (0, 1)
    )
    rows, columns = -(-height // tile), -(-width // tile)
    n, blocks, h, w, c = x.shape
    reach = (n, blocks, rows * tile + points - tile, columns * tile + points - tile, c)
    padded = np.zeros(reach, np.float64)
    padded[:, :, pads[0] : pads[0] + h, pads[1] : pads[1] + w] = x
    windows = np.lib.stride_tricks.sliding_window_view(padded, (points, points), axis=(2, 3))
    tiles = windows[:, :, ::tile, ::tile]  # [n, b, th, tw, c, i, j]
    v = np.einsum("ki,lj,nbtscij->klnbtsc", data, data, tiles, optimize=True)
    products = np.einsum("klnbtsc,oklbcd->klnotsd", v, u.astype(np.float64), optimize=True)
    y = np.einsum("ik,jl,klnotsd->notisjd", output, output, products, optimize=True)
    y = y.reshape(n, u.shape[0], rows * tile, columns * tile, -1)[:, :, :height, :width]
    if bias is not None:
        y = y + bias[:, None, None, :]
    result: np.ndarray = y.astype(x.dtype)
    return result


winograd_conv2d_nchwc.samples(
    case(floats(1, 2, 5, 6, 3), floats(2, 4, 4, 2, 3, 4), tile=2, pads=(1, 1, 1, 1)),
    case(floats(2, 1, 6, 4, 4), floats(1, 6, 6, 1, 4, 4), floats(1, 4), tile=4),
    case(floats(1, 1, 7, 7, 2), floats(1, 8, 8, 1, 2, 4), tile=6, pads=(1, 1, 1, 1)),
)
