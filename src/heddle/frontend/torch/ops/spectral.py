# SPDX-License-Identifier: Apache-2.0
"""Fourier transforms: what `torch.fft` and `torch.stft` are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from heddle.frontend.fourier import LIMIT, Parts, inverse_real, largest_factor, transform
from heddle.frontend.torch.node import Node, dtype, normal_axis, rank, shape
from heddle.frontend.torch.ops.views import transposed
from heddle.frontend.torch.parts import Complex, as_complex, component
from heddle.frontend.torch.registry import converts_complex
from heddle.frontend.torch.report import Unsupported
from heddle.graph import GraphExpr
from heddle.ir.expr import Expr


def _scale(normalization: int, length: int) -> float:
    """What an axis of `length` is multiplied by: nothing, 1 / sqrt(n) or 1 / n."""
    return (1.0, 1.0 / math.sqrt(length), 1.0 / length)[normalization]


def _checked(size: int) -> int:
    if largest_factor(size) > LIMIT:
        raise Unsupported(f"a Fourier transform of {size} points, of a prime factor over {LIMIT}")
    return size


def _at_end(node: Node, x: Complex, axis: int) -> Parts:
    """The parts with `axis` moved to the end."""
    order = [a for a in range(rank(x.real)) if a != axis] + [axis]
    imaginary = None if x.imaginary is None else transposed(node, x.imaginary, order)
    return transposed(node, x.real, order), imaginary


def _home(node: Node, x: GraphExpr, axis: int) -> GraphExpr:
    """The last axis moved back to `axis`."""
    order = list(range(rank(x) - 1))
    order.insert(axis, rank(x) - 1)
    return transposed(node, x, order)


def _along(
    node: Node, x: Complex, axis: int, normalization: int, *, inverse: bool, half: bool = False
) -> Complex:
    """The transform along one axis; half: only the first n // 2 + 1 values."""
    length = shape(x.real)[axis]
    if isinstance(length, Expr):
        return _along_symbolic(node, x, axis, normalization, inverse=inverse, half=half)
    _checked(length)
    found = transform(
        node,
        _at_end(node, x, axis),
        length,
        count=length // 2 + 1 if half else None,
        inverse=inverse,
        scale=_scale(normalization, length),
    )
    return Complex(*(_home(node, part, axis) for part in found))


def _along_symbolic(
    node: Node, x: Complex, axis: int, normalization: int, *, inverse: bool, half: bool
) -> Complex:
    """The transform of n points, n known at run time: one product with a matrix."""
    length = shape(x.real)[axis]
    count = length // 2 + 1 if half else length
    cosine, sine = _waves(node, x.real, length, length, count, normalization)
    sine = sine if inverse else node.op.negative(sine)
    real, imaginary = _at_end(node, x, axis)
    first, second = node.op.matmul(real, cosine), node.op.matmul(real, sine)
    if imaginary is not None:
        first = node.op.sub(first, node.op.matmul(imaginary, sine))
        second = node.op.add(second, node.op.matmul(imaginary, cosine))
    return Complex(_home(node, first, axis), _home(node, second, axis))


def _waves(
    node: Node, like: GraphExpr, length: Any, rows: Any, columns: Any, normalization: int
) -> tuple[GraphExpr, GraphExpr]:
    """cos and sin of 2 pi j k / n for row j and column k, times the scale: from a table of n
    values in float64, as the angles of large products would lose digits."""
    size = node.tensor(length, "int64")
    row = node.op.unsqueeze(node.op.range(count=rows, dtype="int64"), axes=(1,))
    turns = node.op.mul(row, node.op.range(count=columns, dtype="int64"))
    place = node.op.floor_mod(turns, size)
    points = node.cast(size, "float64")
    scale = node.tensor(1.0, "float64")
    if normalization:
        scale = node.op.rsqrt(points) if normalization == 1 else node.op.reciprocal(points)
    angle = node.op.range(count=length, dtype="float64")
    angle = node.op.div(node.op.mul(angle, 2 * math.pi), points)

    def wave(name: str) -> GraphExpr:
        table = node.op.mul(node.call(name, angle), scale)
        return node.op.gather(node.cast(table, dtype(like)), place, axis=0)  # type: ignore[no-any-return]

    return wave("cos"), wave("sin")


def _real_symbolic(node: Node, x: Complex, axis: int, total: Any, normalization: int) -> GraphExpr:
    """The real signal of `total` points from the first half of its spectrum: what is not at 0 or
    n / 2 counts twice."""
    count = shape(x.real)[axis]
    cosine, sine = _waves(node, x.real, total, count, total, normalization)
    place = node.op.range(count=count, dtype="int64")
    once = node.op.logical_or(
        node.op.equal(place, 0),
        node.op.equal(node.op.mul(place, 2), node.tensor(total, "int64")),
    )
    weight = node.op.where(once, node.scalar(1.0, x.real), node.scalar(2.0, x.real))
    weight = node.op.unsqueeze(weight, axes=(1,))
    real, imaginary = _at_end(node, x, axis)
    result = node.op.matmul(real, node.op.mul(cosine, weight))
    if imaginary is not None:
        result = node.op.sub(result, node.op.matmul(imaginary, node.op.mul(sine, weight)))
    return _home(node, result, axis)


def _axes(x: Complex, dims: Sequence[int]) -> list[int]:
    return [normal_axis(axis, rank(x.real)) for axis in dims]


@converts_complex("aten._fft_c2c.default")
def _complex_to_complex(
    node: Node, x: Complex, dim: Sequence[int], normalization: int, forward: bool
) -> Any:
    for axis in _axes(x, dim):
        x = _along(node, x, axis, normalization, inverse=not forward)
    return x


@converts_complex("aten._fft_r2c.default")
def _real_to_complex(
    node: Node, x: GraphExpr, dim: Sequence[int], normalization: int, onesided: bool
) -> Any:
    value = as_complex(node, x, component(node.result.dtype))
    *others, last = _axes(value, dim)
    value = _along(node, value, last, normalization, inverse=False, half=onesided)
    for axis in others:
        value = _along(node, value, axis, normalization, inverse=False)
    return value


@converts_complex("aten._fft_c2r.default")
def _complex_to_real(
    node: Node, x: Complex, dim: Sequence[int], normalization: int, last_dim_size: Any
) -> Any:
    *others, last = _axes(x, dim)
    for axis in others:
        x = _along(node, x, axis, normalization, inverse=True)
    count = shape(x.real)[last]
    if isinstance(last_dim_size, Expr) or isinstance(count, Expr):
        return _real_symbolic(node, x, last, last_dim_size, normalization)
    total = _checked(last_dim_size)
    if count != total // 2 + 1:
        raise Unsupported(f"{count} values of the spectrum of a signal of {total}")
    real = inverse_real(node, _at_end(node, x, last), total, scale=_scale(normalization, total))
    return _home(node, real, last)
