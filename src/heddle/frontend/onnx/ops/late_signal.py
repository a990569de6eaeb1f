# SPDX-License-Identifier: Apache-2.0
"""Fourier transforms and grids whose sizes are symbolic or known at run time only.

A transform of n points is a product with a matrix that is computed where it is used: n^2 steps.
Angles are whole multiples of 2 pi / n, reduced in integers, so that they are exact for any n.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from heddle.frontend.onnx.node import Node, dtype, shape
from heddle.frontend.onnx.ops.computed import filled_axis
from heddle.frontend.onnx.sizes import dimension_as_scalar, size_of
from heddle.graph import Constant, GraphExpr
from heddle.graph.dims import same_dim
from heddle.ir.expr import Expr, as_expr, as_int, const, floordiv
from heddle.support import UserError

_Parts = tuple[GraphExpr, GraphExpr | None]


def _whole(value: int) -> Constant:
    return Constant(np.asarray(value, np.int64))


def _plain(size: Expr) -> Any:
    known = as_int(size)
    return size if known is None else known


def resized(node: Node, x: GraphExpr, axis: int, length: Any) -> GraphExpr:
    """x cut or filled with zeros to `length` along an axis."""
    own = shape(x)[axis]
    if same_dim(as_expr(own), as_expr(length)):
        return x
    places = node.op.range(count=length, dtype="int64")
    have = dimension_as_scalar(node, own)
    return filled_axis(node, x, axis, places, have, "constant", node.scalar(0, x), _whole(0))


def half(length: Any) -> Any:
    """The number of frequencies of a real signal."""
    return _plain(floordiv(as_expr(length), const(2)) + 1)


def _waves(
    node: Node, rows: Any, columns: Any, length: Any, kind: Any
) -> tuple[GraphExpr, GraphExpr]:
    """Cosines and sines of 2 pi r c / length, [rows, columns]."""
    row = node.reshape(node.op.range(count=rows, dtype="int64"), (rows, 1))
    column = node.op.range(count=columns, dtype="int64")
    whole = dimension_as_scalar(node, length)
    step = node.op.floor_mod(node.op.mul(row, column), whole)
    turn = node.op.div(node.cast(step, "float64"), node.cast(whole, "float64"))
    angle = node.op.mul(turn, Constant(np.asarray(2 * np.pi)))
    return node.cast(node.op.cos(angle), kind), node.cast(node.op.sin(angle), kind)


def transform(
    node: Node, parts: _Parts, length: Any, *, inverse: bool, onesided: bool
) -> list[GraphExpr]:
    """The discrete Fourier transform of the last axis, real and imaginary part."""
    real, imaginary = parts
    kind = dtype(real)
    wide = kind if kind.bits > 16 else "float32"
    cosine, sine = _waves(node, length, half(length) if onesided else length, length, wide)
    if inverse:
        sine = node.op.negative(sine)
    a = node.cast(real, wide)
    first, second = node.op.matmul(a, cosine), node.op.negative(node.op.matmul(a, sine))
    if imaginary is not None:
        b = node.cast(imaginary, wide)
        first = node.op.add(first, node.op.matmul(b, sine))
        second = node.op.add(second, node.op.matmul(b, cosine))
    if inverse:
        count = node.cast(dimension_as_scalar(node, length), dtype(first))
        first, second = node.op.div(first, count), node.op.div(second, count)
    return [node.cast(first, kind), node.cast(second, kind)]


def inverse_real(node: Node, parts: _Parts, length: Any) -> GraphExpr:
    """A real signal of `length` points from the half of its spectrum in the last axis. Each
    frequency counts twice, but 0 and, of an even length, the last."""
    real, imaginary = parts
    kind = dtype(real)
    wide = kind if kind.bits > 16 else "float32"
    count = half(length)
    cosine, sine = _waves(node, count, length, length, wide)
    place = node.op.range(count=count, dtype="int64")
    twice = node.op.mul(place, _whole(2))
    whole = dimension_as_scalar(node, length)
    once = node.op.logical_or(node.op.equal(place, _whole(0)), node.op.equal(twice, whole))
    one, two = (Constant(np.asarray(number)) for number in (1.0, 2.0))
    weight = node.op.div(node.op.where(once, one, two), node.cast(whole, "float64"))
    weight = node.cast(weight, wide)
    found = node.op.matmul(node.op.mul(node.cast(real, wide), weight), cosine)
    if imaginary is not None:
        rest = node.op.matmul(node.op.mul(node.cast(imaginary, wide), weight), sine)
        found = node.op.sub(found, rest)
    return node.cast(found, kind)


def frames(node: Node, signal: GraphExpr, length: Any) -> GraphExpr:
    """Pieces of `length` every so many points (input 1) of signal[batch, points, ...]:
    [batch, frames, length, ...]. A step that is not positive, or a length that the signal does not
    have, makes -1 frames."""
    size = shape(signal)[1]
    step = node.reshape(node.cast(node.tensor(1), "int64"), ())
    room = node.op.sub(dimension_as_scalar(node, size), dimension_as_scalar(node, length))
    count = node.op.div(room, node.op.maximum(step, _whole(1)))
    right = node.op.logical_and(
        node.op.greater(step, _whole(0)), node.op.greater_equal(room, _whole(0))
    )
    count = node.op.where(right, node.op.add(count, _whole(1)), _whole(-1))
    number = _plain(node.bind_dim(count, as_expr(size)))
    first = node.op.mul(node.op.range(count=number, dtype="int64"), step)
    index = node.op.add(
        node.reshape(first, (number, 1)), node.op.range(count=length, dtype="int64")
    )
    return node.op.gather(signal, index, axis=1)  # type: ignore[no-any-return]


def frame_length(node: Node, signal: GraphExpr, window: GraphExpr | None) -> Any:
    """Of a transform in pieces: what is given, that of the window, or the whole signal."""
    if not node.has(3):
        return shape(signal)[1] if window is None else shape(window)[0]
    held = node.value(3)
    size = as_expr(shape(signal)[1])
    if isinstance(held, Constant):
        return node.integer(3, "frame_length")
    # No piece is longer than the signal.
    whole = node.reshape(node.cast(node.as_tensor(held), "int64"), ())
    return _plain(node.bind_dim(whole, size))


def affine_grid(node: Node) -> GraphExpr:
    """theta[N, r, r + 1] applied to the places [-1, 1]^r of a grid of computed sizes."""
    theta = node.tensor(0)
    count = shape(theta)[1]
    if count not in (2, 3):
        raise UserError(f"`theta` has {count} rows, expected 2 or 3")
    sizes = [size_of(node, node.value(1), at, "size") for at in range(2, 2 + count)]
    places = []
    for axis, size in enumerate(sizes):
        end = node.cast(dimension_as_scalar(node, size), "float64")
        place = node.cast(node.op.range(count=size, dtype="int64"), "float64")
        twice = node.op.mul(place, Constant(np.asarray(2.0)))
        if node.attr.flag("align_corners"):
            last = node.op.sub(end, Constant(np.asarray(1.0)))
            divisor = node.op.maximum(last, Constant(np.asarray(1.0)))
            low = node.op.where(
                node.op.greater(last, Constant(np.asarray(0.0))),
                Constant(np.asarray(-1.0)),
                Constant(np.asarray(0.0)),
            )
            along = node.op.add(node.op.div(twice, divisor), low)
        else:
            middle = node.op.add(twice, Constant(np.asarray(1.0)))
            along = node.op.sub(node.op.div(middle, end), Constant(np.asarray(1.0)))
        around = [size if a == axis else 1 for a in range(count)]
        wide = node.op.broadcast_to(node.reshape(along, around), shape=tuple(sizes))
        places.append(node.reshape(wide, (*sizes, 1)))
    one = node.op.broadcast_to(Constant(np.asarray(1.0)), shape=(*sizes, 1))
    joined = node.op.concat(*places[::-1], one, axis=count)
    total = as_expr(1)
    for size in sizes:
        total = total * as_expr(size)
    rows = node.reshape(node.cast(joined, dtype(theta)), (1, _plain(total), count + 1))
    flat = node.op.matmul(rows, theta, transpose_b=True)
    return node.reshape(flat, (shape(theta)[0], *sizes, count))
